"""Checks of notebook 07: the entropy of modes, the frontier, and the outcome of a test."""

from __future__ import annotations

import math

import numpy as np

from ...evaluation.statistics import Interval
from ...small_world.claims import outcome
from .tools import Learner, agree, exercise, near, need


@exercise
def entropy_of_modes(answer: Learner) -> str:
    agree(answer.number(["war"] * 5), 0, "Five stories with one plot have no entropy.")
    for n in (2, 4, 8):
        ratio = answer.number([f"plot {i}" for i in range(n)] * 3) / math.log(n)
        agree(ratio, 1, f"{n} equally frequent plots have ln {n} nats.", " times that")
    modes = ["war", "war", "heist", "war", "storm", "war"]
    uneven = answer.number(modes)
    less = uneven < math.log(3) - 0.01
    need(less, "Three plots, one of them frequent, must have less entropy than three equal ones.")
    same = near(answer.number([*modes, None, None]), uneven)
    need(same, "A sample that the parser cannot read (None) must not change the entropy.")
    p = np.array([4, 1, 1]) / 6
    right = near(uneven, -(p * np.log(p)).sum())
    need(right, "Even plots are right, uneven ones are not: what weighs each logarithm?")
    return "one plot, even plots, uneven ones, and samples that tell none."


@exercise
def frontier(answer: Learner) -> str:
    cases = [
        {"sft": (0.0, 0.0), "dpo": (0.6, -0.7), "ddpo": (0.4, 0.1), "worse": (0.3, 0.0)},
        {"a": (1.0, 1.0), "b": (0.5, 0.5), "c": (0.2, 0.8)},
        {"a": (1.0, 0.0), "b": (0.75, 0.2), "c": (0.5, 0.3), "d": (0.25, 0.9), "e": (0.25, 0.1)},
        {"a": (1.0, 0.5), "b": (1.0, 0.2), "c": (0.3, 0.5), "twin": (1.0, 0.5)},
    ]
    for points in cases:
        found = answer(points)
        is_list = isinstance(found, (list, tuple, set)) and set(found) <= set(points)
        need(is_list, "Return a list of names out of points.")
        for name in points:
            beaten = _is_beaten(points[name], points)
            message = f"Among {points} {name!r} is in your list, and another method is as good or"
            need(name not in found or not beaten, f"{message} better on both axes.")
            message = f"Among {points} {name!r} is not in your list, and no method is as good or"
            need(name in found or beaten, f"{message} better on both axes.")
    return "four sets of methods, with equal values and a twin among them."


def _is_beaten(point: tuple[float, float], points: dict[str, tuple[float, float]]) -> bool:
    others = [other for other in points.values() if other != point]
    return any(other[0] >= point[0] and other[1] >= point[1] for other in others)


@exercise
def decide(answer: Learner) -> str:
    ends = ((0.1, 0.4), (-0.2, 0.3), (-0.4, -0.2), (-0.1, 0.1), (-0.3, -0.02), (-0.13, -0.05))
    margin = 0.14
    for test in ("above", "below", "not below"):
        for low, high in ends:
            verdict = answer(low, high, test, margin)
            known = verdict in ("holds", "fails", "open")
            need(known, f'Return "holds", "fails" or "open"; yours is {verdict!r}.')
            right = outcome(Interval((low + high) / 2, low, high, 4), test, margin)
            hint = "The whole interval is on one side of 0: which side does the test ask for?"
            if right == "open":
                hint = "The interval has values on both sides of the bound."
            elif test == "not below":
                hint = "The bound of this test is not 0."
            case = f"test {test!r}, interval from {low} to {high}, margin {margin}"
            need(verdict == right, f"You answer {verdict!r} for the {case}. {hint}")
    return "three tests with six intervals each."
