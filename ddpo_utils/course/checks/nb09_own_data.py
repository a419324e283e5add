"""Checks of notebook 09: the number of pairs, what explains the weights, weights without faults."""

from __future__ import annotations

import numpy as np

from ...corpus import audit
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
        "the scores 4, 7, 7, 8": np.array([4, 7, 7, 8]),
    }
    rng = np.random.default_rng(0)
    for n in (3, 4, 4, 5, 6, 7, 8) * 8:
        scores = rng.choice([3, 7, 8, 9], n, p=rng.dirichlet([0.5] * 4))
        cases[f"the scores {', '.join(map(str, scores))}"] = scores
    for case, scores in cases.items():
        right = audit.most_pairs(scores)
        pairs = answer.number(scores)
        count = f"For {case} you count {pairs:.0f} pairs"
        need(2 * pairs <= len(scores), f"{count}: that takes more responses than there are.")
        need(pairs <= right, f"{count}: partners must have different scores.")
        need(pairs == right, f"{count}, and more are possible: pair tied responses with others.")
    return "different scores, ties of two, three and five, equal scores, and a single response."


@exercise
def share_explained(answer: Learner) -> str:
    rng = np.random.default_rng(5)
    writers = np.array(["w1", "w2", "w3"])
    place = rng.permutation(np.repeat([0, 1, 2], (3, 2, 7)))
    group = writers[place]
    share = answer.number(np.array([0.2, 2.5, 1.1])[place], group)
    agree(share, 1, "If each writer has one weight, the writer explains all: the share is 1.")
    share = answer.number(np.array([0.4, 1.6, 0.9, 1.1, 0.1, 1.9]), np.repeat(writers, 2))
    agree(share, 0, "If all writers have the same mean, the writer explains nothing.")
    weight = rng.uniform(0, 3, 12)
    share = answer.number(weight, group)
    need(0 <= share <= 1, f"A share of the variance is between 0 and 1; yours is {share:.2f}.")
    renamed = answer.number(weight, np.array(["z", "b", "k"])[place])
    need(near(renamed, share), "I gave the writers other names, and your share changed.")
    scaled = answer.number(3 * weight + 1, group)
    need(near(scaled, share), "I scaled and raised all weights alike, and your share changed.")
    means = np.array([weight[group == name].mean() for name in group])
    agree(share, means.var() / weight.var(), "Take variances (no roots), groups weighted by size.")
    tested = "weights that are the writer's, that are not at all"
    return f"{tested}, and random ones of groups of different size."


@exercise
def weights_without(answer: Learner) -> str:
    for seed, faulty in ((1, [2]), (2, [0, 5]), (3, [])):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(8, 5)) + 1.5
        rows[faulty] = -rows[faulty]  # far from all others
        broken = np.isin(np.arange(8), faulty)
        left = 8 - len(faulty)
        weight = answer.numbers(8, _unit(rows), broken)
        agree(weight[broken], 0, "A broken response must weigh 0; one of yours does not.")
        agree(weight.sum(), left, f"{left} of 8 responses are left: the sum must be {left}.")
        moved = rows.copy()
        moved[faulty] = rng.normal(size=(len(faulty), 5))
        same = near(answer.numbers(8, _unit(moved), broken), weight)
        need(same, "I moved the broken response and other weights changed: it still takes part.")
        right = deviation_weights(rows[~broken])
        agree(weight[~broken], right, "The others need their own weights, in their places.")
    return "one broken response of eight, two, and none."


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
