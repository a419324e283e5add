"""How near does plan.memory come? By hand: python tests/benchmarks/memory.py

Every case trains SmolLM2-135M in float32 on this CPU for two steps in a fresh process: the peak of
its resident memory less what it held before the model was loaded, beside `plan.memory`. Each
micro-batch holds one sequence that fills max_length and a shorter one, so there is padding.

glibc's allocator keeps freed blocks, up to a gigabyte here; so blocks are given back at once
(MALLOC_MMAP_THRESHOLD_), except in the cases with the allocator as it is, for which the plan is
multiplied by `plan.HEAP`. Cases that data/results/memory.json holds are not measured again. Linux
only.
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

from ddpo_utils.settings import Profile, data_dir, get_profile
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.training.plan import HEAP, memory
from ddpo_utils.training.run_folder import run_facts

FILE = data_dir() / "results" / "memory.json"
COMMAND = "OMP_NUM_THREADS=1 python tests/benchmarks/memory.py"
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PAPER = {"lora_targets": "q_proj,v_proj", "lora_r": 128, "lora_alpha": 256}
SIZES = ((256, 1), (512, 1), (256, 2))  # max_length, micro_batch
CASES: list[dict[str, Any]] = []
for method in ("sft", "ddpo"):
    for checkpointing in (False, True):
        for length, micro in SIZES:
            case = {"method": method, "gradient_checkpointing": checkpointing}
            CASES.append(case | {"max_length": length, "micro_batch": micro})
CASES += [{**CASES[7], "precompute_reference": False}, {**CASES[7], **PAPER}]
CASES += [{**CASES[number], "allocator": "as it is"} for number in (1, 4, 7, 10)]


def status(key: str) -> int:
    """Bytes in a line of Linux's /proc/self/status: VmRSS, resident memory, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


def profile_of(case: dict[str, Any]) -> Profile:
    """The profile laptop in float32, two steps of one micro-batch, with the case's settings."""
    settings = {name: value for name, value in case.items() if name not in ("method", "allocator")}
    batches = {"batch_size": case["micro_batch"], "sft_batch_size": 2 * case["micro_batch"]}
    steps = {"steps": 2, "sft_steps": 2, "checkpoint_every": 100}
    return get_profile("laptop", dtype="float32", **batches, **steps, **settings)


def planned(case: dict[str, Any]) -> float:
    """What the plan says of the case, in bytes."""
    total = sum(memory(profile_of(case), case["method"], "cpu").values())
    return total * HEAP if "allocator" in case else total


def measure(case: dict[str, Any], folder: Path) -> None:
    """Train the case in this process and print its peak in bytes."""
    import pandas as pd
    import trl
    from peft import get_peft_model

    from ddpo_utils import load_stories, trainers
    from ddpo_utils.models.policy import load_policy, lora_config
    from ddpo_utils.training.arms import Arm
    from ddpo_utils.training.one_arm import train_pairs, train_sft

    profile, sft = profile_of(case), folder / "sft"
    if case["method"] == "ddpo" and not sft.is_dir():  # a fresh adapter, in a process before
        model, _ = load_policy(profile)
        adapted = get_peft_model(model, lora_config(profile))
        adapted.save_pretrained(sft, save_embedding_layers=False)
        return
    # all that training imports is loaded before the baseline is read
    assert trainers.DDPOTrainer and trl.DPOConfig and trl.SFTTrainer and trl.SFTConfig
    text, count = " ".join(load_stories()["text"]), 4 * profile.micro_batch
    long, short = [text[10 * i :][:4000] for i in range(count)], text[:200]
    baseline = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    with contextlib.redirect_stdout(sys.stderr):
        if case["method"] == "sft":
            texts = long.copy()
            texts[1::2] = [short] * (count // 2)
            stories = pd.DataFrame({"prompt": "Write a story.", "text": texts})
            train_sft(profile, stories, folder / "run")
        else:
            pairs = pd.DataFrame({"prompt": "Write a story.", "chosen": long, "rejected": short})
            train_pairs(profile, pairs, [1.0] * count, folder / "run", sft, Arm("ddpo"))
    print(status("VmHWM") - baseline)


def measure_in_fresh_process(case: dict[str, Any]) -> int:
    """The case's peak in bytes; before "ddpo" a process makes the adapter."""
    environment = dict(os.environ)
    if "allocator" not in case:
        environment |= GIVEN_BACK
    processes = 2 if case["method"] == "ddpo" else 1
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, json.dumps(case), folder]
        for _ in range(processes):
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    rows = read_json(FILE)["rows"] if FILE.is_file() else []
    for case in CASES:
        measured = [row["measured"] for row in rows if row["case"] == case]
        if not measured:
            measured = [measure_in_fresh_process(case)]
            facts = run_facts(profile_of(case))
            del facts["settings"]
            rows.append({"case": case, "measured": measured[0], "code": facts.pop("code")})
            write_json(FILE, {"command": COMMAND, **facts, "rows": rows})
        expected = planned(case)
        error = expected / measured[0] - 1
        print(f"measured {measured[0]:.4g} bytes, planned {expected:.4g} ({error:+.1%}): {case}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(json.loads(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
