"""Checks of notebook 02: weights from distances, ties, a floor, and the weights of winners."""

from __future__ import annotations

import numpy as np

from .tools import Learner, agree, agree_on_random, exercise, near, need

ON_PAPER = np.array(
    [
        [0, 0.1, 0.3, 0.8],
        [0.1, 0, 0.5, 0.9],
        [0.3, 0.5, 0, 1.0],
        [0.8, 0.9, 1.0, 0],
    ]
)


def _weights(raw: np.ndarray) -> np.ndarray:
    above = raw - raw.min()
    return above * len(raw) / above.sum()


def _distances(k: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    half = np.triu(rng.uniform(0.2, 1.1, (k, k)), 1)
    return half + half.T


@exercise
def weights_of_four(answer: Learner) -> str:
    for distances in (ON_PAPER, _distances(4, 1), _distances(7, 2)):
        k = len(distances)
        raw = distances.sum(axis=1) / (k - 1)
        weights = answer.numbers(k, distances)
        ordered = weights[raw.argmax()] == weights.max() and weights[raw.argmin()] == weights.min()
        need(ordered, "The response farthest from *all* others must weigh most, the nearest least.")
        agree(weights.min(), 0, "The commonest response must weigh 0: what does min-max do?")
        agree(weights.sum(), k, f"The weights of {k} responses must sum to {k}.")
        agree(weights, _weights(raw), "The spacing is wrong: stretch mean distances by min-max.")
    tested = "two sets of four responses and one of seven"
    return f"{tested}; the commonest weighs 0, the sum is their number, the mean's divisor cancels."


@exercise
def weights_with_floor(answer: Learner) -> str:
    cases = {
        0.2: ON_PAPER,
        0.5: _distances(6, 3),
        0.0: _distances(7, 4),
        1.0: _distances(4, 5),
    }
    for floor, distances in cases.items():
        delta = _weights(distances.sum(axis=1))
        k = len(delta)
        weights = answer.numbers(k, delta, floor)
        agree(weights.sum(), k, f"With a floor of {floor} the weights must still sum to {k}.")
        agree(weights.min(), floor, f"The smallest weight must be the floor itself, {floor}.")
        stretched = np.interp(delta, [0, delta.max()], [floor, weights.max()])
        agree(weights, stretched, "The spacing is wrong: all gaps must shrink by one factor.")
    return "four sets with floors of 0, 0.2, 0.5 and 1; the sum stays, and so does the order."


@exercise
def weights_or_ones(answer: Learner) -> str:
    ties = {
        "two equal raw values": [0.5, 0.5],
        "two raw values that differ by rounding": [0.5, 0.5 + 1e-7],
        "A A B B, equal but for rounding": [0.4, 0.4, 0.4 + 6e-8, 0.4 + 6e-8],
        "three raw values, one rounded down and one up": [0.5 - 1.2e-7, 0.5, 0.5 + 1.2e-7],
        "a single response": [0.0],
    }
    for case, raw in ties.items():
        with np.errstate(all="ignore"):
            weights = answer.numbers(len(raw), np.array(raw))
        agree(weights, 1, f"For {case}, no response is known to be rarer: return 1 for each.")
    narrow = np.array([0.5, 0.501, 0.5004])
    repeated = np.array([0.30, 0.30, 0.42, 0.55, 0.42])
    for raw in (narrow, repeated, _distances(6, 6).mean(axis=1)):
        weights = answer.numbers(len(raw), raw)
        need(not near(weights, 1), f"A range of {np.ptp(raw):.3g} is no tie: rounding is far less.")
        agree(weights.sum(), len(raw), f"Without a tie {len(raw)} weights must sum to {len(raw)}.")
        agree(weights, _weights(raw), "Without a tie use the weights of section 1.", tolerance=1e-4)
    agree_on_random(answer, lambda raw: _weights(raw), _repeated, "Random raw values are no tie.")
    tested = "four ties, rounded and exact, get weights of 1"
    return f"{tested}; three real ranges, the smallest 0.001, get their weights."


def _repeated(rng: np.random.Generator) -> tuple[np.ndarray]:
    """Two to eight raw values, of which some are equal and not all."""
    raw = rng.choice(rng.uniform(0.2, 1, 3), rng.integers(2, 9))
    raw[rng.integers(len(raw))] += 0.1
    return (raw,)


def _effective(weight: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    won = weight[chosen]
    return won.mean(), won.sum() ** 2 / (won**2).sum()


def _winners(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    n = rng.integers(2, 20)
    return rng.uniform(0.1, 3, n), rng.integers(0, n, rng.integers(1, 9))


@exercise
def of_winners(answer: Learner) -> str:
    chosen = np.array([5, 0, 8, 3])
    _, effective = answer.numbers(2, np.full(10, 0.7), chosen)
    agree(effective, 4, "Four pairs of equal weight are worth four pairs.")
    weight = np.random.default_rng(7).uniform(0.1, 3, 10)
    mean, effective = answer.numbers(2, weight, chosen)
    others_changed = weight + 5
    others_changed[chosen] = weight[chosen]
    message = "Your result reads weights of responses that won no pair; the loss never does."
    need(near(answer.numbers(2, others_changed, chosen), (mean, effective)), message)
    won = weight[chosen]
    agree(mean, won.mean(), "The first number must be the mean weight of the winners.")
    _, doubled = answer.numbers(2, 2 * weight, chosen)
    agree(doubled / effective, 1, "Doubling all weights must change nothing.", " times the number")
    _, single = answer.numbers(2, np.eye(10)[8], chosen)
    agree(single, 1, "If one winner has all the weight, one pair is effective.")
    agree_on_random(answer, _effective, _winners, "Unequal weights are wrong: see the formula.")
    return "equal, random and one-sided weights; the losers' are not read."
