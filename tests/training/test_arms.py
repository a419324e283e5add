"""Arms: their names, the stories they are made of, and the weights of each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from awkward_posts import small_posts
from tiny_runs import PAIRS, STORIES, tiny_profile

from ddpo_utils import (
    CourseError,
    Profile,
    deviation_weights,
    get_profile,
    load_encoder,
    load_stories,
)
from ddpo_utils.corpus.stories import development_prompts, load_prompts
from ddpo_utils.pairs import shuffled_weights
from ddpo_utils.training.arms import (
    Arm,
    all_stories,
    arm_weights,
    response_weights,
    training_stories,
)


@pytest.fixture
def profile(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.chdir(tmp_path)  # build/ lies below the working directory
    return tiny_profile(tiny_folder, steps=2, batch_size=4)


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("sft", Arm("sft", "style")),
        ("dpo", Arm("dpo", "style")),
        ("ddpo-sem", Arm("ddpo", "semantic")),
        ("divpo", Arm("divpo")),
        ("dorpo-sty", Arm("dorpo", "style")),
        ("shuffled", Arm("ddpo", control=True)),
        ("shuffled-sty", Arm("ddpo", "style", control=True)),
        ("dorpo-shuffled", Arm("dorpo", control=True)),
        ("dorpo-shuffled-sem", Arm("dorpo", "semantic", control=True)),
    ],
)
def test_names(name: str, arm: Arm) -> None:
    command = name.removesuffix("-sem").removesuffix("-sty")
    assert arm.name == name and arm.command == command
    assert Arm.parse(arm.command, arm.weights) == arm
    if name != command:
        assert Arm.parse(name, "both") == arm  # a suffix goes before `weights`


@pytest.mark.parametrize(
    "arguments", [("dddpo",), ("ddpo-votes",), ("ddpo-",), ("ddpo-sty-sem",), ("ddpo", "votes")]
)
def test_unknown_arms_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CourseError, match=arguments[-1]):
        Arm.parse(*arguments)


def test_of_the_bundled_stories_the_authors_training_part_is_trained_on() -> None:
    stories, train = load_stories(), training_stories(get_profile("laptop"))
    assert set(train["source"]) == {"authors"} and set(train["split"]) == {"train"}
    test = set(stories.loc[stories["split"] == "test", "prompt_id"])
    held_out = test | set(load_prompts()["prompt_id"]) | set(development_prompts())
    assert not set(train["prompt_id"]) & held_out
    assert len(train) == 12 * train["prompt_id"].nunique()


def test_of_posts_the_training_split_is_trained_on(profile: Profile, tmp_path: Path) -> None:
    posts = str(small_posts(tmp_path / "posts.parquet", posts=20))
    profile = replace(profile, data=posts, max_length=1024)
    stories, train = all_stories(profile), training_stories(profile)
    test = stories[stories["split"] == "test"]
    assert len(test) and len(train) + len(test) == len(stories) == 120
    assert not set(train["prompt_id"]) & set(test["prompt_id"])
    assert train.index.equals(stories.index[stories["split"] == "train"])  # rows keep their labels


def test_stories_without_a_training_part_are_refused(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "Sea.", "text": "Waves.", "split": "test"}))
    with pytest.raises(CourseError, match=r"own\.jsonl"):
        training_stories(replace(profile, data=str(path)))


def winners_weights(encoders: list[str]) -> np.ndarray:
    """The winners' weights, a prompt at a time."""
    weight: dict[int, float] = {}
    for _, pairs in PAIRS.groupby("prompt_id"):
        rows = STORIES.loc[sorted({*pairs["chosen_row"], *pairs["rejected_row"]})]
        embeddings = [load_encoder(name).encode(rows["text"].tolist()) for name in encoders]
        weight |= dict(zip(rows.index, deviation_weights(*embeddings), strict=True))
    return np.array([weight[row] for row in PAIRS["chosen_row"]])


def test_weights_are_the_winners_deviation(profile: Profile) -> None:
    arms = ["dpo", "ddpo", "ddpo-sem", "ddpo-sty", "orpo", "dorpo", "dorpo-sty", "divpo-sem"]
    arms.append("shuffled")
    weights = arm_weights(STORIES, PAIRS, profile, arms)
    assert list(weights) == arms
    assert {arm for arm in arms if weights[arm] is None} == {"dpo", "orpo", "divpo-sem"}
    assert np.array_equal(weights["dorpo"], weights["ddpo"])
    assert np.array_equal(weights["dorpo-sty"], weights["ddpo-sty"])
    assert np.allclose(weights["ddpo"], winners_weights(["stylometric", "delta"]))
    assert np.allclose(weights["ddpo-sem"], winners_weights(["stylometric"]))
    assert np.allclose(weights["ddpo-sty"], winners_weights(["delta"]))
    floored = arm_weights(STORIES, PAIRS, replace(profile, floor=0.2), ["ddpo"])["ddpo"]
    assert np.allclose(floored, 0.2 + 0.8 * weights["ddpo"])
    control = shuffled_weights(PAIRS, weights["ddpo"], profile.seed)
    assert np.array_equal(weights["shuffled"], control)
    assert not np.array_equal(control, weights["ddpo"])


def test_weights_are_made_of_the_responses_in_pairs(profile: Profile) -> None:
    weights = response_weights(STORIES, PAIRS[1:], profile)  # one pair's responses take no part
    assert set(weights.index) == {*PAIRS["chosen_row"][1:], *PAIRS["rejected_row"][1:]}
    prompts = STORIES["prompt_id"].loc[weights.index]
    assert np.allclose(weights.groupby(prompts).sum(), prompts.value_counts().sort_index())
