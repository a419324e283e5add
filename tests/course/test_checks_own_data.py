"""Exercises of notebook 09: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from checked import assert_enough, assert_right, assert_told

from ddpo_utils import deviation_weights


def pairs_of(scores):
    commonest = np.unique(scores, return_counts=True)[1].max()
    return min(len(scores) // 2, len(scores) - commonest)


def every_pair(scores):
    return sum(a != b for a, b in combinations(scores, 2))


def only_untied(scores):
    counts = np.unique(scores, return_counts=True)[1]
    return (counts == 1).sum() // 2


def share(weight, group):
    means = np.empty(len(weight))
    for name in np.unique(group):
        means[group == name] = weight[group == name].mean()
    return means.var() / weight.var()


def means_counted_once(weight, group):
    return np.var([weight[group == name].mean() for name in np.unique(group)]) / weight.var()


def by_code(weight, group):
    codes = np.unique(group, return_inverse=True)[1]
    return np.corrcoef(weight, codes)[0, 1] ** 2


def what_is_left(weight, group):
    return 1 - share(weight, group)


def root(weight, group):
    return np.sqrt(share(weight, group))


def not_divided(weight, group):
    return share(weight, group) * weight.var()


def without(e, broken):
    weight = np.zeros(len(e))
    weight[~broken] = deviation_weights(e[~broken])
    return weight


def zeroed_afterwards(e, broken):
    return np.where(broken, 0, deviation_weights(e))


def zeroed_and_scaled(e, broken):
    weight = zeroed_afterwards(e, broken)
    return weight * (~broken).sum() / weight.sum()


def moved_up(e, broken):
    return np.concatenate([deviation_weights(e[~broken]), np.zeros(broken.sum())])


def the_broken_kept(e, broken):
    return np.where(broken, deviation_weights(e), without(e, broken))


def rotated(e, broken):
    weight = without(e, broken)
    weight[~broken] = np.roll(weight[~broken], 1)
    return weight


RIGHT = {"most_pairs": pairs_of, "share_explained": share, "weights_without": without}
WRONG = [
    (
        "most_pairs",
        every_pair,
        "eight different scores you count 28 pairs, and there are not responses enough",
    ),
    (
        "most_pairs",
        lambda s: len(s) // 2,
        "five share a score you count 4 pairs: each of those that share",
    ),
    (
        "most_pairs",
        lambda s: len(np.unique(s)) // 2,
        "five share a score you count 2 pairs, and there are more",
    ),
    ("most_pairs", only_untied, "and there are more: equal scores may not be paired"),
    ("share_explained", means_counted_once, "the writer explains everything, 1; you get"),
    ("share_explained", by_code, "the writer explains everything, 1; you get"),
    ("share_explained", what_is_left, r"explains everything, 1; you get 0\.00"),
    ("share_explained", root, "not its root"),
    ("share_explained", not_divided, "explains everything, 1; you get"),
    ("weights_without", zeroed_afterwards, r"7 of 8 responses are left, .* yours sum to"),
    ("weights_without", zeroed_and_scaled, "I moved the broken response elsewhere"),
    ("weights_without", lambda e, broken: deviation_weights(e), "A broken response must weigh 0"),
    ("weights_without", the_broken_kept, "A broken response must weigh 0"),
    ("weights_without", moved_up, "A broken response must weigh 0"),
    ("weights_without", lambda e, broken: deviation_weights(e[~broken]), "must return 8 numbers"),
    ("weights_without", rotated, "does each stand in its own place"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert_right(name, RIGHT[name], lambda: capsys.readouterr().out)


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    assert_told(name, answer, says)


def test_every_exercise_has_three_wrong_answers():
    assert_enough(RIGHT, WRONG)
