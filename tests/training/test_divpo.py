"""DivPO's pairs, against a literal reading of the rule, and what it leaves unused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpo_utils import deviation_weights, divpo_pairs, load_stories, make_pairs


def corpus(scores: dict[str, list[float]]) -> pd.DataFrame:
    """Stories with these scores by prompt, the prompts' rows mixed."""
    frame = pd.Series(scores).explode().rename_axis("prompt_id").reset_index(name="score")
    frame["prompt"] = "about " + frame["prompt_id"]
    frame["text"] = [f"story {i}" for i in range(len(frame))]
    return load_stories(frame.sample(frac=1, random_state=0))


def equal(rows: pd.DataFrame, groups: Any) -> np.ndarray:
    return np.ones(len(rows))


def literal(stories: pd.DataFrame, weight: dict[str, float]) -> list[tuple[str, str]]:
    """The rule with distinct scores, a prompt at a time."""
    out = []
    for _, responses in stories.groupby("prompt_id", sort=True):
        best = responses.sort_values("score", ascending=False)["text"].tolist()
        n = min(max(2, len(best) // 4), len(best) // 2)
        good = sorted(best[:n], key=lambda t: -weight[t])
        bad = sorted(best[::-1][:n], key=lambda t: weight[t])
        out += list(zip(good, bad, strict=True))[:2]
    return out


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_rule_read_literally(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    stories = corpus(
        {f"p{i}": rng.permutation(size).tolist() for i, size in enumerate([*sizes, 2])}
    )
    weight = dict(zip(stories["text"], rng.random(len(stories)), strict=True))
    pairs, unused = divpo_pairs(stories, lambda rows, _: rows["text"].map(weight))
    assert list(zip(pairs["chosen"], pairs["rejected"], strict=True)) == literal(stories, weight)
    assert unused == len(stories) - 2 * len(pairs)
    assert list(pairs.columns) == list(make_pairs(stories).columns)
    chosen, rejected = (stories.loc[pairs[f"{side}_row"]] for side in ("chosen", "rejected"))
    assert chosen["text"].tolist() == pairs["chosen"].tolist()
    assert (chosen["score"].to_numpy() - rejected["score"].to_numpy()).tolist() == [*pairs["gap"]]


@given(st.lists(st.integers(0, 2), min_size=2, max_size=20), st.integers(0, 1000))
def test_equal_scores_are_never_paired_and_no_response_is_used_twice(
    scores: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stories = corpus({"a": scores, "b": [0, 1]})
    values = dict(zip(stories["text"], rng.random(len(stories)), strict=True))
    pairs, _ = divpo_pairs(stories, lambda rows, _: rows["text"].map(values), seed)
    assert (pairs["gap"] > 0).all() and (pairs.groupby("prompt_id").size() <= 2).all()
    used = [*pairs["chosen_row"], *pairs["rejected_row"]]
    assert len(used) == len(set(used))
    assert ("a" in set(pairs["prompt_id"])) == (len(set(scores)) > 1)


def test_of_equal_scores_the_seed_decides() -> None:
    stories = corpus({"a": [1] * 10 + [0]})
    made = {tuple(divpo_pairs(stories, equal, seed)[0]["chosen"]) for seed in range(20)}
    assert len(made) > 3
    assert divpo_pairs(stories, equal, 5)[0].equals(divpo_pairs(stories, equal, 5)[0])


def test_deviation_is_that_within_the_good_ones_alone() -> None:
    """The outlier of the good ones is no outlier of the prompt: middling scores are near it."""
    angles = {12: 0.0, 11: 0.1, 10: 1.5, **dict.fromkeys(range(4, 10), 1.5), 3: 0.0, 2: 0.0, 1: 3.0}
    stories = corpus({"a": list(angles)})

    def deviation(rows: pd.DataFrame, groups: Any) -> np.ndarray:
        turned = np.array([angles[score] for score in rows["score"]])
        return deviation_weights(np.stack([np.cos(turned), np.sin(turned)], 1), groups=groups)

    pairs, _ = divpo_pairs(stories, deviation)
    assert stories.loc[pairs["chosen_row"][0], "score"] == 10
    rejected = stories.loc[pairs["rejected_row"], "score"].tolist()
    assert 1 not in rejected  # the outlier of the bad ones


@pytest.mark.parametrize(
    "stories",
    [
        corpus({"a": [1.0, float("nan")]}),
        corpus({"a": [1, 1, 1], "b": [2]}),
        pd.concat([corpus({"a": [1, 2]})] * 2),
    ],
)
def test_stories_without_pairs_are_refused(stories: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"score|pair|index"):
        divpo_pairs(stories, equal)
