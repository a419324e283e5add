"""What a training step costs. By hand: python tests/benchmarks/training.py [--device cuda]

The arms of training_arms.py take turns in one process, in alternating order, so that other load on
the machine falls on all alike. Peak memory comes from a fresh process per arm. A run is appended to
data/results/training.json; rows that this machine cannot run stay there as "not measured".

Model FLOP utilisation is `plan.flops` without recomputing, times tokens a second, over the card's
peak, which --card-tflops gives (an H100 or H200: 989 in dense bf16).
"""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# read at a process's start, so in the fresh ones: freed tensors go back to the system at once
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_arms import ARMS, ROWS, Bench, peak_memory, row_profile, write_model

from ddpo_utils.evaluation.statistics import mean_interval
from ddpo_utils.settings import CourseError, data_dir, work_dir
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.training.plan import architecture, flops, reference_ratio
from ddpo_utils.training.run_folder import run_facts

EPOCHS = 3
COMMAND = "python tests/benchmarks/training.py"


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def time_arms(bench: Bench, turns: int) -> dict[str, np.ndarray]:
    """Seconds a pair (turns, 2), on the clock and of the processor, of each arm and reference."""
    tasks: dict[str, Callable[[], tuple[float, float]]] = {"reference": bench.reference}
    for arm in ARMS:
        tasks[arm] = partial(bench.step, arm)
    for task in tasks.values():  # loading, compiling, first allocations
        task()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    order = list(tasks)
    for turn in range(turns):
        for name in order:
            times[name].append(tasks[name]())
        order.reverse()
        print(f"turn {turn + 1} of {turns}: {times[order[0]][-1]}", flush=True)
    return {name: np.array(values) for name, values in times.items()}


def ratios(times: dict[str, np.ndarray], checkpointing: bool) -> dict[str, Any]:
    """The comparisons: geometric mean of a ratio a turn with its 95% interval, and the target."""
    epochs = EPOCHS * times["ddpo, precomputed"] + times["reference"]
    looped = EPOCHS * times["ddpo, in the loop"]
    compared = {
        "ddpo / trl, precomputed": times["ddpo, precomputed"] / times["trl, precomputed"],
        "ddpo / trl, in the loop": times["ddpo, in the loop"] / times["trl, in the loop"],
        f"precomputed / in the loop, {EPOCHS} epochs": epochs / looped,
    }
    results: dict[str, Any] = {}
    for name, values in compared.items():
        results[name] = {"target": "at most 1.01"}
        for column, kind in enumerate(("clock", "processor")):
            interval = mean_interval(np.log(values[:, column]))
            ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
            results[name][kind] = {end: round(float(np.exp(x)), 4) for end, x in ends.items()}
    results[name] |= {
        "formula": round(reference_ratio(EPOCHS, checkpointing), 3),
        "target": "within 5% of the formula",
    }
    return results


def measure(name: str, folder: Path, card: float | None) -> dict[str, Any]:
    """One run of a row, as it is recorded; `card` is the card's peak in FLOP/s.

    Raises:
        CourseError: a part is missing (bitsandbytes), or the GPU's memory does not suffice.
    """
    row = ROWS[name]
    profile = row_profile(row, folder)
    print(f"{name}: {row.what}; {profile.dtype}", flush=True)
    fresh(write_model, row, folder)
    peaks = {arm: fresh(peak_memory, name, folder, arm) for arm in ARMS}
    bench = Bench(row, profile)
    times = time_arms(bench, row.turns)
    model, tokens = architecture(profile), 2 * profile.max_length
    arms = {}
    for arm, (_, precomputed) in ARMS.items():
        seconds, processor = np.median(times[arm], axis=0).tolist()
        useful = replace(profile, precompute_reference=precomputed, gradient_checkpointing=False)
        rate = flops(useful)[0] * tokens / seconds
        arms[arm] = {
            "seconds_a_pair": round(seconds, 4),
            "processor_seconds_a_pair": round(processor, 4),
            "tokens_a_second": round(tokens / seconds, 1),
            "model_flops_a_second": float(f"{rate:.4g}"),
            "model_flop_utilisation": round(rate / card, 4) if card else None,
            "peak_bytes": peaks[arm],
        }
    trained = [p.numel() for p in bench.trainer(True)[0].model.parameters() if p.requires_grad]
    return run_facts(
        profile,
        command=f"{COMMAND} --rows {name}",
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        parameters={"multiplied": model.multiplied, "trained": sum(trained)},
        turns=row.turns,
        card_flops_a_second=card,
        arms=arms,
        time=ratios(times, profile.gradient_checkpointing),
    )


def main(arguments: list[str] | None = None, path: Path | None = None) -> None:
    """Measure the rows that this machine can run, and write the record after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="default: those of the device")
    parser.add_argument("--card-tflops", type=float, help="the GPU's peak, for the utilisation")
    args = parser.parse_args(arguments)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first used
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device not in ("auto", device):
        parser.error("torch sees no GPU here: the rows that need one stay 'not measured'.")
    path = path or data_dir() / "results" / "training.json"
    record = read_json(path) if path.is_file() else {"benchmark": COMMAND, "rows": {}}
    for name, row in ROWS.items():
        if row.device != "any":
            command = f"{COMMAND} --device {row.device}"
            new = {"what": row.what, "status": "not measured", "command": command, "runs": []}
            record["rows"].setdefault(name, new)
    for name in args.rows or [name for name, row in ROWS.items() if row.device == device]:
        row, entry = ROWS[name], record["rows"].setdefault(name, {"runs": []})
        try:
            if row.device not in (device, "any"):
                raise CourseError(f"it needs --device {row.device}")
            card = 1e12 * args.card_tflops if args.card_tflops else None
            entry["runs"].append(measure(name, work_dir("benchmark") / row.model, card))
            entry["status"] = "measured"
            print(entry["runs"][-1]["time"])
        except (CourseError, torch.cuda.OutOfMemoryError) as error:
            print(f"{name}: not measured: {str(error).splitlines()[0]}")
        write_json(path, record)


if __name__ == "__main__":
    main()
