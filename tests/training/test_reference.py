"""The reference's log-probs: TRL's own, computed once for all arms, kept through a kill, apart by length and type."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from tiny_runs import BrokenOff, curve, few_stories, tiny_profile
from trl import DPOConfig, DPOTrainer

from ddpo_utils import CourseError, DDPOTrainer, Profile, make_pairs
from ddpo_utils.models.policy import load_policy
from ddpo_utils.training import reference
from ddpo_utils.training.recipes import to_dataset, train_pairs, train_sft

STORIES = few_stories()
PAIRS = make_pairs(STORIES)
COLUMNS = ["ref_chosen_logps", "ref_rejected_logps"]


@pytest.fixture(scope="module")
def profile(tiny_folder: Path) -> Profile:
    return tiny_profile(
        tiny_folder, steps=4, batch_size=4, checkpoint_every=4
    )  # 12 pairs, an epoch and a third


@pytest.fixture(scope="module")
def trained(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an SFT run."""
    folder = tmp_path_factory.mktemp("trained") / "sft"
    train_sft(profile, STORIES, folder)
    return folder


@pytest.fixture
def sft(trained: Path, tmp_path: Path) -> Path:
    """The SFT run's folder, for one test alone: references are kept in it."""
    return shutil.copytree(trained, tmp_path / "sft")


def trainer_of(
    cls: Any, profile: Profile, sft: Path, folder: Path, pairs: pd.DataFrame, **options: Any
) -> Any:
    model, tokenizer = load_policy(profile, sft, trainable=True)
    data: Dataset = to_dataset(pairs).add_column("key", np.arange(len(pairs), dtype="uint64"))
    args = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_length=profile.max_length,
        bf16=False,
        report_to="none",
        dataloader_pin_memory=False,
        **options,
    )
    return cls(model=model, args=args, train_dataset=data, processing_class=tokenizer)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pairs in each forward pass of the reference."""
    seen: list[int] = []
    compute = DDPOTrainer.compute_ref_log_probs

    def spy(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
        seen.append(len(inputs["input_ids"]) // 2)
        return compute(trainer, model, inputs)

    monkeypatch.setattr(DDPOTrainer, "compute_ref_log_probs", spy)
    return seen


def stored(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col="key", dtype={"key": "uint64"})


@pytest.mark.parametrize("max_length", [128, 1024])  # stories cut, and whole
def test_they_are_those_that_trl_computes(profile, sft, tmp_path, capsys, max_length):
    profile = replace(profile, max_length=max_length)
    theirs = trainer_of(
        DPOTrainer, profile, sft, tmp_path / "trl", PAIRS, precompute_ref_log_probs=True
    ).train_dataset
    ours = trainer_of(DDPOTrainer, profile, sft, tmp_path / "ours", PAIRS)
    capsys.readouterr()
    reference.add_reference(ours, tmp_path / "reference.csv")
    assert "reference log-probs" not in capsys.readouterr().err  # TQDM_DISABLE is set
    kept = stored(tmp_path / "reference.csv")
    for name in COLUMNS:
        expected = np.array(theirs[name][:])
        assert (
            np.allclose(ours.train_dataset[name][:], expected, rtol=1e-5, atol=1e-3)
            and (expected < -10).all()
        )
        assert np.allclose(kept.loc[range(len(PAIRS)), name], expected, rtol=1e-5, atol=1e-3)
        assert len(set(np.round(expected, 3))) == len(PAIRS)  # so each pair has its own


def test_they_are_computed_once_and_shared_by_the_arms(profile, sft, tmp_path, calls):
    losses = {}
    for arm, weight in {"dpo": None, "ddpo": [1.0] * len(PAIRS)}.items():
        losses[arm] = curve(train_pairs(profile, PAIRS, weight, tmp_path / arm, sft, arm))
        assert sum(calls) == len(PAIRS) and max(calls) == 2  # by the first arm alone
    looped = train_pairs(
        replace(profile, precompute_reference=False), PAIRS, None, tmp_path / "loop", sft, "dpo"
    )
    assert sum(calls) == len(PAIRS) + 4 * 4  # each pair of each step
    assert losses["dpo"] == losses["ddpo"]
    assert curve(looped) == pytest.approx(losses["dpo"], rel=1e-4)


def test_only_pairs_that_will_be_seen_are_scored_and_later_ones_are_added(
    profile, sft, tmp_path, calls
):
    train_pairs(replace(profile, steps=2), PAIRS, None, tmp_path / "short", sft, "dpo")
    assert sum(calls) == 2 * 4
    (path,) = sft.glob("reference-*.csv")
    before = stored(path)
    train_pairs(profile, PAIRS, None, tmp_path / "long", sft, "dpo")
    assert sum(calls) == len(PAIRS) and len(stored(path)) == len(PAIRS)
    assert stored(path).loc[before.index].equals(before)  # what was known stands


@pytest.mark.parametrize("broken_in", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_computation_goes_on(profile, sft, tmp_path, monkeypatch, calls, broken_in):
    monkeypatch.setattr(reference, "SCORED_AT_ONCE", 5)
    compute = DDPOTrainer.compute_ref_log_probs

    def killed(*args: Any) -> Any:
        if len(calls) == broken_in - 1:
            raise BrokenOff
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(DDPOTrainer, "compute_ref_log_probs", killed)
        with pytest.raises(BrokenOff):
            train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, "dpo")
    kept = (
        len(stored(next(sft.glob("reference-*.csv")))) if list(sft.glob("reference-*.csv")) else 0
    )
    assert kept == (0 if broken_in == 1 else 5)  # of 2 + 2 + 1 pairs a part, the first part
    calls.clear()
    broken = train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, "dpo")
    assert sum(calls) == len(PAIRS) - kept
    assert not list(sft.glob("*.part"))
    (path,) = sft.glob("reference-*.csv")
    order = path.read_bytes()
    path.unlink()
    unbroken = train_pairs(profile, PAIRS, None, tmp_path / "again", sft, "dpo")
    assert curve(broken) == curve(unbroken) and path.read_bytes() == order


def test_the_longest_come_first(profile, sft, tmp_path, monkeypatch):
    """Memory runs out at once or never."""
    lengths = []
    compute = DDPOTrainer.compute_ref_log_probs

    def spy(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
        lengths.append(int(inputs["attention_mask"].sum()))
        return compute(trainer, model, inputs)

    monkeypatch.setattr(DDPOTrainer, "compute_ref_log_probs", spy)
    train_pairs(replace(profile, max_length=1024), PAIRS, None, tmp_path / "dpo", sft, "dpo")
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 1.1 * lengths[-1]


@pytest.mark.parametrize(
    "change", [{"max_length": 100}, pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.slow)]
)
def test_another_length_or_number_type_has_log_probs_of_its_own(
    profile, sft, tmp_path, calls, change
):
    """SFT is the same adapter here; `--sft` may name one of another length."""
    train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, "dpo")
    train_pairs(replace(profile, **change), PAIRS, None, tmp_path / "other", sft, "dpo")
    assert sum(calls) == 2 * len(PAIRS)
    one, other = (stored(path) for path in sorted(sft.glob("reference-*.csv")))
    assert (one["ref_chosen_logps"] != other.loc[one.index, "ref_chosen_logps"]).any()


def test_another_model_or_length_cannot_start_from_this_sft_run(profile, sft, tmp_path):
    with pytest.raises(CourseError, match="holds a run with model"):
        train_sft(replace(profile, model="other"), STORIES, sft)
    with pytest.raises(CourseError, match="holds a run with max_length"):
        train_sft(replace(profile, max_length=64), STORIES, sft)


def test_a_new_sft_run_in_the_same_folder_has_a_new_reference(profile, sft, tmp_path):
    train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, "dpo")
    (path,) = sft.glob("reference-*.csv")
    before = stored(path)
    for name in ("run.json", "config.yaml"):
        (sft / name).unlink()
    shutil.rmtree(sft / "checkpoints")
    train_sft(replace(profile, sft_steps=4), STORIES, sft)
    assert not path.exists()
    train_pairs(profile, PAIRS, None, tmp_path / "new", sft, "dpo")
    assert (
        stored(path).loc[before.index, "ref_chosen_logps"] - before["ref_chosen_logps"]
    ).abs().min() > 1e-3


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_reference_is_the_sft_adapter_and_not_the_trained_one(profile, sft, tmp_path, before):
    """At step 1 policy and reference are one: margins are 0, the loss is log 2."""
    record = train_pairs(
        replace(profile, precompute_reference=before), PAIRS, None, tmp_path / "dpo", sft, "dpo"
    )
    assert record["log"][0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert record["log"][0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert abs(record["log"][-1]["rewards/margins"]) > 1e-2
