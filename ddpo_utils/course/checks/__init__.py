"""Checks of the course's exercises: each runs the learner's function on several inputs and says what is wrong with it.

    check("weights_of_four", weights_of_four)       prints "Right: ..." or "Not yet: ..."

A check names the property that fails and never the value that would be right. Nothing is raised, so that a notebook
runs on past an exercise that is not done; the result is true or false, so that a solution can `assert` it. The checks
of a notebook stand in a module of their own; importing them needs numpy and torch alone.
"""

from __future__ import annotations

import importlib
from typing import Any

from ...settings import CourseError
from .tools import EXERCISES, Learner, NotYet, Outcome

__all__ = ["check", "exercises"]

MODULES = (
    "gap",
    "deviation",
    "loss",
    "training",
    "evaluation",
    "orpo",
    "claims",
    "asking",
    "own_data",
)  # 01 to 09


def exercises() -> list[str]:
    """The names of all exercises, in the order of the course."""
    for module in MODULES:
        importlib.import_module(f".{module}", __name__)
    return list(EXERCISES)


def check(name: str, answer: Any) -> Outcome:
    """Run an exercise's check on the learner's function and print what came of it, in one or two sentences.

    Args:
        name: of the exercise, as its statement gives it.
        answer: the function itself.

    Returns:
        An Outcome, true if the answer is right.

    Raises:
        CourseError: there is no such exercise.
    """
    if name not in (known := exercises()):
        raise CourseError(f"There is no exercise {name!r}: there are {', '.join(known)}.")
    try:
        outcome = Outcome(True, f"Right: {EXERCISES[name](Learner(answer))}")
    except NotYet as fault:
        outcome = Outcome(False, f"Not yet: {fault}")
    print(outcome.says)
    return outcome
