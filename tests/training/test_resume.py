"""A run that is broken off and called again ends where an unbroken one does: losses, margins, KL and adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import BrokenOff, assert_same_adapter, break_off, curve, few_stories, tiny_profile

from ddpo_utils import Profile, make_pairs
from ddpo_utils.training.orpo import train_orpo
from ddpo_utils.training.recipes import train_pairs, train_sft

STORIES = few_stories()
PAIRS = make_pairs(STORIES)
WATCH = STORIES[["prompt", "text"]].head(2)
DEALT = [0.25 * (1 + i % 5) for i in range(len(PAIRS))]
WEIGHTS = {"dpo": None, "ddpo": DEALT, "dorpo": DEALT}


@pytest.fixture(scope="module")
def profile(tiny_folder: Path) -> Profile:
    """Five steps with a checkpoint after 2 and 4; the pairs fill one epoch and begin another."""
    return tiny_profile(tiny_folder, steps=5, sft_steps=5, batch_size=4, micro_batch=2)


@pytest.fixture(scope="module")
def unbroken(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder and records of the runs that nothing broke off."""
    folder = tmp_path_factory.mktemp("unbroken")
    return {"folder": folder, "sft": run("sft", profile, folder, folder)} | {
        arm: run(arm, profile, folder, folder) for arm in WEIGHTS
    }


def run(arm: str, profile: Profile, folder: Path, base: Path) -> dict[str, Any]:
    if arm == "sft":
        return train_sft(profile, STORIES, folder / "sft")
    if arm == "dorpo":
        return train_orpo(profile, PAIRS, WEIGHTS[arm], folder / arm, arm, base / "sft", WATCH)
    return train_pairs(profile, PAIRS, WEIGHTS[arm], folder / arm, base / "sft", arm, WATCH)


def assert_same_run(
    arm: str, record: dict[str, Any], folder: Path, unbroken: dict[str, Any], within: float = 0.0
):
    """To a tolerance of nothing, unless the reference was computed in another way."""
    before = unbroken[arm]
    for name in [
        "loss",
        "grad_norm",
        "learning_rate",
        *(["rewards/margins", "weight"] if arm != "sft" else []),
    ]:
        assert curve(record, name) == pytest.approx(curve(before, name), rel=within, abs=within), (
            name
        )
    assert [entry["step"] for entry in record["log"]] == [1, 2, 3, 4, 5]
    if arm != "sft":
        assert record["kl"] == pytest.approx(before["kl"], rel=within, abs=within) and list(
            record["kl"]
        ) == [
            "2",
            "4",
            "5",
        ]
        kept = json.loads((folder / arm / "run.json").read_text(encoding="utf-8"))["kl"]
        assert kept == record["kl"]
    assert_same_adapter(folder / arm, unbroken["folder"] / arm, within)


@pytest.mark.parametrize(
    ("arm", "step", "resumed_at"),
    [
        ("sft", 3, 2),
        ("dpo", 1, 0),
        ("ddpo", 3, 2),
        ("dorpo", 3, 2),
        pytest.param("sft", 1, 0, marks=pytest.mark.slow),
        pytest.param("dpo", 3, 2, marks=pytest.mark.slow),
        pytest.param("ddpo", 5, 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_from_its_last_checkpoint(
    arm, step, resumed_at, profile, unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        break_off(patch, step)
        with pytest.raises(BrokenOff):
            run(arm, profile, tmp_path, unbroken["folder"])
    assert not (tmp_path / arm / "run.json").exists()
    kept = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / arm).glob("checkpoints/*/trainer_state.json")
    }
    assert sorted(path.parent.name for path in kept) == [
        f"checkpoint-{n}" for n in range(2, resumed_at + 1, 2)
    ]
    record = run(arm, profile, tmp_path, unbroken["folder"])
    assert record["resumed_at_step"] == resumed_at
    assert all(
        path.stat().st_mtime_ns == stamp for path, stamp in kept.items()
    )  # no step is done twice
    assert_same_run(arm, record, tmp_path, unbroken)
    again = run(arm, profile, tmp_path, unbroken["folder"])  # finished: read, not trained
    assert again == json.loads((tmp_path / arm / "run.json").read_text(encoding="utf-8"))


def test_a_run_may_be_broken_off_more_than_once(profile, unbroken, tmp_path, monkeypatch):
    for step in (3, 5):
        with monkeypatch.context() as patch:
            break_off(patch, step)
            with pytest.raises(BrokenOff):
                run("ddpo", profile, tmp_path, unbroken["folder"])
    assert_same_run("ddpo", run("ddpo", profile, tmp_path, unbroken["folder"]), tmp_path, unbroken)


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_reference_may_be_in_the_loop_or_computed_before(
    before, profile, unbroken, tmp_path, monkeypatch
):
    """A run begun with the one and gone on with the other: the log-probs agree but for rounding."""
    with monkeypatch.context() as patch:
        break_off(patch, 3)
        with pytest.raises(BrokenOff):
            run("ddpo", replace(profile, precompute_reference=before), tmp_path, unbroken["folder"])
    record = run("ddpo", replace(profile, precompute_reference=False), tmp_path, unbroken["folder"])
    assert record["resumed_at_step"] == 2
    assert_same_run("ddpo", record, tmp_path, unbroken, within=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"micro_batch": 1, "gradient_checkpointing": True},
        pytest.param({"micro_batch": 4}, marks=pytest.mark.slow),
        pytest.param({"attention": "eager"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_other_parts_or_with_other_arithmetic(
    change, profile, unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        break_off(patch, 3)
        with pytest.raises(BrokenOff):
            run("ddpo", profile, tmp_path, unbroken["folder"])
    record = run("ddpo", replace(profile, **change), tmp_path, unbroken["folder"])
    assert record["resumed_at_step"] == 2
    assert_same_run("ddpo", record, tmp_path, unbroken, within=1e-3)


def test_a_changed_distance_of_checkpoints_holds_from_then_on(
    profile, unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        break_off(patch, 3)
        with pytest.raises(BrokenOff):
            run("dpo", profile, tmp_path, unbroken["folder"])
    record = run("dpo", replace(profile, checkpoint_every=1), tmp_path, unbroken["folder"])
    assert list(record["kl"]) == ["2", "3", "4", "5"] and curve(record) == curve(unbroken["dpo"])


@pytest.mark.parametrize("arm", ["ddpo", pytest.param("sft", marks=pytest.mark.slow)])
def test_a_checkpoint_that_was_being_written_is_passed_over(
    arm, profile, unbroken, tmp_path, monkeypatch
):
    from transformers import Trainer

    save = Trainer._save_rng_state

    def killed(trainer: Any, folder: str) -> None:
        save(trainer, folder)
        if trainer.state.global_step == 4:
            raise BrokenOff

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_rng_state", killed)
        with pytest.raises(BrokenOff):
            run(arm, profile, tmp_path, unbroken["folder"])
    assert (tmp_path / arm / "checkpoints" / "checkpoint-4" / "adapter_model.safetensors").is_file()
    record = run(arm, profile, tmp_path, unbroken["folder"])
    assert record["resumed_at_step"] == 2
    assert_same_run(arm, record, tmp_path, unbroken)


@pytest.mark.parametrize("arm", ["sft", pytest.param("ddpo", marks=pytest.mark.slow)])
def test_a_run_that_dies_after_its_last_step_is_saved_without_another(
    arm, profile, unbroken, tmp_path, monkeypatch
):
    """run.json comes last, so whatever happens before it leaves a run that goes on."""
    from ddpo_utils.training import runs

    def full(*args: Any) -> None:
        raise BrokenOff

    with monkeypatch.context() as patch:
        patch.setattr(runs, "model_card", full)
        with pytest.raises(BrokenOff):
            run(arm, profile, tmp_path, unbroken["folder"])
    assert not (tmp_path / arm / "run.json").exists()
    record = run(arm, profile, tmp_path, unbroken["folder"])
    assert record["resumed_at_step"] == 5
    assert_same_run(arm, record, tmp_path, unbroken)


def test_the_divergence_of_a_checkpoint_that_a_kill_left_without_one_is_made_up(
    profile, unbroken, tmp_path, monkeypatch
):
    """The checkpoint is written first and the KL after it: a kill between the two must not leave a gap."""
    from ddpo_utils.training import reference

    def killed(*args: Any) -> None:
        raise BrokenOff

    with monkeypatch.context() as patch:
        patch.setattr(reference, "token_kl", killed)
        with pytest.raises(BrokenOff):
            run("ddpo", profile, tmp_path, unbroken["folder"])
    record = run("ddpo", profile, tmp_path, unbroken["folder"])
    assert record["resumed_at_step"] == 2
    assert_same_run("ddpo", record, tmp_path, unbroken)
