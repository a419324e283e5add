"""Pairs from scores: the rules of pairing, against a plain loop too, and the shuffled control."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils import load_stories, make_pairs
from ddpo_utils.pairs import shuffled_weights


def scored(*scores: float, prompt: str = "A") -> pd.DataFrame:
    texts = [f"{prompt}{i}" for i in range(len(scores))]
    return pd.DataFrame({"prompt": prompt, "prompt_id": prompt, "text": texts, "score": scores})


def joined(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)


def plain_pairs(stories: pd.DataFrame, min_gap: float, seed: int) -> list[tuple[int, int]]:
    """The drawing on frames, prompt by prompt: what the stored outputs were made with."""
    rng, rows = np.random.default_rng(seed), []
    for _, group in stories.groupby("prompt_id", sort=True):
        votes, free = group["score"].to_numpy(), rng.permutation(len(group)).tolist()
        for gap in [min_gap, 0.0] if min_gap else [0.0]:
            alone = []
            while free:
                one = free.pop()
                gaps = [abs(votes[p] - votes[one]) for p in free]
                partners = [p for p, g in zip(free, gaps, strict=True) if g > 0 and g >= gap]
                if not partners:
                    alone.append(one)
                    continue
                other = partners[rng.integers(len(partners))]
                free.remove(other)
                rows.append(tuple(group.index[sorted((one, other), key=lambda p: -votes[p])]))
            free = alone
    return rows


@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", [42, 7])
def test_the_bundled_pairs_are_those_of_the_plain_loop(gap, seed):
    stories = load_stories()
    for part in (stories, stories[stories["source"] == "authors"]):
        pairs = make_pairs(part, gap, seed)
        rows = list(zip(pairs["chosen_row"], pairs["rejected_row"], strict=True))
        assert rows == plain_pairs(part, gap, seed)


@settings(max_examples=100)
@given(
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=4),
    gap=st.sampled_from([0.0, 2.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_the_rules_of_pairing(prompts, gap, seed):
    frame = joined(*[scored(*scores, prompt=f"P{i}") for i, scores in enumerate(prompts)])
    if all(len(set(scores)) == 1 for scores in prompts):
        with pytest.raises(ValueError, match="pair"):
            make_pairs(frame, gap, seed)
        return
    pairs = make_pairs(frame, gap, seed)
    used = [*pairs["chosen_row"], *pairs["rejected_row"]]
    assert len(used) == len(set(used)) and (pairs["gap"] > 0).all()
    for row in pairs.itertuples():
        won, lost = frame.loc[row.chosen_row], frame.loc[row.rejected_row]
        assert (row.prompt_id, row.prompt, row.chosen) == (won.prompt_id, won.prompt, won.text)
        assert (row.prompt_id, row.rejected) == (lost.prompt_id, lost.text)
        assert row.gap == won.score - lost.score
    unused = frame.drop(index=used).groupby("prompt_id")["score"].nunique()
    assert (unused == 1).all()  # no two that differ are left over
    for _, group in pairs[pairs["gap"] < gap].groupby("prompt_id"):
        scores = frame.loc[[*group["chosen_row"], *group["rejected_row"]], "score"]
        assert scores.max() - scores.min() < gap  # no partner at the wanted gap among these


def test_a_wanted_gap_comes_first_and_small_gaps_fill_up():
    frame = scored(0, 1, 5, 6)
    for seed in range(20):
        pairs = make_pairs(frame, min_gap=5, seed=seed)
        assert (pairs["gap"] >= 5).any() and len(pairs) == 2
    assert min(make_pairs(frame, seed=seed)["gap"].min() for seed in range(20)) == 1
    assert not make_pairs(frame, seed=1).equals(make_pairs(frame, seed=2))


def test_equal_texts_are_never_paired():
    frame = scored(1, 2, 3, 4).assign(text=["same", "same", "same", "other"])
    pairs = make_pairs(frame)
    assert len(pairs) == 1 and set(pairs.loc[0, ["chosen", "rejected"]]) == {"same", "other"}


FAULTS = [  # (the frame, min_gap, what is named)
    (pd.concat([scored(1, 2), scored(1, 2)]), 0, "index repeats"),
    (scored(1, 1), 0, "No pair"),
    (scored(1, np.nan, 3), 0, "index 1"),
    (scored(1, 2, np.inf), 0, "index 2"),
    (scored(1, "2", 3), 0, "index 1"),
    (scored(10**400, 2), 0, "index 0"),
    (scored(1, 2).assign(prompt_id=["A", None]), 0, "index 1"),
    (scored(1, 2).drop(columns="score"), 0, "'score'"),
    (scored(1, 2), np.nan, "min_gap is nan"),
    (scored(1, 2), -1, "min_gap is -1"),
    (scored(1, 2), np.inf, "min_gap is inf"),
    (scored(1, 2), "1", "min_gap is '1'"),
    (scored(1, 2), None, "min_gap is None"),
]


@pytest.mark.parametrize(("frame", "gap", "named"), FAULTS)
def test_faults_are_named(frame, gap, named):
    with pytest.raises(ValueError, match=named):
        make_pairs(frame, gap)


def test_shuffled_weights_stay_within_their_prompt():
    pairs = pd.DataFrame({"prompt_id": list("abacabaaca")}, index=range(5, 15))
    weight = np.arange(10.0)
    shuffled = shuffled_weights(pairs, weight, 3)
    prompts = pairs["prompt_id"].to_numpy()
    for name in "abc":
        own = prompts == name
        assert sorted(shuffled[own]) == sorted(weight[own])
    assert not np.array_equal(shuffled, weight) and weight.tolist() == list(range(10))
    assert np.array_equal(shuffled, shuffled_weights(pairs, weight, 3))
    assert not np.array_equal(shuffled, shuffled_weights(pairs, weight, 4))
    with pytest.raises(ValueError, match="10 numbers"):
        shuffled_weights(pairs, weight[:9], 3)
