"""DivPO's pairs, against a literal reading of the rule, and what it leaves unused."""

from __future__ import annotations

from collections.abc import Callable
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


def by_text(deviations: dict[str, float]) -> Callable[[pd.DataFrame, Any], list[float]]:
    return lambda rows, groups: [deviations[text] for text in rows["text"]]


def equal(rows: pd.DataFrame, groups: Any) -> np.ndarray:
    return np.ones(len(rows))


def test_sixteen_responses_on_paper() -> None:
    """n = 4: the good ones have scores 16 to 13, the bad ones 1 to 4."""
    stories = corpus({"a": list(range(1, 17))})
    deviation = dict.fromkeys(stories["text"], 1.0)
    text = dict(zip(stories["score"], stories["text"], strict=True))
    deviation |= {text[16]: 0.2, text[15]: 1.7, text[14]: 0.1, text[13]: 2.0}
    deviation |= {text[1]: 3.0, text[2]: 0.3, text[3]: 0.5, text[4]: 0.2}
    pairs, unused = divpo_pairs(stories, by_text(deviation))
    assert pairs[["chosen", "rejected"]].values.tolist() == [
        [text[13], text[4]],
        [text[15], text[2]],
    ]
    assert pairs["gap"].tolist() == [9.0, 13.0] and unused == 12
    assert list(pairs.columns) == list(make_pairs(stories).columns)
    assert stories.loc[pairs["chosen_row"], "text"].tolist() == pairs["chosen"].tolist()
    assert pairs["prompt"].tolist() == ["about a"] * 2


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
    pairs, unused = divpo_pairs(stories, by_text(weight))
    assert list(zip(pairs["chosen"], pairs["rejected"], strict=True)) == literal(stories, weight)
    assert unused == len(stories) - 2 * len(pairs)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=20), st.integers(0, 1000))
def test_equal_scores_are_never_paired_and_no_response_is_used_twice(
    scores: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stories = corpus({"a": scores, "b": [0, 1]})
    values = dict(zip(stories["text"], rng.random(len(stories)), strict=True))
    pairs, _ = divpo_pairs(stories, by_text(values), seed)
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

    whole = dict(zip(stories["score"], deviation(stories, np.zeros(len(stories))), strict=True))
    assert whole[10] < whole[12]
    pairs, _ = divpo_pairs(stories, deviation)
    chosen = stories.loc[pairs["chosen_row"], "score"].tolist()
    assert chosen[0] == 10
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


def test_the_bundled_stories_leave_two_thirds_unused() -> None:
    stories = load_stories()
    stories = stories[(stories["source"] == "authors") & (stories["split"] == "train")]
    pairs, unused = divpo_pairs(stories, equal)
    prompts = stories["prompt_id"].nunique()
    assert len(pairs) == 2 * prompts and unused == 8 * prompts  # twelve authors a prompt
