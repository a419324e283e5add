"""How near does plan.memory come? Run it by hand: python tests/benchmarks/memory.py

Every case trains SmolLM2-135M in float32 on this CPU for two steps, by the functions that every profile trains with,
in a fresh process: the peak of its resident memory less what it held before the model was loaded, beside the figure of
`ddpo_utils.training.plan.memory`. Each micro-batch holds one sequence that fills max_length and one much shorter, so there is
padding, as in real data.

A formula counts tensors. glibc's allocator keeps freed blocks for later and finds them in pieces, which adds up to a
gigabyte here and differs from run to run; so the cases are measured with blocks given back at once
(MALLOC_MMAP_THRESHOLD_), and some again with the allocator as it is, which is what a user's process holds: for those
the plan is multiplied by `plan.HEAP`, which is no formula but what was seen. Linux alone keeps the peak that is read.

The result is data/results/memory.json, written after every case; a run that was broken off goes on, and cases that are
there are not measured again: delete the file for that. Not collected by pytest; tests/test_plan.py compares.
"""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from keep import status

from ddpo_utils.settings import Profile, data_dir, get_profile
from ddpo_utils.training.plan import HEAP, memory
from ddpo_utils.training.runs import run_facts, write_json

FILE = data_dir() / "results" / "memory.json"
COMMAND = "OMP_NUM_THREADS=1 python tests/benchmarks/memory.py"
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PAPER = {"lora_targets": "q_proj,v_proj", "lora_r": 128, "lora_alpha": 256}
SIZES = ((256, 1), (512, 1), (256, 2))  # max_length, micro_batch
CASES: list[dict[str, Any]] = [
    {
        "method": method,
        "gradient_checkpointing": checkpointing,
        "max_length": length,
        "micro_batch": micro,
    }
    for method in ("sft", "ddpo")
    for checkpointing in (False, True)
    for length, micro in SIZES
]
CASES += [{**CASES[7], "precompute_reference": False}, {**CASES[7], **PAPER}]
CASES += [{**case, "allocator": "as it is"} for case in (CASES[1], CASES[4], CASES[7], CASES[10])]


def profile_of(case: dict[str, Any]) -> Profile:
    """The profile laptop in float32, two steps of one micro-batch, with the case's settings."""
    settings = {name: value for name, value in case.items() if name not in ("method", "allocator")}
    return get_profile(
        "laptop",
        dtype="float32",
        steps=2,
        sft_steps=2,
        checkpoint_every=100,
        batch_size=case["micro_batch"],
        sft_batch_size=2 * case["micro_batch"],
        **settings,
    )


def planned(case: dict[str, Any]) -> float:
    """What the plan says of the case, in bytes."""
    return sum(memory(profile_of(case), case["method"], "cpu").values()) * (
        HEAP if "allocator" in case else 1
    )


def measure(case: dict[str, Any], folder: Path) -> None:
    """Train the case in this process and print its peak in bytes. The SFT adapter that DDPO starts from is in
    folder/sft."""
    import pandas as pd
    import trl  # all that training imports is there before the baseline is read

    from ddpo_utils import load_stories, trainers
    from ddpo_utils.training import recipes

    assert (
        trainers.DPOTrainer is trl.DPOTrainer and trl.DPOConfig and trl.SFTTrainer and trl.SFTConfig
    )
    profile, text = profile_of(case), " ".join(load_stories()["text"])
    count = 4 * profile.micro_batch
    long, short = [text[10 * i :][:4000] for i in range(count)], text[:200]
    baseline = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    with contextlib.redirect_stdout(sys.stderr):
        if case["method"] == "sft":
            texts = [long[i] if i % 2 == 0 else short for i in range(count)]
            stories = pd.DataFrame({"prompt": "Write a story.", "text": texts})
            recipes.train_sft(profile, stories, folder / "run")
        else:
            pairs = pd.DataFrame({"prompt": "Write a story.", "chosen": long, "rejected": short})
            recipes.train_pairs(
                profile, pairs, [1.0] * count, folder / "run", folder / "sft", "ddpo"
            )
    print(status("VmHWM") - baseline)


def prepare(case: dict[str, Any], folder: Path) -> None:
    """A fresh adapter in folder/sft."""
    from peft import get_peft_model

    from ddpo_utils.models.policy import load_policy, lora_config

    profile = profile_of(case)
    model, _ = load_policy(profile)
    get_peft_model(model, lora_config(profile)).save_pretrained(
        folder / "sft", save_embedding_layers=False
    )


def main() -> None:
    if len(sys.argv) > 1:  # in a process of its own
        task = {"measure": measure, "prepare": prepare}[sys.argv[1]]
        return task(json.loads(sys.argv[2]), Path(sys.argv[3]))
    record = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"rows": []}
    for case in CASES:
        if all(row["case"] != case for row in record["rows"]):
            environment = os.environ | (GIVEN_BACK if "allocator" not in case else {})
            with tempfile.TemporaryDirectory() as folder:
                for task in ("prepare",) * (case["method"] == "ddpo") + ("measure",):
                    command = [sys.executable, __file__, task, json.dumps(case), folder]
                    done = subprocess.run(command, env=environment, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(done.stderr[-3000:])
            facts = run_facts(profile_of(case))
            about = {
                name: facts[name] for name in ("model", "code", "versions", "python", "hardware")
            }
            row = {
                "case": case,
                "measured": int(done.stdout.split()[-1]),
                "code": about.pop("code"),
            }
            record = {"command": COMMAND, **about, "rows": [*record["rows"], row]}
            write_json(FILE, record)
        row = next(row for row in record["rows"] if row["case"] == case)
        expected = planned(case)
        what = ", ".join(f"{name} {value}" for name, value in case.items())
        print(
            f"measured {row['measured'] / 1e9:.2f} GB, planned {expected / 1e9:.2f} GB "
            f"({expected / row['measured'] - 1:+.1%}): {what}",
            flush=True,
        )


if __name__ == "__main__":
    main()
