"""Checks of notebook 02: weights from distances, a floor, ties, and what is left of the weights among winners."""

from __future__ import annotations

import numpy as np

from .tools import Learner, exercise, near, need, numbers

ON_PAPER = np.array(
    [[0, 0.1, 0.3, 0.8], [0.1, 0, 0.5, 0.9], [0.3, 0.5, 0, 1.0], [0.8, 0.9, 1.0, 0]]
)
NUMBER = {4: "four", 6: "six", 7: "seven"}


def _weights(raw: np.ndarray) -> np.ndarray:
    above = raw - raw.min()
    return above * len(raw) / above.sum()


def _distances(k: int, seed: int) -> np.ndarray:
    half = np.triu(np.random.default_rng(seed).uniform(0.2, 1.1, (k, k)), 1)
    return half + half.T


@exercise("weights_of_four")
def weights_of_four(answer: Learner) -> str:
    for d in (ON_PAPER, _distances(4, 1), _distances(7, 2)):
        k, raw = len(d), d.sum(axis=1) / (len(d) - 1)
        w, name = numbers(answer(d), k), NUMBER[k]
        need((w > -1e-9).all(), f"A weight is never negative; one of yours is {w.min():.2f}.")
        need(
            w[raw.argmax()] == w.max() and w[raw.argmin()] == w.min(),
            "The response farthest from the others must weigh most and the one nearest to them least; "
            "yours do not: is it the distance to *all* others that you average, and the right way round?",
        )
        need(
            near(w.min(), 0),
            f"The commonest response must have the weight 0; yours has {w.min():.2f}: what does min-max do?",
        )
        need(
            near(w.sum(), k),
            f"The weights of {name} responses must sum to {k}; yours sum to {w.sum():.1f}.",
        )
        need(
            near(w, _weights(raw)),
            "The smallest weight and the sum are right, the spacing is not: is it the mean distance to all others that "
            "you stretch? Half-way between the commonest and the rarest a response must get half the rarest's weight.",
        )
    return "two sets of four responses and one of seven; the commonest weighs 0, and the sum is their number."


@exercise("weights_with_floor")
def weights_with_floor(answer: Learner) -> str:
    for d, floor in (
        (ON_PAPER, 0.2),
        (_distances(6, 3), 0.5),
        (_distances(7, 4), 0.0),
        (_distances(4, 5), 1.0),
    ):
        delta = _weights(d.sum(axis=1))
        w = numbers(answer(delta, floor), len(delta))
        need(
            near(w.sum(), len(w)),
            f"The weights of {NUMBER[len(w)]} responses must still sum to {len(w)}; with a floor of {floor} yours "
            f"sum to {w.sum():.2f}.",
        )
        need(
            near(w.min(), floor),
            f"The smallest weight must be the floor itself, {floor}; yours is {w.min():.2f}.",
        )
        need(
            near(w, np.interp(delta, [0, delta.max()], [floor, w.max()])),
            "Floor and sum are right, the spacing is not: two responses with different weights must keep different "
            "weights, with all gaps shrunk by one factor.",
        )
    return "four sets with floors of 0, 0.2, 0.5 and 1; the sum stays, and so does the order."


@exercise("weights_or_ones")
def weights_or_ones(answer: Learner) -> str:
    ties = {
        "two responses with the same raw value": np.array([0.5, 0.5]),
        "two responses whose raw values differ by rounding alone": np.array([0.5, 0.5 + 1e-7]),
        "four responses A A B B, equal but for rounding": np.array(
            [0.4, 0.4, 0.4 + 6e-8, 0.4 + 6e-8]
        ),
        "a single response": np.array([0.0]),
    }
    for what, raw in ties.items():
        with np.errstate(all="ignore"):
            w = numbers(answer(raw), len(raw), finite=False)
        need(
            np.isfinite(w).all(),
            f"For {what} your weights are NaN or infinite: what does min-max divide by there?",
        )
        need(
            near(w, 1),
            f"For {what} nothing is known of who is rarer, so all must count alike, with the sum {len(w)}; yours are "
            f"{np.round(w, 2).tolist()}.",
        )
    for raw in (
        np.array([0.5, 0.501, 0.5004]),
        np.array([0.30, 0.30, 0.42, 0.55, 0.42]),
        _distances(6, 6).mean(axis=1),
    ):
        w = numbers(answer(raw), len(raw))
        need(
            not near(w, 1),
            f"Raw values from {raw.min():.4g} to {raw.max():.4g} have a real range, a thousand times that of rounding; "
            "your function calls it a tie.",
        )
        need(
            near(w.sum(), len(raw)),
            f"Without a tie the weights must sum to {len(raw)}; yours sum to {w.sum():.2f}.",
        )
        need(
            near(w, _weights(raw), 1e-4),
            "Without a tie the weights must be those of section 1; yours are not.",
        )
    return "four ties, rounded and exact, get weights of 1; three real ranges, the smallest 0.001, get their weights."


@exercise("of_winners")
def of_winners(answer: Learner) -> str:
    rng = np.random.default_rng(7)
    chosen = np.array([5, 0, 8, 3])
    equal = numbers(answer(np.full(10, 0.7), chosen), 2)
    need(
        near(equal[1], 4),
        f"Four pairs of equal weight are worth four pairs; yours are worth {equal[1]:.2f}.",
    )
    weight = rng.uniform(0.1, 3, 10)
    first = numbers(answer(weight, chosen), 2)
    losers = weight.copy()
    losers[np.setdiff1d(np.arange(10), chosen)] += 5
    need(
        near(numbers(answer(losers, chosen), 2), first),
        "I changed the weights of the responses that won no pair, and your result changed: the loss never reads them.",
    )
    need(
        near(first[0], weight[chosen].mean()),
        f"The first number must be the mean weight of the {len(chosen)} winners; on random weights yours is not.",
    )
    twice = numbers(answer(2 * weight, chosen), 2)
    need(
        near(twice[1], first[1]),
        "Doubling all weights changes no pair's share, so the number of effective pairs must stay; "
        f"yours goes from {first[1]:.2f} to {twice[1]:.2f}.",
    )
    alone = np.zeros(10)
    alone[8] = 3.0
    only = numbers(answer(alone, chosen), 2)[1]
    need(
        near(only, 1),
        f"Where one winner has all the weight, one pair is effective; yours are {only:.2f}.",
    )
    w = weight[chosen]
    need(
        near(first[1], w.sum() ** 2 / (w**2).sum()),
        "The simple cases are right, random weights are not: compare your line with the formula of effective pairs.",
    )
    return "equal, random and one-sided weights; the losers' are not read."
