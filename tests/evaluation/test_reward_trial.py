"""The trial that lets a reward speak or not: accuracy, calibration, the choice, and its record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from awkward_posts import small_posts
from reward_fixtures import corpus

from ddpo_utils import CourseError, Profile, get_profile
from ddpo_utils.evaluation import reward_training
from ddpo_utils.evaluation.reward import score_stories
from ddpo_utils.evaluation.reward_record import load_trial, record_reward
from ddpo_utils.evaluation.reward_trial import (
    calibration,
    choose_reward,
    reward_accuracy,
    trial_splits,
)
from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.training.arms import training_stories

pytest_plugins = ["reward_fixtures"]


def fold_scores(stories: pd.DataFrame, splits: list, values: np.ndarray) -> list[list[float]]:
    return [values[in_prompt].tolist() for in_prompt, _ in splits]


def test_accuracy_of_the_truth_its_opposite_and_of_knowing_nothing():
    stories = corpus(6, 9)
    splits, truth = trial_splits(stories, 1), stories["score"].to_numpy()
    assert len(splits) == 9
    for values, expected in ((truth, 1), (-truth, 0), (0 * truth, 0)):
        figures = reward_accuracy(stories, splits, fold_scores(stories, splits, values))
        assert {name: figure.mean for name, figure in figures.items()} == {
            "unseen prompts": expected,
            "unseen prompts and writers": expected,
        }
        assert all(figure.n == 6 for figure in figures.values())


def test_accuracy_tells_known_writers_from_unseen_ones():
    """A reward that knows in each fold the scores of the writers it saw, and gives the others none."""
    stories = corpus(6, 9)
    splits = trial_splits(stories, 2)
    scores = [np.where(w, 0, stories["score"])[p].tolist() for p, w in splits]
    figures = reward_accuracy(stories, splits, scores)
    assert figures["unseen prompts"].mean == 1 and figures["unseen prompts and writers"].mean == 0


@pytest.mark.parametrize("writers", [["w1", "w2"] * 15, [""] * 30, [None] * 30])
def test_where_writers_are_not_known_one_fold_holds_out_prompts(writers: list):
    stories = corpus(10, 3).assign(writer=writers)
    splits = trial_splits(stories, 0)
    assert len(splits) == 1 and splits[0][0].sum() == 3 and not splits[0][1].any()
    two = [(stories["prompt_id"].isin(["p1", "p2"]).to_numpy(), splits[0][1])]
    figures = reward_accuracy(stories, two, [stories["score"][two[0][0]].tolist()])
    assert figures["unseen prompts"].mean == 1 and figures["unseen prompts and writers"] is None


def test_calibration_by_hand():
    predicted, observed = [0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1]
    got = calibration(predicted, observed, ["a", "b", "a", "b"], bins=2)
    assert [(b["n"], b["predicted"], b["observed"]) for b in got["bins"]] == [
        (2, pytest.approx(0.1), 0.5),
        (2, pytest.approx(0.9), 1.0),
    ]
    assert got["error"].mean == pytest.approx(0.5 * 0.4 + 0.5 * 0.1) and got["error"].n == 2
    assert got["error"].low <= got["error"].mean <= got["error"].high
    same = calibration(
        [0.7] * 6, [1, 0, 1, 1, 0, 1], list("aabbcc")
    )  # a single value is a single bin
    assert len(same["bins"]) == 1 and same["error"].mean == pytest.approx(abs(0.7 - 4 / 6))


def test_calibration_tells_honest_from_overconfident_predictions():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 4000)
    won, prompts = rng.random(4000) < p, np.arange(4000) % 80
    honest = calibration(p, won, prompts)["error"]
    assert honest.mean < 0.03
    bold = calibration(0.5 + (p - 0.5) * 2 * (p < 0.75) + (p >= 0.75) * (1 - p), won, prompts)[
        "error"
    ]
    assert bold.low > honest.high


def interval(mean: float, low: float) -> Interval:
    return Interval(mean, low, 2 * mean - low, 19)


@pytest.mark.parametrize(
    ("ridge", "new", "chosen", "passed"),
    [
        ((0.49, 0.42), (0.55, 0.48), "new", False),  # better, and still below the bound
        ((0.55, 0.48), (0.49, 0.42), "ridge", False),
        ((0.66, 0.59), (0.65, 0.61), "new", True),  # the bound goes before the mean
        ((0.70, 0.61), (0.66, 0.62), "ridge", True),
        (
            (0.70, 0.60),
            (0.70, 0.60),
            "ridge",
            True,
        ),  # at the bound; among equals nothing is replaced
    ],
)
def test_the_choice_follows_the_figures(ridge, new, chosen, passed):
    # accuracy on unseen prompts alone would say the opposite, and has no say where writers are known
    figures = {
        "ridge": {
            "unseen prompts": interval(0.9, 0.8),
            "unseen prompts and writers": interval(*ridge),
        },
        "new": {"unseen prompts": interval(0.7, 0.6), "unseen prompts and writers": interval(*new)},
    }
    got = choose_reward(figures, 0.6)
    assert (got["reward"], got["passed"]) == (chosen, passed)
    assert got["quality"] == ("quality to be compared" if passed else "quality not measured")
    bare = {
        name: {
            "unseen prompts": f["unseen prompts and writers"],
            "unseen prompts and writers": None,
        }
        for name, f in figures.items()
    }
    assert choose_reward(bare, 0.6) == got


@pytest.mark.parametrize(
    "known", [False, pytest.param(True, marks=pytest.mark.slow)]
)  # nine folds take a while
def test_a_trial_is_recorded_and_goes_on_fold_by_fold(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
):
    monkeypatch.chdir(tmp_path)
    small = {
        "semantic": "delta",
        "style": "stylometric",
        "sft_steps": 1,
        "sft_batch_size": 4,
        "dtype": "float32",
    }
    if known:
        corpus(3, 6).to_json(tmp_path / "own.jsonl", orient="records", lines=True)
        profile, objectives = (
            replace(tiny_profile, data=str(tmp_path / "own.jsonl"), **small),
            ("regression",),
        )
    else:  # r/writingPrompts: votes, negative ones among them, and no writer
        small |= dict.fromkeys(("model", "tokenizer", "reward"), tiny_profile.reward)
        profile = get_profile(
            "8b", data=str(small_posts(tmp_path / "posts.parquet", 40, 4)), max_length=256, **small
        )
        objectives = reward_training.OBJECTIVES
    returned, root = (
        record_reward(profile, objectives),
        tmp_path / "build" / profile.name / "reward",
    )
    text = (root / "reward.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text and len(text) < 200_000
    assert len(record["folds"]) == (9 if known else 1) == len(record["training"]["regression"])
    assert set(record["accuracy"]) == {"ridge", *objectives} | ({"writer"} if known else set())
    assert record["choice"]["reward"] in ("ridge", *objectives) and set(record["calibration"]) == {
        "ridge",
        *objectives,
    }
    assert record["target"]["times"] == 100 and (known or record["target"]["low"] < 0)
    stories = training_stories(profile)  # figures follow from the recorded scores
    again = reward_accuracy(stories, trial_splits(stories, profile.seed), record["scores"]["ridge"])
    assert again["unseen prompts"] == returned["accuracy"]["ridge"]["unseen prompts"]
    loaded = load_trial(profile)
    assert (
        loaded["accuracy"] == returned["accuracy"]
        and loaded["calibration"] == returned["calibration"]
    )
    assert score_stories(profile, root / record["final"], stories[:2]).shape == (2,)
    for fold in root.glob("*/fold-*"):
        assert (
            not (fold / "adapter_model.safetensors").exists() and (fold / "scores.json").is_file()
        )
    monkeypatch.setattr(reward_training, "_trainer", None)  # nothing is trained twice
    (root / "reward.json").unlink()
    assert record_reward(profile, objectives)["scores"] == record["scores"]


def test_too_few_prompts_for_a_trial_are_refused_before_any_training(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reward_training, "_trainer", None)
    corpus(8, 3, known=False).to_json(tmp_path / "own.jsonl", orient="records", lines=True)
    with pytest.raises(CourseError, match="20 prompts"):
        record_reward(replace(tiny_profile, data=str(tmp_path / "own.jsonl")), output=tmp_path)
