"""Checks of notebook 09: how many pairs there are, what explains the weights, and weights without broken responses."""

from __future__ import annotations

import numpy as np

from ...deviation import deviation_weights
from .tools import Learner, exercise, near, need, numbers


@exercise("most_pairs")
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
    for what, scores in cases.items():
        made, size = numbers(answer(scores)), len(scores)
        tied = np.unique(scores, return_counts=True)[1].max()
        need(
            2 * made <= size,
            f"For {what} you count {made:.0f} pairs, and there are not responses enough for them.",
        )
        need(
            made <= size - tied,
            f"For {what} you count {made:.0f} pairs: each of those that share a score needs a partner with another, "
            "and so many are not there.",
        )
        need(
            made == min(size // 2, size - tied),
            f"For {what} you count {made:.0f} pairs, and there are more: equal scores may not be paired with each "
            "other, but each of them may with a third.",
        )
    return "different scores, ties of two, three and five, equal scores, and a single response."


@exercise("share_explained")
def share_explained(answer: Learner) -> str:
    rng = np.random.default_rng(5)
    group = np.repeat(["w2", "w1", "w3"], (2, 3, 7))[rng.permutation(12)]
    by_name = np.array([{"w1": 0.2, "w2": 2.5, "w3": 1.1}[name] for name in group])
    all_of_it = numbers(answer(by_name, group))
    need(
        near(all_of_it, 1),
        f"Where each writer has one weight for all responses, the writer explains everything, 1; you get "
        f"{all_of_it:.2f}. (The groups differ in size: a large one has more say.)",
    )
    paired = np.array([0.4, 1.6, 0.9, 1.1, 0.1, 1.9])
    nothing = numbers(answer(paired, np.array(["a", "a", "b", "b", "c", "c"])))
    need(
        near(nothing, 0),
        f"Where all writers have the same mean, the writer explains nothing; you get {nothing:.2f}.",
    )
    weight = rng.uniform(0, 3, 12)
    value = numbers(answer(weight, group))
    need(0 <= value <= 1, f"A share of the variance lies between 0 and 1; yours is {value:.2f}.")
    named = np.array([{"w1": "z", "w2": "b", "w3": "k"}[name] for name in group])
    need(
        near(numbers(answer(weight, named)), value),
        "I gave the writers other names, and your share changed.",
    )
    need(
        near(numbers(answer(3 * weight + 1, group)), value),
        "I stretched and raised all weights alike, and your share changed: means must be compared with means, and "
        "variance with variance.",
    )
    means = np.array([weight[group == name].mean() for name in group])
    need(
        near(value, means.var() / weight.var()),
        "The simple cases are right, random weights are not: is it the variance (not its root) of N numbers, each "
        "response counted once, by that of N others?",
    )
    return "weights that are the writer's, that are not at all, and random ones of groups of unlike size."


@exercise("weights_without")
def weights_without(answer: Learner) -> str:
    for seed, where in ((1, [2]), (2, [0, 5]), (3, [])):
        rng = np.random.default_rng(seed)
        e = rng.normal(size=(8, 5)) + 1.5
        broken = np.isin(np.arange(8), where)
        e[broken] = -e[broken]  # far from all others
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        w, good = numbers(answer(e, broken), 8), int((~broken).sum())
        need(
            near(w[broken], 0),
            f"A broken response must weigh 0; one of yours weighs {w[broken].max(initial=0):.2f}.",
        )
        need(
            near(w.sum(), good),
            f"{good} of 8 responses are left, so the weights must sum to {good}; yours sum to {w.sum():.2f}.",
        )
        moved = e.copy()
        moved[broken] = rng.normal(size=(len(where), 5))
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        need(
            near(numbers(answer(moved, broken), 8), w),
            "I moved the broken response elsewhere, and the weights of the others changed: it still has a part in "
            "their distances or their range.",
        )
        need(
            near(w[~broken], deviation_weights(e[~broken])),
            "Sum and zeros are right, and the others' weights are not those that they have among themselves: does each "
            "stand in its own place?",
        )
    return "one broken response of eight, two, and none."
