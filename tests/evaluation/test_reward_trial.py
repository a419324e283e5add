"""The trial of a reward: folds, pairs, accuracy, and its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from awkward_posts import small_posts
from reward_fixtures import corpus

from ddpo_utils import CourseError, get_profile
from ddpo_utils.evaluation import reward, reward_trial
from ddpo_utils.evaluation.reward import load_reward
from ddpo_utils.evaluation.reward_trial import (
    held_pairs,
    load_trial,
    record_reward,
    reward_accuracy,
    reward_splits,
    trial_splits,
)
from ddpo_utils.settings import data_dir
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.training.arms import training_stories
from reward_trial import ridge_scores

pytest_plugins = ["reward_fixtures"]


def judged(prompts: int = 12, writers: int = 8) -> tuple[pd.DataFrame, np.ndarray]:
    """Stories whose score is their writer's fame plus a quality that one feature shows."""
    rng = np.random.default_rng(0)
    rows = [(f"p{p}", f"w{w}") for p in range(prompts) for w in range(writers)]
    stories = pd.DataFrame(rows, columns=["prompt_id", "writer"])
    quality, fame = rng.normal(size=len(stories)), rng.normal(size=writers) * 3
    writer = stories["writer"].str[1:].astype(int).to_numpy()
    stories["score"] = quality + fame[writer]
    return stories, np.column_stack([quality, np.eye(writers)[writer]])


def reward_pairs(stories: pd.DataFrame, features: np.ndarray, unseen_writers: bool) -> pd.DataFrame:
    """The held-out pairs of a ridge reward; splits that leave nothing to train on are left out."""
    splits = []
    for in_prompt, in_writer in reward_splits(stories, writer_parts=4 if unseen_writers else 0):
        if in_prompt.any() and not (in_prompt | in_writer).all():
            splits.append((in_prompt, in_writer))
    scores = ridge_scores(features, stories["score"].to_numpy(), splits)
    return held_pairs(stories, splits, scores, unseen_writers)


def test_a_reward_that_knows_the_writers_fails_on_unseen_ones():
    stories, features = judged()
    fame = features[:, 1:]
    assert reward_pairs(stories, fame, unseen_writers=False)["right"].mean() > 0.85
    unseen = reward_pairs(stories, fame, unseen_writers=True)["right"].mean()
    assert unseen < 0.2  # it knows nothing there, and orders no pair
    assert reward_pairs(stories, features, True)["right"].mean() > unseen + 0.3
    assert len(reward_pairs(*judged(6, 4), False)) == 6 * 6  # every pair of a prompt once
    assert len(reward_pairs(*judged(6, 8), True)) == 6 * 4  # of two held-out writers: one a part
    assert reward_pairs(*judged(3, 2), True).empty  # no two held-out writers in a part


def test_held_pairs_by_hand():
    frame = {"prompt_id": ["b", "a", "b", "a", "b"], "score": [1.0, 5.0, 4.0, 5.0, 9.0]}
    split = np.full(5, True), np.full(5, False)
    stories = pd.DataFrame(frame, index=[7] * 5)
    pairs = held_pairs(stories, [split], [[0.2, 9.0, 0.5, 1.0, 0.5]], unseen_writers=False)
    assert pairs["prompt_id"].tolist() == ["b", "b", "b"]  # the tie of a is no pair
    assert pairs["right"].tolist() == [True, True, False]  # 4 against 9 is not told apart


@pytest.mark.parametrize("writer_parts", [0, 4])
def test_splits_cross_prompts_with_writers_and_hold_each_out_once(writer_parts):
    stories, _ = judged()
    splits = reward_splits(stories, 3, writer_parts, seed=5)
    assert len(splits) == (12 if writer_parts else 3)
    both = np.sum([in_prompt & in_writer for in_prompt, in_writer in splits], axis=0)
    assert (both == (1 if writer_parts else 0)).all()  # every story is unseen twice in one split
    for in_prompt, in_writer in splits:
        train = stories[~in_prompt & ~in_writer]
        assert not set(train["prompt_id"]) & set(stories["prompt_id"][in_prompt])
        assert not set(train["writer"]) & set(stories["writer"][in_writer])
    assert not np.array_equal(splits, reward_splits(stories, 3, writer_parts, seed=6))


def test_accuracy_of_true_reversed_and_constant_rewards():
    stories = corpus(6, 9)
    splits, truth = trial_splits(stories, 1), stories["score"].to_numpy()
    assert len(splits) == 9
    for values, expected in ((truth, 1), (-truth, 0), (0 * truth, 0)):
        scores = [values[in_prompt].tolist() for in_prompt, _ in splits]
        figures = reward_accuracy(stories, splits, scores).values()
        assert [(figure.mean, figure.n) for figure in figures] == [(expected, 6)] * 2
    # a reward that knows the scores of the writers it saw, and gives the others none
    scores = [np.where(w, 0, truth)[p].tolist() for p, w in splits]
    assert [f.mean for f in reward_accuracy(stories, splits, scores).values()] == [1, 0]


@pytest.mark.parametrize("writers", [["w1", "w2"] * 15, [""] * 30, [None] * 30])
def test_where_writers_are_not_known_one_fold_holds_out_prompts(writers):
    stories = corpus(10, 3).assign(writer=writers)
    splits = trial_splits(stories, 0)
    assert len(splits) == 1 and splits[0][0].sum() == 3 and not splits[0][1].any()
    two = [(stories["prompt_id"].isin(["p1", "p2"]).to_numpy(), splits[0][1])]
    figures = reward_accuracy(stories, two, [stories["score"][two[0][0]].tolist()])
    assert figures["unseen prompts"].mean == 1 and figures["unseen prompts and writers"] is None


@pytest.mark.parametrize("known", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_trial_is_recorded_and_goes_on_fold_by_fold(tiny_profile, tmp_path, monkeypatch, known):
    """With writers nine folds, which take a while; without one, on votes and negative ones too."""
    monkeypatch.chdir(tmp_path)
    small = {"semantic": "delta", "style": "stylometric", "sft_steps": 1, "sft_batch_size": 4}
    if known:
        corpus(3, 6).to_json(tmp_path / "own.jsonl", orient="records", lines=True)
        profile = replace(tiny_profile, data=str(tmp_path / "own.jsonl"), **small)
    else:
        posts = small_posts(tmp_path / "posts.parquet", 40, 4)
        small |= dict.fromkeys(("model", "tokenizer", "reward"), tiny_profile.reward)
        profile = get_profile("8b", data=str(posts), max_length=256, dtype="float32", **small)
    returned, root = record_reward(profile, 0.6), tmp_path / "build" / profile.name / "reward"
    record = read_json(root / "reward.json")
    assert str(tmp_path) not in (root / "reward.json").read_text()
    assert len(record["folds"]) == (9 if known else 1) == len(record["training"]["regression"])
    assert record["target"]["times"] == 100 and record["bound"] == 0.6
    stories, scores = training_stories(profile), record["scores"]["regression"]
    again = reward_accuracy(stories, trial_splits(stories, profile.seed), scores)
    assert again == returned["accuracy"]["regression"]
    assert load_reward(profile, root / record["final"])
    for fold in root.glob("*/fold-*"):
        assert not (fold / "adapter_model.safetensors").exists()
    monkeypatch.setattr(reward, "_trainer", None)  # nothing is trained twice
    (root / "reward.json").unlink()
    assert record_reward(profile, 0.6) == returned
    # too few prompts, or scores that order nothing, are refused before any training
    for few in (corpus(8, 3, known=False), corpus(30, 3, known=False).assign(score=3.0)):
        few.to_json(tmp_path / "few.jsonl", orient="records", lines=True)
        with pytest.raises(CourseError):
            record_reward(replace(tiny_profile, data=str(tmp_path / "few.jsonl")), 0.6, tmp_path)


def test_the_recorded_trial_is_read(tmp_path: Path):
    trial = load_trial(data_dir() / "results")
    assert str(trial["accuracy"]["regression"]["unseen prompts"]) == "0.742 [0.698, 0.786]"
    assert trial["calibration"]["ridge"]["error"].high > trial["calibration"]["ridge"]["error"].low
    with pytest.raises(CourseError, match=str(tmp_path)):
        load_trial(tmp_path)


LOST = {"mean": 0.7, "low": float("nan"), "high": 0.8, "n": 9}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([], []),
        (["accuracy"], []),
        (["accuracy", "regression"], {}),
        (["accuracy", "regression", "unseen prompts and writers"], LOST),
        (["bound"], "0.6"),
        (["target"], 3),
        (["backbone"], None),
        (["calibration"], [1]),
    ],
)
def test_a_damaged_record_is_refused_by_its_path(tmp_path, path, value):
    record = read_json(data_dir() / "results" / "reward.json")
    place = record
    for name in path[:-1]:
        place = place[name]
    if path:
        place[path[-1]] = value
    write_json(tmp_path / "reward.json", record if path else value)
    with pytest.raises(CourseError, match=str(tmp_path)):
        load_trial(tmp_path)


@pytest.mark.parametrize("text", ["", "[0.5]", "[null, null, null]"])
def test_damaged_scores_of_a_fold_are_refused(tiny_profile, tmp_path, monkeypatch, text):
    """They are neither trusted nor made again in silence."""
    stories = corpus(3, 3)
    mask = (stories["prompt_id"] == "p0").to_numpy()
    monkeypatch.setattr(reward_trial, "train_reward", lambda *_: {"run": "x", "log": []})
    (tmp_path / "scores-x.json").write_text(text)
    with pytest.raises(CourseError, match=str(tmp_path)):
        reward_trial._fold(tiny_profile, stories, (mask, ~mask), tmp_path, None)
