"""Checks of the course's exercises, one module a notebook.

    check("weights_of_four", weights_of_four)       prints "Right: ..." or "Not yet: ..."

A check tries several inputs. It names the property that fails and never the right value. It raises
nothing, so a notebook runs on past an unsolved exercise.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ...settings import CourseError
from .tools import EXERCISES, Learner, NotYet, Outcome

__all__ = ["check", "exercises"]

FORM = "Your function does not return what the starter's docstring says: compare the two."


def exercises() -> list[str]:
    """Names of all exercises."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f".{module.name}", __name__)
    return list(EXERCISES)


def check(name: str, answer: Any) -> Outcome:
    """An Outcome, true if the answer is right; prints one or two sentences about it.

    Args:
        name: of the exercise.
        answer: the learner's function.

    Raises:
        CourseError: there is no such exercise.
    """
    names = exercises()
    if name not in names:
        raise CourseError(f"There is no exercise {name!r}: choose one of {', '.join(names)}.")
    try:
        outcome = Outcome(True, f"Right: {EXERCISES[name](Learner(answer))}")
    except NotYet as fault:
        outcome = Outcome(False, f"Not yet: {fault}")
    except (AttributeError, KeyError, TypeError, ValueError):  # a check reads the returned value
        outcome = Outcome(False, f"Not yet: {FORM}")
    print(outcome.message)
    return outcome
