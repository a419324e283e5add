"""The split of r/writingPrompts: a tenth by prompt, reposts on one side."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils.corpus.writing_prompts import split_posts


def test_reposts_stay_together_and_keep_their_own_prompt_id(loaded):
    frame, report = loaded
    first = frame.drop_duplicates("prompt_id")
    for family, size in (("door opens", 2), ("cartographer", 3)):
        part = first[first["prompt"].str.lower().str.contains(family)]
        assert len(part) == size and part["split"].nunique() == 1
    assert report["reposts"] == 5


def test_reposts_are_told_by_title_or_prompt():
    titles = ["A door!", "", "a  DOOR", "Other", "Other door", "", "", "🙂", "🙃"]
    prompts = ["A door!", "B", "a  DOOR\ntext", "Other\ndoor", "Other door", "C", "b.", "🙂", "🙃"]
    family = split_posts(titles, prompts, 0)[1]
    together = {(i, j) for i, j in combinations(range(len(titles)), 2) if family[i] == family[j]}
    # empty titles join nobody, and emoji alone are told apart
    assert together == {(0, 2), (1, 6), (3, 4)}


@settings(max_examples=100)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=80),
    seed=st.integers(0, 99),
)
def test_the_rules_of_the_split(pairs, seed):
    titles = [f"title {t}" if t else "" for t, _ in pairs]
    prompts = [f"prompt {p}" for _, p in pairs]
    test, family = split_posts(titles, prompts, seed)
    # families by brute force: two posts that share something take the smaller label
    label = list(range(len(pairs)))
    for _ in pairs:
        for i, j in combinations(range(len(pairs)), 2):
            if prompts[i] == prompts[j] or (titles[i] and titles[i] == titles[j]):
                label[i] = label[j] = min(label[i], label[j])
    agreeing = set(zip(label, family.tolist(), strict=True))
    assert len(agreeing) == len(set(label)) == len(set(family.tolist()))
    assert all(len(set(test[family == f])) == 1 for f in set(family))
    sizes = Counter(label).values()
    if len(sizes) == 1:
        assert not test.any()
    else:
        assert 0 < test.sum() <= max(1, round(len(pairs) / 10), min(sizes)) and not test.all()
    if set(sizes) == {1}:  # the order of the source does not matter
        assert (split_posts(titles[::-1], prompts[::-1], seed)[0][::-1] == test).all()


def test_the_split_is_a_tenth_by_its_seed_and_agrees_between_sample_and_whole():
    titles = np.array([f"title {n}" for n in range(2000)])
    test, _ = split_posts(titles, titles, 42)
    assert test.sum() == 200
    other = split_posts(titles, titles, 43)[0]
    assert 5 <= (test & other).sum() <= 45  # 20 by chance
    sample = np.random.default_rng(0).permutation(2000)[:500]
    part = split_posts(titles[sample], titles[sample], 42)[0]
    assert part.sum() == 50 and (part == test[sample]).mean() > 0.95
    # as first released: another order would move posts between training and test
    assert np.flatnonzero(test)[:5].tolist() == [8, 22, 30, 41, 45]
