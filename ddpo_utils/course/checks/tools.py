"""What the checks share: the register of exercises, the learner's function as it is called, and how a fault is said."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EXERCISES", "Learner", "NotYet", "Outcome", "exercise", "near", "need", "numbers"]

DOTS = "Replace the dots (...) in your function with your own code, then run the cell again."
EXERCISES: dict[str, Callable[[Learner], str]] = {}


class NotYet(Exception):
    """What is wrong with an answer, in a sentence or two for its author."""


@dataclass(frozen=True)
class Outcome:
    """What came of a check, true if the answer is right. The sentence is printed by then, so Jupyter shows no more."""

    right: bool
    says: str

    def __bool__(self) -> bool:
        return self.right

    def _ipython_display_(self) -> None:
        pass


def exercise(name: str) -> Callable[[Callable[[Learner], str]], Callable[[Learner], str]]:
    """Register a check: it takes the learner's function, raises NotYet, or returns what was tested."""

    def register(run: Callable[[Learner], str]) -> Callable[[Learner], str]:
        EXERCISES[name] = run
        return run

    return register


class Learner:
    """The learner's function. It is called with copies, and what it raises is told by its own line.

    Raises:
        NotYet: it is no function, or the starter's dots are still in it.
    """

    def __init__(self, function: Any):
        if not callable(function):
            raise NotYet(
                "Give check the function itself: its name, without brackets and inputs behind it."
            )
        if _dots_left(function):
            raise NotYet(DOTS)
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        try:
            value = self.function(*copy.deepcopy(inputs))
        except Exception as error:
            raise NotYet(_told(error, self.function)) from None
        need(value is not ..., DOTS)
        need(
            value is not None,
            "Your function returns nothing: let it end with a line that begins with `return`.",
        )
        return value


def _dots_left(function: Any) -> bool:
    """Whether `...` stands in the source other than in brackets, where it may be part of an index."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source to be had
        return False
    slices = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    indices = {id(part) for whole in slices for part in ast.walk(whole)}
    dots = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value is ...]
    return any(id(node) not in indices for node in dots)


def _told(error: Exception, function: Any) -> str:
    """An exception in the learner's code, by its own line."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    what = type(error).__name__ + (f" ({first})" if first else "")
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if own:
        return f"line {own[-1].lineno} of your cell, `{own[-1].line}`, stops with {what}."
    if isinstance(error, TypeError):
        return f"your function cannot be called as the exercise does: {what}. Keep the starter's first line as it was."
    return f"your function stops with {what}."


def need(holds: Any, says: str) -> None:
    """Raise NotYet with the sentence unless the condition holds."""
    if not holds:
        raise NotYet(says)


def near(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Whether all numbers agree, to float32's accuracy unless told otherwise."""
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance))


def _detached(value: Any) -> Any:
    """Tensors, alone or in a list or tuple, without their gradient."""
    if isinstance(value, (list, tuple)):
        return [_detached(part) for part in value]
    return value.detach().cpu() if hasattr(value, "detach") else value


def numbers(value: Any, *shape: int, finite: bool = True) -> np.ndarray:
    """The learner's result as float64 numbers of this shape, finite unless told otherwise; without a shape one number.

    Raises:
        NotYet: it is anything else.
    """
    try:
        array = np.asarray(_detached(value), dtype=float)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(
            f"Your function must return numbers; yours returns {type(value).__name__}."
        ) from None
    array = array.reshape(()) if array.shape == (1,) and not shape else array
    wanted = (
        "one number"
        if not shape
        else f"{shape[0]} numbers"
        if len(shape) == 1
        else f"an array of shape {shape}"
    )
    got = "one number" if array.ndim == 0 else f"an array of shape {array.shape}"
    need(array.shape == shape, f"Your function must return {wanted} here; yours returns {got}.")
    need(
        not finite or np.isfinite(array).all(),
        "Your function returns NaN or infinity: where does it divide by 0 or take log(0)?",
    )
    return array
