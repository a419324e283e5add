"""Checks of notebook 07: the entropy of modes, the frontier, and the outcome of a test that was fixed beforehand."""

from __future__ import annotations

import math

import numpy as np

from ...evaluation.statistics import Interval
from ...small_world.claims import outcome
from .tools import Learner, exercise, near, need, numbers


@exercise("entropy_of_modes")
def entropy_of_modes(answer: Learner) -> str:
    same = numbers(answer(["war"] * 5))
    need(near(same, 0), f"Five stories with one plot have no entropy; yours is {same:.2f}.")
    for n in (2, 4, 8):
        even = numbers(answer([f"plot {i}" for i in range(n)] * 3))
        need(
            near(even, math.log(n)),
            f"{n} plots told equally often have the entropy ln {n}, in nats, however many stories there are; yours is "
            f"{even / math.log(n):.2f} times that.",
        )
    told = ["war", "war", "heist", "war", "storm", "war"]
    uneven = numbers(answer(told))
    need(
        uneven < math.log(3) - 0.01,
        "Three plots of which one is told mostly are less varied than three told equally often; yours are not.",
    )
    need(
        near(numbers(answer([*told, None, None])), uneven),
        "A sample that the parser cannot read tells no plot: it must change nothing, and it changed your entropy.",
    )
    p = np.array([4, 1, 1]) / 6
    need(
        near(uneven, -(p * np.log(p)).sum()),
        "Even plots are right, uneven ones are not: what weighs each logarithm?",
    )
    return "one plot, even plots, uneven ones, and samples that tell none."


@exercise("frontier")
def frontier(answer: Learner) -> str:
    cases = [
        {"sft": (0.0, 0.0), "dpo": (0.6, -0.7), "ddpo": (0.4, 0.1), "worse": (0.3, 0.0)},
        {"a": (1.0, 1.0), "b": (0.5, 0.5), "c": (0.2, 0.8)},
        {"a": (1.0, 0.0), "b": (0.75, 0.2), "c": (0.5, 0.3), "d": (0.25, 0.9), "e": (0.25, 0.1)},
        {"a": (1.0, 0.5), "b": (1.0, 0.2), "c": (0.3, 0.5), "twin": (1.0, 0.5)},
    ]
    for points in cases:
        found = answer(points)
        need(
            isinstance(found, (list, tuple, set)) and set(found) <= set(points),
            "Return a list of names out of points.",
        )
        beaten = {
            name
            for name, own in points.items()
            if any(p != own and p[0] >= own[0] and p[1] >= own[1] for p in points.values())
        }
        for name in sorted(set(found) & beaten):
            need(
                False,
                f"Among {points} your list has {name!r}, and another method is as good or better on both axes.",
            )
        for name in sorted(set(points) - beaten - set(found)):
            need(
                False,
                f"Among {points} your list lacks {name!r}, and no method is as good or better on both axes.",
            )
    return "four sets of methods, with equal values and a twin among them."


@exercise("decide")
def decide(answer: Learner) -> str:
    for test in ("above", "below", "not below"):
        for low, high in (
            (0.1, 0.4),
            (-0.2, 0.3),
            (-0.4, -0.2),
            (-0.1, 0.1),
            (-0.3, -0.02),
            (-0.13, -0.05),
        ):
            said = answer(low, high, test, 0.14)
            need(
                said in ("holds", "fails", "open"),
                f'Return "holds", "fails" or "open"; yours is {said!r}.',
            )
            right = outcome(Interval((low + high) / 2, low, high, 4), test, 0.14)
            where = f"For the test {test!r} and the interval from {low} to {high} (margin 0.14) your answer is {said!r}: "
            if right == "open":
                hint = "the interval has values on both sides of the bound."
            elif test == "not below":
                hint = "the bound of this test is not 0."
            else:
                hint = "the whole interval lies on one side of 0, and the test says which side it wants."
            need(said == right, where + hint)
    return "three tests with six intervals each."
