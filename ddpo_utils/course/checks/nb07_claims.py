"""Checks of notebook 07: the entropy of modes, the frontier, and the outcome of a test."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from ...evaluation.statistics import Interval
from ...small_world.claims import outcome
from .tools import Learner, agree, exercise, near, need


@exercise
def entropy_of_modes(answer: Learner) -> str:
    agree(answer.number(["war"] * 5), 0, "Five stories with one plot have no entropy.")
    for n in (2, 4, 8):
        plots = [f"plot {i}" for i in range(n)]
        ratio = answer.number(plots * 3) / math.log(n)
        agree(ratio, 1, f"{n} equally frequent plots have ln {n} nats.", " times that")
    modes = ["war", "war", "heist", "war", "storm", "war"]
    uneven = answer.number(modes)
    need(uneven < math.log(3) - 0.01, "Uneven plots must have less entropy than equal ones.")
    unreadable = answer.number([*modes, None, None])
    need(near(unreadable, uneven), "A sample without a mode (None) must not change the entropy.")
    p = np.array([4, 1, 1]) / 6
    agree(uneven, -p @ np.log(p), "Uneven plots are wrong: what weighs each logarithm?")
    return "one plot, even plots, uneven ones, and samples that tell none."


@exercise
def frontier(answer: Learner) -> str:
    cases = [
        {"sft": (0.0, 0.0), "dpo": (0.6, -0.7), "ddpo": (0.4, 0.1), "worse": (0.3, 0.0)},
        {"a": (1.0, 1.0), "b": (0.5, 0.5), "c": (0.2, 0.8)},
        {"a": (1.0, 0.0), "b": (0.75, 0.2), "c": (0.5, 0.3), "d": (0.25, 0.9), "e": (0.25, 0.1)},
        {"a": (1.0, 0.5), "b": (1.0, 0.2), "c": (0.3, 0.5), "twin": (1.0, 0.5)},
    ]
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 5, 6, 7) * 6:
        values = (rng.integers(0, 4, (n, 2)) / 4).tolist()
        cases.append({f"m{i}": (quality, total) for i, (quality, total) in enumerate(values)})
    for points in cases:
        names = answer(points)
        listed = isinstance(names, list | tuple | set) and len(set(names)) == len(names)
        need(
            listed and set(names) <= set(points), "Return a list of names out of points, each once."
        )
        found = set(names)
        for name, point in points.items():
            beaten = any(_beats(other, point) for other in points.values())
            fault = "is in your list" if beaten else "is not in your list"
            message = f"Among {points} {name!r} {fault}: is another as good on both, better on one?"
            need((name in found) != beaten, message)
    return f"{len(cases)} sets of methods, with equal values and twins among them."


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other != point and other[0] >= point[0] and other[1] >= point[1]


@exercise
def decide(answer: Learner) -> str:
    ends = ((0.1, 0.4), (-0.2, 0.3), (-0.4, -0.2), (-0.1, 0.1), (-0.3, -0.02), (-0.13, -0.05))
    for margin, test in product((0.14, 0.05, 0.35), ("above", "below", "not below")):
        for low, high in ends:
            verdict = answer(low, high, test, margin)
            right = outcome(Interval(0.0, low, high, 4), test, margin)
            bound = "a bound that the margin puts below 0" if test == "not below" else "0"
            hint = f"The whole interval is on one side of {bound}: which side does the test name?"
            if right == "open":
                hint = f"The interval has values on both sides of {bound}."
            case = f"test {test!r}, interval from {low} to {high}, margin {margin}"
            need(verdict == right, f"You answer {verdict!r} for the {case}. {hint}")
    for low, high, test in ((0.0, 0.3, "above"), (-0.3, 0.0, "below")):
        need(answer(low, high, test, 0.14) == "open", "An end at 0 is neither above 0 nor below.")
    return "three tests with six intervals each."
