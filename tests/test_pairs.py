"""Pairs out of stories: the rules of pairing, against a plain loop too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils import CourseError, load_stories, make_pairs
from ddpo_utils.training.recipes import to_dataset


def scored(*scores: float, prompt: str = "A") -> pd.DataFrame:
    return pd.DataFrame(
        [{"prompt": prompt, "text": f"{prompt}{i}", "score": s} for i, s in enumerate(scores)]
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    prompts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=4),
    gap=st.sampled_from([0.0, 2.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_the_rules_of_pairing(prompts, gap, seed):
    frame = load_stories(pd.concat([scored(*s, prompt=f"P{i}") for i, s in enumerate(prompts)]))
    if all(len(set(s)) == 1 for s in prompts):
        with pytest.raises(CourseError, match="No preference pair"):
            make_pairs(frame, gap, seed)
        return
    pairs = make_pairs(frame, gap, seed)
    used = pairs["chosen_row"].tolist() + pairs["rejected_row"].tolist()
    assert len(used) == len(set(used))  # each response once
    won, lost = frame.loc[pairs["chosen_row"]], frame.loc[pairs["rejected_row"]]
    assert (won["score"].to_numpy() > lost["score"].to_numpy()).all()  # ties never
    for column in ("prompt", "prompt_id"):
        assert (won[column].to_numpy() == lost[column].to_numpy()).all()
        assert (pairs[column].to_numpy() == won[column].to_numpy()).all()
    assert (pairs["chosen"].to_numpy() == won["text"].to_numpy()).all()
    assert (pairs["rejected"].to_numpy() == lost["text"].to_numpy()).all()
    assert (pairs["gap"].to_numpy() == won["score"].to_numpy() - lost["score"].to_numpy()).all()
    for prompt_id, group in frame.drop(index=used).groupby("prompt_id"):
        assert group["score"].nunique() == 1, (
            f"two responses of {prompt_id} that differ were left over"
        )
    # whoever is in a pair below the wanted gap found no partner at that gap among those
    small = pairs[pairs["gap"] < gap]
    for _, group in small.groupby("prompt_id"):
        scores = frame.loc[[*group["chosen_row"], *group["rejected_row"]], "score"]
        assert scores.max() - scores.min() < gap
    pd.testing.assert_frame_equal(pairs, make_pairs(frame, gap, seed))


def plain_pairs(stories: pd.DataFrame, min_gap: float, seed: int) -> list[tuple[int, int]]:
    """The drawing, prompt by prompt on frames: slow, and what the stored outputs of the notebooks were made with."""
    rng, rows = np.random.default_rng(seed), []
    for _, group in stories.groupby("prompt_id", sort=True):
        votes, free = group["score"].to_numpy(), rng.permutation(len(group)).tolist()
        for gap in [min_gap, 0.0] if min_gap else [0.0]:
            alone = []
            while free:
                one = free.pop()
                partners = [
                    p for p in free if votes[p] != votes[one] and abs(votes[p] - votes[one]) >= gap
                ]
                if partners:
                    other = partners[rng.integers(len(partners))]
                    free.remove(other)
                    rows.append(tuple(group.index[sorted((one, other), key=lambda p: -votes[p])]))
                else:
                    alone.append(one)
            free = alone
    return rows


@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seed", [42, 7])
def test_the_bundled_pairs_are_those_of_the_plain_loop(gap, seed):
    stories = load_stories()
    for part in (
        stories,
        stories[stories["source"] == "authors"],
        stories.sample(frac=0.7, random_state=seed),
    ):
        pairs = make_pairs(part, gap, seed)
        assert list(zip(pairs["chosen_row"], pairs["rejected_row"], strict=True)) == plain_pairs(
            part, gap, seed
        )


def test_a_wanted_gap_is_preferred_and_small_gaps_fill_up():
    frame = load_stories(scored(0, 1, 5, 6))
    for seed in range(20):
        assert (make_pairs(frame, min_gap=5, seed=seed)["gap"] >= 5).any()
        assert len(make_pairs(frame, min_gap=5, seed=seed)) == 2
    assert min(make_pairs(frame, seed=seed)["gap"].min() for seed in range(20)) == 1


def test_pairs_depend_on_the_seed_alone():
    stories = load_stories()
    train = stories[(stories["split"] == "train") & (stories["source"] == "authors")]
    first = make_pairs(train)
    pd.testing.assert_frame_equal(first, make_pairs(train.copy(), seed=42))
    assert not first.equals(make_pairs(train, seed=43))
    assert 24 * 5 <= len(first) <= 24 * 6
    assert set(first["chosen_row"]) | set(first["rejected_row"]) <= set(train.index)


def test_a_prompt_with_one_response_is_passed_over():
    frame = load_stories(pd.concat([scored(1, prompt="lonely"), scored(1, 2, prompt="B")]))
    assert make_pairs(frame)["prompt"].tolist() == ["B"]
    with pytest.raises(CourseError, match="at least one prompt needs two responses"):
        make_pairs(load_stories(scored(1, prompt="lonely")))


def test_a_repeated_index_and_a_missing_score_are_refused():
    frame = load_stories(scored(1, 2, 3))
    with pytest.raises(CourseError, match="index repeats"):
        make_pairs(pd.concat([frame, frame]))
    frame.loc[1, "score"] = np.nan
    with pytest.raises(CourseError, match=r"index 1 .* has no score"):
        make_pairs(frame)


def test_pairs_become_a_conversational_dataset():
    pairs = make_pairs(load_stories(scored(1, 2, 3, 4)))
    data = to_dataset(pairs, pd.Series([0.5, 1.5], index=[9, 8]))
    assert data["weight"][:] == [0.5, 1.5]
    for row, (_, pair) in zip(data, pairs.iterrows(), strict=True):
        assert row["prompt"] == [{"role": "user", "content": pair["prompt"]}]
        assert row["chosen"] == [{"role": "assistant", "content": pair["chosen"]}]
        assert row["rejected"] == [{"role": "assistant", "content": pair["rejected"]}]
    assert to_dataset(pairs)["weight"][:] == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"2 pairs.*3 weights"):
        to_dataset(pairs, [1.0, 1.0, 1.0])
