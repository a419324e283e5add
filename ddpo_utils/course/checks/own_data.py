"""Checks of notebook 09: the number of pairs, what explains the weights, weights without faults."""

from __future__ import annotations

import numpy as np

from ...deviation import deviation_weights
from .tools import Learner, agree, exercise, near, need


@exercise
def most_pairs(answer: Learner) -> str:
    cases = {
        "eight different scores": np.arange(1, 9),
        "seven different scores": np.arange(7) / 2,
        "eight responses of which five share a score": np.array([7, 3, 7, 7, 5, 7, 2, 7]),
        "eight responses in four ties of two": np.array([1, 1, 2, 2, 3, 3, 4, 4]),
        "eight responses of which three share a score": np.array([6, 6, 6, 1, 2, 3, 4, 5]),
        "six equal scores": np.full(6, 4.0),
        "a single response": np.array([5]),
    }
    for case, scores in cases.items():
        pairs, size = answer.number(scores), len(scores)
        tied = np.unique(scores, return_counts=True)[1].max()
        count = f"For {case} you count {pairs:.0f} pairs"
        need(2 * pairs <= size, f"{count}: that takes more responses than there are.")
        need(pairs <= size - tied, f"{count}: each tied response needs an untied partner.")
        most = pairs == min(size // 2, size - tied)
        need(most, f"{count}, and more are possible: tied responses may be paired with others.")
    return "different scores, ties of two, three and five, equal scores, and a single response."


@exercise
def share_explained(answer: Learner) -> str:
    rng = np.random.default_rng(5)
    group = np.repeat(["w2", "w1", "w3"], (2, 3, 7))[rng.permutation(12)]
    by_writer = np.select([group == "w1", group == "w2"], [0.2, 2.5], 1.1)
    message = "If each writer has one weight, the writer explains everything: the share is 1."
    agree(answer.number(by_writer, group), 1, message)
    equal_means = np.array([0.4, 1.6, 0.9, 1.1, 0.1, 1.9])
    share = answer.number(equal_means, np.array(["a", "a", "b", "b", "c", "c"]))
    agree(share, 0, "If all writers have the same mean, the writer explains nothing.")
    weight = rng.uniform(0, 3, 12)
    share = answer.number(weight, group)
    need(0 <= share <= 1, f"A share of the variance is between 0 and 1; yours is {share:.2f}.")
    renamed = np.select([group == "w1", group == "w2"], ["z", "b"], "k")
    same = near(answer.number(weight, renamed), share)
    need(same, "I gave the writers other names, and your share changed.")
    same = near(answer.number(3 * weight + 1, group), share)
    need(same, "I scaled and raised all weights alike, and your share changed.")
    means = np.array([weight[group == name].mean() for name in group])
    right = near(share, means.var() / weight.var())
    need(right, "Random weights are wrong: take variances (no roots), with one mean a response.")
    tested = "weights that are the writer's, that are not at all"
    return f"{tested}, and random ones of groups of unlike size."


@exercise
def weights_without(answer: Learner) -> str:
    for seed, faulty in ((1, [2]), (2, [0, 5]), (3, [])):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(8, 5)) + 1.5
        broken = np.isin(np.arange(8), faulty)
        rows[broken] = -rows[broken]  # far from all others
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        weight, left = answer.numbers(8, rows, broken), 8 - len(faulty)
        need(near(weight[broken], 0), "A broken response must weigh 0; one of yours does not.")
        agree(weight.sum(), left, f"{left} of 8 responses are left: the sum must be {left}.")
        moved = rows.copy()
        moved[broken] = rng.normal(size=(len(faulty), 5))
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        same = near(answer.numbers(8, moved, broken), weight)
        need(same, "I moved the broken response and other weights changed: it still takes part.")
        right = near(weight[~broken], deviation_weights(rows[~broken]))
        need(right, "The others need the weights that they have among themselves, in their places.")
    return "one broken response of eight, two, and none."
