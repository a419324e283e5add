"""Runs on a tiny model: weights 1 are TRL's losses, and arms differ by weights alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from faults import refusal
from tiny_runs import PAIRS, STORIES, adapter, assert_same_adapter, curve, record_of, tiny_profile

from ddpo_utils import CourseError, Profile, get_profile
from ddpo_utils.training.all_arms import train_arms
from ddpo_utils.training.arms import Arm
from ddpo_utils.training.one_arm import train_pairs, train_sft, trainer_arguments

DPO, DDPO, ORPO = Arm("dpo"), Arm("ddpo"), Arm("orpo")
WATCH = pd.DataFrame({"prompt": ["Sea."], "text": ["the light answers"]})


@pytest.fixture(scope="module")
def profile(tiny_folder: Path) -> Profile:
    return tiny_profile(
        tiny_folder, steps=2, batch_size=2, sft_batch_size=2, checkpoint_every=1, max_length=300
    )


def test_arms_differ_by_their_weights_alone(profile: Profile, sft: Path, tmp_path: Path) -> None:
    weights = {
        "dpo": None,
        "ones": np.ones(len(PAIRS)),
        "zeros": np.zeros(len(PAIRS)),
        "threes": np.full(len(PAIRS), 3.0),
    }
    losses = {}
    for name, weight in weights.items():
        arm = DPO if weight is None else DDPO
        losses[name] = curve(train_pairs(profile, PAIRS, weight, tmp_path / name, sft, arm, WATCH))
        record = record_of(tmp_path / name)
        assert list(record["kl"]) == ["1", "2"] and record["pairs"] == 4  # two steps of two pairs
        assert (record["kl"]["2"] > 1e-6) is (name != "zeros")
    assert losses["ones"] == losses["dpo"]  # to the last bit: a product with 1 is exact
    assert losses["zeros"] == [0.0, 0.0]
    assert losses["threes"][0] == pytest.approx(3 * losses["dpo"][0], rel=1e-4)
    assert_same_adapter(tmp_path / "ones", tmp_path / "dpo")
    assert_same_adapter(tmp_path / "zeros", sft)
    start, moved = adapter(sft), adapter(tmp_path / "dpo")
    assert any(not torch.equal(moved[name], start[name]) for name in start)


def test_with_weights_of_one_dorpo_is_orpo(
    profile: Profile, sft: Path, tmp_path: Path, trainers: list[Any]
) -> None:
    """ORPO's tokens are those by which log-probs are taken; no turn begins or ends twice."""
    profile = replace(profile, max_length=700)
    orpo = train_pairs(profile, PAIRS, None, tmp_path / "orpo", sft, ORPO)
    weight, arm = np.ones(len(PAIRS)), Arm("dorpo")
    ones = train_pairs(profile, PAIRS, weight, tmp_path / "ones", sft, arm)
    assert curve(ones) == curve(orpo)
    assert_same_adapter(tmp_path / "ones", tmp_path / "orpo")
    tokenizer = trainers[0].processing_class
    for row in trainers[0].train_dataset:
        ids = row["chosen_input_ids"]
        answer = [token for token in row["chosen_labels"] if token != -100]
        text, start = tokenizer.decode(answer), tokenizer.decode(ids[: len(ids) - len(answer)])
        assert text.count("<|end|>") == 1
        assert text.removesuffix("<|end|>") in set(PAIRS["chosen"])
        assert start.startswith("<|start|>user") and start.endswith("<|start|>assistant\n")
        assert start.count("<|start|>") == 2


@pytest.mark.parametrize("too_long", [3, 11])
def test_what_is_too_long_is_left_out_and_counted(
    too_long: int, profile: Profile, sft: Path, tmp_path: Path
) -> None:
    """Weights and effective pairs are those of what is trained on; the cut is no text's end."""
    pairs, weight = PAIRS.copy(), np.linspace(0.5, 2, len(PAIRS))
    for side, rows in (("chosen", slice(0, 2)), ("rejected", slice(2, too_long))):
        pairs.loc[pairs.index[rows], side] += " and on" * 300
    kept = len(pairs) - too_long
    profile = replace(profile, steps=0, epochs=1.0, batch_size=1)
    with pytest.warns(UserWarning, match=f"{too_long} of 12 pairs .* max_length, 300 "):
        record = train_pairs(profile, pairs, weight, tmp_path / "ddpo", sft, DDPO)
    assert record["pairs"] == len(record["log"]) == kept and record["pairs_too_long"] == too_long
    assert sorted(curve(record, "weight")) == pytest.approx(weight[too_long:])
    w = weight[too_long:]
    assert record["effective_pairs"] == pytest.approx(w.sum() ** 2 / (w**2).sum())
    stories = STORIES.assign(text=[*STORIES["text"].iloc[:too_long], *["and on " * 300] * 24][:24])
    with pytest.warns(UserWarning, match=f"{24 - too_long} of 24 responses"):
        record = train_sft(profile, stories, tmp_path / "new")
    assert (record["stories"], record["too_long"]) == (too_long, 24 - too_long)


def test_pairs_that_teach_nothing_are_refused(profile: Profile, sft: Path, tmp_path: Path) -> None:
    same = PAIRS.assign(rejected=[f" {PAIRS['chosen'][0]}\n", *PAIRS["rejected"][1:]])
    call = profile, same, None, tmp_path / "dpo", sft, DPO
    assert str(PAIRS["prompt"][0]) in refusal(train_pairs, *call)
    short = replace(profile, max_length=9)
    assert "max_length, 9" in refusal(train_pairs, short, PAIRS, *call[2:])
    assert "max_length, 9" in refusal(train_sft, short, STORIES, tmp_path / "new")
    assert "max_length, 9" in refusal(train_arms, short, STORIES, tmp_path / "all", ["dpo"])
    assert not (tmp_path / "all").exists()


def test_the_optimiser_s_settings_act_and_are_recorded(
    profile: Profile, sft: Path, tmp_path: Path, trainers: list[Any]
) -> None:
    given = {"weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6}
    for limit, share in ((1e-3, 1.0), (0.0, 0.0), (1e5, 0.0)):
        settings = replace(profile, max_grad_norm=limit, **given)
        record = train_pairs(settings, PAIRS, None, tmp_path / f"dpo-{limit}", sft, DPO)
        assert record["clipped_share"] == share
        args, recorded = trainers[-1].args, record["settings"]
        for name, value in (given | {"max_grad_norm": limit}).items():
            assert getattr(args, name) == recorded[name] == value
    assert train_sft(settings, STORIES, tmp_path / "new")["settings"]["max_grad_norm"] == 1e5
    assert trainers[-1].args.max_grad_norm == 1e5


def test_half_precision_is_for_cards_without_bf16(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """is_bf16_supported() says yes to a T4, which emulates it; the card's capability decides."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, fp16 in (((7, 5), True), ((8, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        args = trainer_arguments(dict, tmp_path, replace(profile, dtype="auto"))
        assert (args["fp16"], args["bf16"]) == (fp16, not fp16)


def test_sft_that_never_leaves_its_warm_up_is_warned_of(tmp_path: Path) -> None:
    profile = get_profile("8b", sft_steps=300, model=str(tmp_path / "nowhere"), tokenizer="")
    with pytest.warns(UserWarning, match="warm-up"), pytest.raises(CourseError):
        train_sft(profile, STORIES, tmp_path / "sft")
