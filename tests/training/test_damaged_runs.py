"""Runs that cannot go on: damaged files, foreign adapters, divergence, full disks, two at once."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import refusal
from safetensors.torch import load_file, save_file
from tiny_runs import PAIRS, STORIES, BrokenOff, break_off, curve, tiny_profile

from ddpo_utils import Profile
from ddpo_utils.models.policy import load_policy
from ddpo_utils.storage.adapters import adapter_digest, check_adapter
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.arms import Arm
from ddpo_utils.training.one_arm import train_pairs, train_sft

TENSORS = "adapter_model.safetensors"
WATCH = STORIES[["prompt", "text"]].head(2)


@pytest.fixture(scope="module")
def profile(tiny_folder: Path) -> Profile:
    """Four steps with a checkpoint after 2 and 4."""
    return tiny_profile(tiny_folder, sft_steps=4)


def set_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))


def set_tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / TENSORS)), folder / TENSORS)


FOREIGN = [
    {"megatron_core": "antigravity"},
    {"megatron_config": {"tensor_model_parallel_size": 1}},
    {"auto_mapping": {"base_model_class": "A", "parent_library": "antigravity"}},
    {"target_modules": "(a+)+$"},
    {"target_modules": ["(a|a)*b"]},
    {"exclude_modules": ".*(x+x+)+y"},
    {"rank_pattern": {"(q+)+!": 4}},
    {"modules_to_save": ["(h+)+z"]},
    {"layers_pattern": "(.*)*k"},
    {"layer_replication": [[0, 100000]]},
    {"base_model_name_or_path": "https://example.org/model"},
    {"base_model_name_or_path": "\\\\server\\share"},
    {"peft_type": "XLORA"},
    {"peft_type": ["LORA"]},
    {"loftq_config": {"loftq_bits": 4}},
    {"some_future_field": "os.system"},
    {"r": 10**9},
    {"r": 0},
    {"lora_alpha": "16"},
    {"init_lora_weights": "eva"},
    {"trainable_token_indices": {"(e+)+": [1]}},
]


@pytest.mark.parametrize("fields", FOREIGN, ids=lambda fields: next(iter(fields)))
def test_what_is_not_run_is_refused_before_peft_reads_it(fields: dict, sft: Path) -> None:
    set_config(sft, **fields)
    assert next(iter(fields)) in refusal(check_adapter, sft)


DAMAGED: list[Callable[[Path], Any]] = [
    lambda folder: (folder / TENSORS).unlink(),
    lambda folder: (folder / TENSORS).write_bytes(b""),
    lambda folder: (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9]),
    lambda folder: (folder / TENSORS).write_bytes(b"\xff" * 900),
    lambda folder: set_tensors(folder, lambda tensors: {}),
    lambda folder: set_tensors(
        folder, lambda tensors: {name.replace("layers", "blocks"): t for name, t in tensors.items()}
    ),
    lambda folder: set_tensors(folder, lambda tensors: dict(list(tensors.items())[1:])),
    lambda folder: set_tensors(folder, lambda tensors: tensors | {"more.lora_A.weight": WRONG}),
    lambda folder: set_tensors(
        folder, lambda tensors: {name: t[:1].contiguous() for name, t in tensors.items()}
    ),
    lambda folder: set_tensors(
        folder, lambda tensors: {name: t * np.nan for name, t in tensors.items()}
    ),
    lambda folder: (folder / "adapter_config.json").write_text(""),
    lambda folder: (folder / "adapter_config.json").write_text("[" * 100_000),
    lambda folder: (folder / "adapter_config.json").write_text('["LORA"]'),
    lambda folder: (folder / "adapter_config.json").unlink(),
]
WRONG = torch.ones(2, 2)


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_a_damaged_adapter_is_never_used(
    number: int, sft: Path, profile: Profile, tmp_path: Path
) -> None:
    DAMAGED[number](sft)
    assert str(sft) in refusal(load_policy, profile, sft)
    assert str(sft) in refusal(train_sft, profile, STORIES, sft)  # as the result of a finished run
    assert str(sft) in refusal(train_pairs, profile, PAIRS, None, tmp_path / "a", sft, Arm("dpo"))


RECORDS = [("run.json", ""), ("run.json", "{}"), ("run.json", "[]"), ("run.json", '{"log": 1}')]
RECORDS += [("config.yaml", ""), ("config.yaml", "[" * 5000), ("config.yaml", "a: &a [1]\nb: *a")]
RECORDS += [("config.yaml", "profile: 8b\nsettings: {beta: [1]}"), ("run.json", "[" * 100_000)]


@pytest.mark.parametrize(("name", "text"), RECORDS)
def test_a_damaged_record_is_named(name: str, text: str, sft: Path, profile: Profile) -> None:
    (sft / name).write_text(text)
    assert name in refusal(train_sft, profile, STORIES, sft) or "beta" in text


def test_equal_runs_have_equal_digests_and_configurations(sft: Path) -> None:
    names = json.loads((sft / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)
    digest = adapter_digest(sft)
    set_config(sft, target_modules=names[::-1], peft_version="9", base_model_name_or_path="x/y")
    assert adapter_digest(sft) == digest
    set_config(sft, lora_alpha=3)
    assert adapter_digest(sft) != digest


def broken_off(profile: Profile, folder: Path, sft: Path, step: int = 3) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BrokenOff):
        break_off(patch, step)
        train_pairs(profile, PAIRS, None, folder, sft, Arm("dpo"), WATCH)


def test_damaged_checkpoints_are_passed_over(profile: Profile, sft: Path, tmp_path: Path) -> None:
    """Each file of a checkpoint cut, emptied, changed or lost: the run ends as an unbroken one."""
    whole = train_pairs(profile, PAIRS, None, tmp_path / "whole", sft, Arm("dpo"), WATCH)
    run = tmp_path / "run"
    broken_off(profile, run, sft)
    for name in (TENSORS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        again = shutil.copytree(run, tmp_path / name)
        path = again / "checkpoints" / "checkpoint-2" / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :])
        record = train_pairs(profile, PAIRS, None, again, sft, Arm("dpo"), WATCH)
        assert record["resumed_at_step"] == 0 and curve(record) == curve(whole)
    checkpoint = run / "checkpoints" / "checkpoint-2"
    (checkpoint / "checksums.json").unlink()  # as of a run of before
    (checkpoint / TENSORS).write_bytes(b"")
    call = (train_pairs, profile, PAIRS, None, run, sft, Arm("dpo"), WATCH)
    assert "checkpoint-2" in refusal(*call)
    shutil.rmtree(checkpoint)
    (run / "kl.json").write_text('["2"]')
    assert "kl.json" in refusal(*call)
    (run / "kl.json").unlink()
    assert curve(call[0](*call[1:])) == curve(whole)


def test_a_damaged_reference_is_named(profile: Profile, sft: Path, tmp_path: Path) -> None:
    train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, Arm("dpo"))
    (path,) = sft.glob("reference-*.csv")
    text = path.read_text()
    for damaged in ("", text[:-20], text.replace("1", "2", 40), text[text.index("\n") :]):
        path.write_text(damaged)
        assert path.name in refusal(
            train_pairs, profile, PAIRS, None, tmp_path / "two", sft, Arm("dpo")
        )


@pytest.mark.parametrize("rate", ["sft_learning_rate", "learning_rate", "orpo_learning_rate"])
def test_a_run_that_diverges_saves_no_adapter(
    rate: str, profile: Profile, sft: Path, tmp_path: Path
) -> None:
    wild, run = replace(profile, **{rate: 1e30}), tmp_path / "run"
    if rate == "sft_learning_rate":
        message = refusal(train_sft, wild, STORIES, run)
    else:
        arm = Arm("orpo" if rate.startswith("orpo") else "dpo")
        message = refusal(train_pairs, wild, PAIRS, None, run, sft, arm)
    assert "learning rate" in message and str(run) in message
    assert not (run / TENSORS).exists() and not (run / "run.json").exists()


@pytest.mark.parametrize("size", [3_000, 9_000])
def test_a_full_disk_loses_nothing(size: int, profile: Profile, sft: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's: both fail as a file grows."""
    whole = train_pairs(profile, PAIRS, None, tmp_path / "whole", sft, Arm("dpo"), WATCH)
    call = (train_pairs, profile, PAIRS, None, tmp_path / "run", sft, Arm("dpo"), WATCH)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        message = refusal(*call)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "space" in message and not (tmp_path / "run" / "run.json").exists()
    assert curve(call[0](*call[1:])) == curve(whole)


def test_two_runs_in_one_folder(profile: Profile, tmp_path: Path) -> None:
    """Another process holds the folder; when it dies, the folder is free."""
    code = f"from ddpo_utils.storage.locks import locked\nwith locked({str(tmp_path / 'sft')!r}):"
    code += "\n    print('held', flush=True)\n    input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert str(tmp_path / "sft") in refusal(train_sft, profile, STORIES, tmp_path / "sft")
        other.kill()
    with locked(tmp_path / "sft"):
        assert len(train_sft(profile, STORIES, tmp_path / "sft")["log"]) == 4
