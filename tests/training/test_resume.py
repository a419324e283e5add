"""A run that is broken off and called again ends as an unbroken one: losses, KL, adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import (
    PAIRS,
    STORIES,
    BrokenOff,
    assert_same_adapter,
    break_off,
    curve,
    record_of,
    tiny_profile,
)

from ddpo_utils import Profile
from ddpo_utils.training import reference, run_folder
from ddpo_utils.training.arms import Arm
from ddpo_utils.training.one_arm import train_pairs, train_sft

WATCH = STORIES[["prompt", "text"]].head(2)
SHUFFLED = [0.25 * (1 + i % 5) for i in range(len(PAIRS))]
WEIGHTS = {"dpo": None, "ddpo": SHUFFLED, "dorpo": SHUFFLED}
Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def profile(tiny_folder: Path) -> Profile:
    """Five steps with a checkpoint after 2 and 4; the pairs fill one epoch and begin another."""
    return tiny_profile(tiny_folder, steps=5, sft_steps=5, batch_size=4, micro_batch=2)


def run(name: str, profile: Profile, folder: Path, base: Path) -> dict[str, Any]:
    if name == "sft":
        return train_sft(profile, STORIES, folder / "sft")
    weight, arm = WEIGHTS[name], Arm(name)
    return train_pairs(profile, PAIRS, weight, folder / name, base / "sft", arm, WATCH)


class Runs:
    """Runs of the arms that nothing broke off, and those of a test to compare with."""

    def __init__(self, profile: Profile, whole: Path):
        self.profile, self.whole = profile, whole
        self.records = {name: run(name, profile, whole, whole) for name in ("sft", *WEIGHTS)}

    def broken(self, name: str, folder: Path, patch: Break, **changes: Any) -> None:
        """Start a run that `patch` breaks off."""
        with pytest.MonkeyPatch.context() as context:
            patch(context)
            with pytest.raises(BrokenOff):
                run(name, replace(self.profile, **changes), folder, self.whole)
        assert not (folder / name / "run.json").exists()

    def resumed(
        self, name: str, folder: Path, at: int, within: float = 0.0, **changes: Any
    ) -> dict[str, Any]:
        """Go on with the run and compare it with the unbroken one, to `within`."""
        record = run(name, replace(self.profile, **changes), folder, self.whole)
        before = self.records[name]
        figures = ["step", "loss", "grad_norm", "learning_rate"]
        if name != "sft":
            figures += ["rewards/margins", "weight"]
            assert record["kl"] == pytest.approx(before["kl"], rel=within, abs=within)
            assert list(record["kl"]) == ["2", "4", "5"]
        for figure in figures:
            expected = pytest.approx(curve(before, figure), rel=within, abs=within)
            assert curve(record, figure) == expected, figure
        assert record["resumed_at_step"] == at and record == record_of(folder / name)
        assert_same_adapter(folder / name, self.whole / name, within)
        return record


@pytest.fixture(scope="module")
def whole(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(profile, tmp_path_factory.mktemp("unbroken"))


def at_step(step: int) -> Break:
    return lambda patch: break_off(patch, step)


@pytest.mark.parametrize(
    ("name", "step", "resumed_at"),
    [
        ("sft", 3, 2),
        ("dpo", 1, 0),
        ("ddpo", 3, 2),
        ("dorpo", 3, 2),
    ],
)
def test_a_run_goes_on_from_its_last_checkpoint(
    name: str, step: int, resumed_at: int, whole: Runs, tmp_path: Path
) -> None:
    whole.broken(name, tmp_path, at_step(step))
    states = (tmp_path / name).glob("checkpoints/*/trainer_state.json")
    stamps = {path: path.stat().st_mtime_ns for path in states}
    whole.resumed(name, tmp_path, at=resumed_at)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    # finished: read, not trained
    assert run(name, whole.profile, tmp_path, whole.whole) == record_of(tmp_path / name)


def test_a_run_goes_on_with_other_arithmetic(whole: Runs, tmp_path: Path) -> None:
    change = {"micro_batch": 1, "gradient_checkpointing": True, "precompute_reference": False}
    whole.broken("ddpo", tmp_path, at_step(3))
    whole.resumed("ddpo", tmp_path, at=2, within=1e-3, **change)
    whole.broken("dpo", tmp_path, at_step(3))  # another distance of checkpoints, from then on
    record = run("dpo", replace(whole.profile, checkpoint_every=1), tmp_path, whole.whole)
    assert list(record["kl"]) == ["2", "3", "4", "5"]
    assert curve(record) == curve(whole.records["dpo"])


def test_a_checkpoint_that_was_being_written_is_passed_over(whole: Runs, tmp_path: Path) -> None:
    from transformers import Trainer

    save = Trainer._save_rng_state

    def killed(trainer: Any, folder: str) -> None:
        save(trainer, folder)
        if trainer.state.global_step == 4:
            raise BrokenOff

    whole.broken("ddpo", tmp_path, lambda patch: patch.setattr(Trainer, "_save_rng_state", killed))
    half = tmp_path / "ddpo" / "checkpoints" / "checkpoint-4"
    assert (half / "adapter_model.safetensors").is_file()
    whole.resumed("ddpo", tmp_path, at=2)


def raises(*_: Any) -> None:
    raise BrokenOff


@pytest.mark.parametrize(
    ("name", "module", "function", "at"),
    [
        ("sft", run_folder, "model_card", 5),  # after the last step: run.json comes last
        ("ddpo", reference, "token_kl", 2),  # between a checkpoint and its KL
    ],
)
def test_a_kill_between_two_files_leaves_no_gap(
    name: str, module: Any, function: str, at: int, whole: Runs, tmp_path: Path
) -> None:
    whole.broken(name, tmp_path, lambda patch: patch.setattr(module, function, raises))
    whole.resumed(name, tmp_path, at=at)
