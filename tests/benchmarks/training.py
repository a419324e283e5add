"""What a training step costs. By hand: python tests/benchmarks/training.py [--device cuda]

DDPOTrainer and TRL's DPOTrainer train a random model, with the reference precomputed or in the
loop. The arms take turns in one process, in alternating order, so that other load on the machine
falls on all alike; DDPO should take at most 1.01 times TRL's time. Peak memory comes from a fresh
process per trainer. A run is appended to data/results/training.json; rows that this machine cannot
run stay there as "not measured".

Model FLOP utilisation is `plan.flops` without recomputing, times tokens a second, over the card's
peak, which --card-tflops gives (an H100 or H200: 989 in dense bf16).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# read at a process's start, so in the fresh ones: freed tensors go back to the system at once
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from memory import status  # with its settings of the environment

from ddpo_utils import load_stories
from ddpo_utils.evaluation.statistics import mean_interval
from ddpo_utils.models.policy import choose_dtype, default_device, load_policy, lora_config
from ddpo_utils.settings import CourseError, Profile, data_dir, get_profile, work_dir
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.training.one_arm import to_dataset, trainer_arguments
from ddpo_utils.training.plan import KNOWN, Architecture, flops
from ddpo_utils.training.reference import add_reference
from ddpo_utils.training.run_folder import run_facts

EPOCHS = 3
COMMAND = "python tests/benchmarks/training.py"
# name -> (DDPOTrainer or TRL's, reference precomputed or in the loop)
ARMS = {
    "ddpo, precomputed": (True, True),
    "trl, precomputed": (False, True),
    "ddpo, in the loop": (True, False),
    "trl, in the loop": (False, False),
}
MODELS = {
    "llama-3.1-8b": KNOWN["Llama-3.1-8B"],
    "smollm2-135m": KNOWN["SmolLM2-135M"],
    "tiny": Architecture(2, 64, 128, 4, 2, 16, 300, False),
}
# LoRA as large beside a width of 576 as r 128 is beside 4,096
SMALL = {"lora_r": 16, "lora_alpha": 32, "max_length": 128, "batch_size": 1}
STORED = {"gradient_checkpointing": False}
TINY = STORED | {"lora_r": 2, "lora_alpha": 4, "max_length": 128}
CHAT = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"


@dataclass(frozen=True)
class Row:
    """One row of the record: a model, where it runs, and what differs from the profile `8b`."""

    what: str
    model: str
    device: str
    settings: dict[str, Any] = field(default_factory=dict)
    turns: int = 4
    steps: int = 3  # a turn


ROWS = {
    "8b-lora": Row("Llama-3.1-8B, LoRA r 128, checkpointing", "llama-3.1-8b", "cuda"),
    "8b-lora-stored": Row("the same, activations stored", "llama-3.1-8b", "cuda", STORED),
    "8b-qlora": Row("8b-lora in nf4 (QLoRA)", "llama-3.1-8b", "cuda", {"quantize": True}),
    "135m-lora": Row("SmolLM2-135M, LoRA r 16", "smollm2-135m", "cpu", SMALL | STORED, 16, 1),
    "135m-lora-checkpointing": Row("with checkpointing", "smollm2-135m", "cpu", SMALL, 16, 1),
    "tiny": Row("two layers of width 64: a test of the benchmark", "tiny", "any", TINY, 2, 2),
}


def row_profile(row: Row, folder: Path) -> Profile:
    """The profile `8b` with the row's settings on the model in `folder`, 2 pairs a step."""
    dtype = str(choose_dtype(default_device())).removeprefix("torch.")
    settings = {"model": str(folder), "tokenizer": str(folder), "dtype": dtype, "data": "bundled"}
    settings |= {"epochs": 1, "steps": 0, "batch_size": 2}
    return get_profile("8b", **settings | row.settings)


def write_model(row: Row, folder: Path) -> None:
    """A random model, a tokenizer of one token a byte, and an adapter; a folder there is kept.

    Speed and memory do not depend on the weights' values.
    """
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, ByT5Tokenizer, LlamaConfig

    if folder.is_dir():
        return
    part = folder.with_name(folder.name + ".part")
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(part)
    torch.manual_seed(0)
    known = MODELS[row.model]
    config = LlamaConfig(
        vocab_size=known.vocabulary,
        hidden_size=known.width,
        intermediate_size=known.inner,
        num_hidden_layers=known.layers,
        num_attention_heads=known.heads,
        num_key_value_heads=known.kv_heads,
        tie_word_embeddings=known.tied,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    profile = row_profile(row, folder)
    with torch.device(default_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, profile.dtype))
    model.save_pretrained(part)
    adapted = get_peft_model(model, lora_config(profile))
    adapted.save_pretrained(part / "adapter", save_embedding_layers=False)
    os.replace(part, folder)


def pairs_of_length(tokens: int, count: int) -> Any:
    """(pairs whose every side fills `tokens` tokens with its prompt, one weight a pair)."""
    import pandas as pd

    text = " ".join(load_stories()["text"]).encode("ascii", "ignore").decode()  # a byte, a token
    text *= 2 + (3 * count + 1) * tokens // len(text)
    rows = []
    for start in range(0, 3 * count * tokens, 3 * tokens):
        prompt, chosen, rejected = (text[start + i * tokens :][:tokens] for i in range(3))
        rows.append((prompt[: tokens // 8], chosen, rejected))
    pairs = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    return pairs, [0.5 + i % 3 / 2 for i in range(count)]


class Bench:
    """The arms of a row in this process, on one set of pairs."""

    def __init__(self, row: Row, profile: Profile):
        self.profile = profile
        self.folder = tempfile.TemporaryDirectory()
        self.count = profile.batch_size * row.steps  # pairs
        self.trainers: dict[bool, Any] = {}

    def trainer(self, ours: bool) -> Any:
        """(a trainer as `one_arm` would make it, with nothing saved or printed; its data)."""
        from transformers import PrinterCallback
        from trl import DPOConfig, DPOTrainer

        from ddpo_utils import DDPOTrainer

        if ours not in self.trainers:
            adapter = Path(self.profile.model) / "adapter"
            model, tokenizer = load_policy(self.profile, adapter, trainable=True)
            data = to_dataset(*pairs_of_length(self.profile.max_length, self.count))
            data = data.add_column("key", range(self.count))
            options = {"beta": self.profile.beta, "lr_scheduler_type": "linear"}
            folder = Path(self.folder.name)
            args = trainer_arguments(DPOConfig, folder, self.profile, disable_tqdm=True, **options)
            args.save_strategy = "no"
            trainer = (DDPOTrainer if ours else DPOTrainer)(
                model=model,
                args=args,
                train_dataset=data if ours else data.remove_columns("weight"),
                processing_class=tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            self.trainers[ours] = trainer, trainer.train_dataset
        return self.trainers[ours]

    def step(self, arm: str) -> np.ndarray:
        """Seconds a pair of the training loop, on the clock and of the processor."""
        from transformers import TrainerCallback

        marks = []

        class Clock(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                marks.append(now())

        ours, precomputed = ARMS[arm]
        trainer, data = self.trainer(ours)
        if precomputed:  # no step's time depends on the values
            for name in ("ref_chosen_logps", "ref_rejected_logps"):
                data = data.add_column(name, [0.0] * self.count)
        trainer.train_dataset = data
        trainer.precompute_ref_logps = precomputed  # as TRL's constructor sets it
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        trainer.remove_callback(clock)
        return (marks[-1] - marks[0]) / self.count

    def reference(self) -> np.ndarray:
        """Seconds a pair that `add_reference` takes."""
        trainer, trainer.train_dataset = self.trainer(True)
        with tempfile.TemporaryDirectory() as folder:
            start = now()
            add_reference(trainer, Path(folder) / "reference.csv")
            return (now() - start) / self.count


def now() -> np.ndarray:
    """Clock and processor time in seconds, when the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def peak_memory(name: str, folder: Path, ours: bool) -> dict[str, int]:
    """Arm -> bytes at the peak of a short training with this trainer; called in a fresh process.

    On a GPU what torch's allocator held, on a CPU (Linux) the process's resident memory.
    """
    bench, peaks = Bench(ROWS[name], row_profile(ROWS[name], folder)), {}
    bench.trainer(ours)
    for arm in (arm for arm, (own, _) in ARMS.items() if own == ours):
        gc.collect()
        with suppress(OSError):  # the peak starts anew, without what loading took
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        bench.step(arm)
        gpu = torch.cuda.is_available()
        peaks[arm] = torch.cuda.max_memory_allocated() if gpu else status("VmHWM")
    return peaks


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def time_arms(bench: Bench, turns: int) -> dict[str, np.ndarray]:
    """Seconds a pair (turns, 2), on the clock and of the processor, of each arm and reference."""
    tasks: dict[str, Callable[[], np.ndarray]] = {"reference": bench.reference}
    tasks |= {arm: partial(bench.step, arm) for arm in ARMS}
    for task in tasks.values():  # loading, compiling, first allocations
        task()
    times: dict[str, list[np.ndarray]] = {name: [] for name in tasks}
    order = list(tasks)
    for turn in range(turns):
        for name in order:
            times[name].append(tasks[name]())
        order.reverse()
        print(f"turn {turn + 1} of {turns}", flush=True)
    return {name: np.array(values) for name, values in times.items()}


def ratios(times: dict[str, np.ndarray], checkpointing: bool) -> dict[str, Any]:
    """The comparisons: the geometric mean of the turns' ratios with its 95% interval."""
    epochs = EPOCHS * times["ddpo, precomputed"] + times["reference"]
    last = f"precomputed / in the loop, {EPOCHS} epochs"
    compared = {
        "ddpo / trl, precomputed": times["ddpo, precomputed"] / times["trl, precomputed"],
        "ddpo / trl, in the loop": times["ddpo, in the loop"] / times["trl, in the loop"],
        last: epochs / (EPOCHS * times["ddpo, in the loop"]),
    }
    results: dict[str, Any] = {}
    for name, values in compared.items():
        results[name] = {}
        for column, kind in enumerate(("clock", "processor")):
            interval = mean_interval(np.log(values[:, column]))
            ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
            results[name][kind] = {end: round(float(np.exp(x)), 4) for end, x in ends.items()}
    step = 6 if checkpointing else 4  # in FLOPs a parameter and token; the reference takes 2
    results[last]["formula"] = round((step * EPOCHS + 2) / ((step + 2) * EPOCHS), 3)
    return results


def measure(name: str, folder: Path, card: float | None) -> dict[str, Any]:
    """One run of a row, as it is recorded; `card` is the card's peak in FLOP/s."""
    row = ROWS[name]
    profile = row_profile(row, folder)
    print(f"{name}: {row.what}; {profile.dtype}", flush=True)
    fresh(write_model, row, folder)
    peaks = fresh(peak_memory, name, folder, True) | fresh(peak_memory, name, folder, False)
    times = time_arms(Bench(row, profile), row.turns)
    tokens = 2 * profile.max_length
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
    return run_facts(
        profile,
        command=f"{COMMAND} --rows {name}",
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
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
    card = 1e12 * args.card_tflops if args.card_tflops else None
    for name in args.rows or [name for name, row in ROWS.items() if row.device == device]:
        row, entry = ROWS[name], record["rows"].setdefault(name, {"runs": []})
        try:
            if row.device not in (device, "any"):
                raise CourseError(f"it needs --device {row.device}")
            entry["runs"].append(measure(name, work_dir("benchmark") / row.model, card))
            entry["status"] = "measured"
            print(entry["runs"][-1]["time"])
        except (CourseError, torch.cuda.OutOfMemoryError) as error:
            print(f"{name}: not measured: {str(error).splitlines()[0]}")
        write_json(path, record)


if __name__ == "__main__":
    main()
