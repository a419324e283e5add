"""What does a training step cost? Run it by hand: python tests/benchmarks/training.py [--device cuda] [--rows 8b-lora]

For each row (a model with random weights of an exact architecture: speed and memory do not depend on the values) the
arms of training_arms.py take turns in one process, in alternating order, so that other load on the machine falls on
all alike: DDPOTrainer beside TRL's unmodified DPOTrainer on the same pairs with the same arguments, the reference's
log-probs precomputed or its frozen adapter run beside the policy for each batch. The latter is how the paper's
authors arrange it; that their trainer also builds whole logits is not repeated here. Peak memory comes from a fresh
process per arm. The result is appended to data/results/training.json; rows that this machine cannot run stay there as
"not measured", with the command that fills them. Not collected by pytest: a test asserts no times.

The formula (`ddpo_utils.training.plan.flops`), in FLOPs a token with N the parameters that a token is multiplied with:
forward 2N; gradients of the activations 2N; LoRA's own gradients, under 1% of these, left out; recomputing with
checkpointing 2N; the reference's forward 2N. A reference that is computed once and read for E epochs costs 2N/E an
epoch, so its time is that of the reference in the loop times (4 + 2/3) / 6 = 0.78 for E = 3, and with checkpointing
(6 + 2/3) / 8 = 0.83 (`ddpo_utils.training.plan.reference_ratio`). `with_head` adds what TRL's fused head does besides.

Model FLOP utilisation is those FLOPs times tokens a second over the peak of the card, without the recomputing: what
is computed twice counts once. On a CPU the peak is that of a matrix product in the same run, and named so.
"""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# glibc reads it at a process's start, so in the fresh ones alone: tensors go back to the system as soon as they are
# free, and the resident peak is that of what is in use
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_arms import ARMS, ROWS, Bench, number_name, peak_memory, row_profile, write_model

from ddpo_utils.evaluation.statistics import mean_interval
from ddpo_utils.models.policy import default_device
from ddpo_utils.settings import CourseError, data_dir, work_dir
from ddpo_utils.training.plan import architecture, flops, reference_ratio
from ddpo_utils.training.runs import run_facts, write_json

EPOCHS = 3
SEED = 0
COMMAND = "python tests/benchmarks/training.py"
MEMORY_RUNS = {
    "cuda": 1,
    "cpu": 2,
}  # fresh processes an arm: resident memory differs a little from one to the next

# Dense bf16 tensor TFLOP/s (T4: fp16), from NVIDIA's data sheets of these cards; those print twice as much "with
# sparsity". The first entry whose words all stand in the device's name counts.
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "T4": 65,
}


def with_head(head: float, epochs: int = EPOCHS) -> float:
    """The formula's ratio without checkpointing, counting that the backward pass of TRL's fused head computes the
    logits anew, 2 `head` N; `head` is the output head's share of N."""
    return (epochs * (4 + 2 * head) + 2) / (epochs * (6 + 2 * head))


def card_peak(name: str) -> float | None:
    """Peak FLOP/s of a card by its name; None if it is not in the table or only a part of a card."""
    words = set(name.replace("-", " ").split())
    found = [peak for card, peak in PEAKS.items() if set(card.split()) <= words]
    return 1e12 * found[0] if found and "MIG" not in words else None


def matmul_peak(dtype: str) -> float:
    """FLOP/s of a square matrix product in this type on this device, the best of ten."""
    device, side = default_device(), 1024 if default_device() == "cpu" else 8192
    a, b = (torch.ones(side, side, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    times = []
    for _ in range(10):
        (a @ b)[0, 0].item()
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result in a process of its own, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def interval(ratios: np.ndarray) -> dict[str, float]:
    """Geometric mean of one ratio a turn, with its 95% t interval."""
    mean = mean_interval(np.log(ratios))
    return {key: round(float(np.exp(getattr(mean, key))), 4) for key in ("mean", "low", "high")}


def time_arms(bench: Bench, turns: int) -> tuple[dict[str, np.ndarray], float]:
    """Seconds a pair, (turns, 2): on the clock and of the processor; for each arm and for the reference alone. And
    the machine's mean load, 1 where nothing but this process runs."""
    tasks = {arm: lambda arm=arm: bench.step(arm) for arm in ARMS} | {"reference": bench.reference}
    for task in tasks.values():  # loading, compiling, first allocations
        task()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    loads = []
    for turn in range(turns):
        loads.append(os.getloadavg()[0])
        print(f"  turn {turn + 1} of {turns}, load {loads[-1]:.1f}:", end="", flush=True)
        for name in list(tasks)[:: -1 if turn % 2 else 1]:
            times[name].append(tasks[name]())
            print(f" {name} {times[name][-1][0]:.2f} s;", end="", flush=True)
        print()
    return {name: np.array(values) for name, values in times.items()}, round(
        float(np.mean(loads)), 1
    )


def ratios(times: dict[str, np.ndarray], checkpointing: bool, head: float) -> dict[str, Any]:
    """The comparisons, each with the time on the clock and, on a CPU, the processor's, which other load does not
    stretch; and the target it is held against."""
    epochs = EPOCHS * times["ddpo, precomputed"] + times["reference"]
    compared = {
        "ddpo / trl, precomputed": times["ddpo, precomputed"] / times["trl, precomputed"],
        "ddpo / trl, in the loop": times["ddpo, in the loop"] / times["trl, in the loop"],
        f"precomputed / in the loop, {EPOCHS} epochs": epochs
        / (EPOCHS * times["ddpo, in the loop"]),
    }
    kinds = ["clock"] if torch.cuda.is_available() else ["clock", "processor"]
    out: dict[str, Any] = {
        name: {kind: interval(values[:, i]) for i, kind in enumerate(kinds)}
        for name, values in compared.items()
    }
    for name in list(out)[:2]:
        out[name]["target"] = "at most 1.01"
    exact = reference_ratio(EPOCHS, checkpointing)
    out[list(out)[2]] |= {
        "formula": round(exact, 3),
        "formula_with_head": round(exact if checkpointing else with_head(head), 3),
        "target": "within 5% of the formula",
    }
    return out


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One run of a row, as it goes into the record.

    Raises:
        CourseError: a part is missing (bitsandbytes), or the GPU's memory does not suffice.
    """
    row, dtype = ROWS[name], number_name()
    profile = row_profile(row, folder, dtype)
    checkpointing = profile.gradient_checkpointing
    print(f"{name}: {row.what}; {dtype}", flush=True)
    fresh(write_model, row, folder, dtype, SEED)
    runs = MEMORY_RUNS["cuda" if torch.cuda.is_available() else "cpu"]
    peaks = {
        arm: [fresh(peak_memory, name, folder, dtype, arm) for _ in range(runs)] for arm in ARMS
    }
    for arm, values in peaks.items():
        print(
            f"  peak memory, {arm}: {', '.join(f'{(v or 0) / 2**20:,.0f} MiB' for v in values)}",
            flush=True,
        )
    bench = Bench(row, profile)
    times, load = time_arms(bench, row.turns)
    product, card = matmul_peak(dtype), None
    if torch.cuda.is_available():
        card = card_peak(torch.cuda.get_device_name())
    model, tokens = architecture(profile), 2 * profile.max_length
    head = model.vocabulary * model.width
    arms = {}
    for arm, (_, precomputed) in ARMS.items():
        seconds, processor = np.median(times[arm], axis=0).tolist()
        useful, done = (
            flops(replace(profile, precompute_reference=precomputed, gradient_checkpointing=again))[
                0
            ]
            * tokens
            / seconds
            for again in (False, checkpointing)
        )
        arms[arm] = {
            "seconds_a_pair": round(seconds, 4),
            "processor_seconds_a_pair": round(processor, 4),
            "tokens_a_second": round(tokens / seconds, 1),
            "model_flops_a_second": float(f"{useful:.4g}"),
            "model_flop_utilisation": round(useful / card, 4) if card else None,
            "share_of_matmul": round(useful / product, 4),
            "share_of_matmul_with_recomputing": round(done / product, 4),
            "peak_bytes": peaks[arm],
        }
    trained = sum(p.numel() for p in bench.trainer(True)[0].model.parameters() if p.requires_grad)
    parameters = {"multiplied": model.multiplied, "head": head, "trained": trained}
    low = {
        arm: min(v for v in values if v) if all(values) else None for arm, values in peaks.items()
    }
    memory = {
        f"ddpo / trl, {kind}": round(low[f"ddpo, {kind}"] / low[f"trl, {kind}"], 4)
        if all(low.values())
        else None
        for kind in ("precomputed", "in the loop")
    }
    return run_facts(
        profile,
        command=f"{COMMAND} --rows {name}",
        seed=SEED,
        threads=torch.get_num_threads(),
        number_type=dtype,
        cpu=torch.backends.cpu.get_cpu_capability(),
        parameters=parameters,
        tokens_a_pair=tokens,
        pairs_a_step=profile.batch_size,
        steps_a_turn=row.steps,
        turns=row.turns,
        load=load,
        peak={"matmul_flops_a_second": float(f"{product:.4g}"), "card_flops_a_second": card},
        arms=arms,
        reference_seconds_a_pair=round(float(np.median(times["reference"][:, 0])), 4),
        time=ratios(times, checkpointing, head / model.multiplied),
        memory=memory | {"target": "at most 1"},
    )


def read(path: Path) -> dict[str, Any]:
    """The record so far, with a "not measured" line for every row that it does not have."""
    known = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
    for name, row in ROWS.items():
        if row.device != "any":
            command = f"{COMMAND} --device {row.device}"
            known.setdefault(
                name, {"what": row.what, "status": "not measured", "command": command, "runs": []}
            )
    return {
        "benchmark": "tests/benchmarks/training.py, whose docstring states the formula",
        "rows": known,
    }


def main(
    argv: list[str] | None = None, path: Path | None = None, folder: Path | None = None
) -> None:
    """Measure the rows that this machine can run, and write the record after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="those of the device unless told")
    args = parser.parse_args(argv)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            ""  # read when CUDA is first used, here and in the fresh processes
        )
    os.environ.pop("DDPO_MODEL", None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device not in ("auto", device):
        parser.error("torch sees no GPU here: the rows that need one stay 'not measured'.")
    path, folder = path or data_dir() / "results" / "training.json", folder or work_dir("benchmark")
    record = read(path)
    write_json(path, record)
    for name in args.rows or [name for name, row in ROWS.items() if row.device == device]:
        row = ROWS[name]
        if row.device not in (device, "any"):
            print(f"{name}: not measured, it needs --device {row.device}")
            continue
        entry = record["rows"].setdefault(
            name, {"what": row.what, "command": f"{COMMAND} --rows {name}", "runs": []}
        )
        try:
            entry["runs"].append(measure(name, folder / row.model))
            entry["status"] = "measured"
            entry.pop("reason", None)
        except (CourseError, torch.cuda.OutOfMemoryError) as error:
            entry.setdefault("status", "not measured")
            entry["reason"] = str(error).splitlines()[0]
            print(f"{name}: not measured: {entry['reason']}")
        write_json(path, record)
        for what, values in entry["runs"][-1]["time"].items() if entry["runs"] else ():
            print(f"  {what}: {values}")


if __name__ == "__main__":
    main()
