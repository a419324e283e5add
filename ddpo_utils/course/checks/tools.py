"""What the checks share: the register of exercises, the learner's function, reports of faults."""

from __future__ import annotations

import copy
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "EXERCISES",
    "Learner",
    "NotYet",
    "Outcome",
    "agree",
    "agree_on_random",
    "exercise",
    "near",
    "need",
]

EXERCISES: dict[str, Callable[[Learner], str]] = {}


class NotYet(Exception):
    """What is wrong with an answer, in a sentence or two for the learner."""


@dataclass(frozen=True)
class Outcome:
    """Result of a check, true if the answer is right; Jupyter does not display it a second time."""

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def _ipython_display_(self) -> None:
        pass


def exercise(run: Callable[[Learner], str]) -> Callable[[Learner], str]:
    """Register a check under its name: it raises NotYet, or returns what was tested."""
    EXERCISES[run.__name__] = run
    return run


class Learner:
    """The learner's function, called with copies of the inputs; NotYet where it fails."""

    def __init__(self, function: Any):
        need(callable(function), "Give check the function itself: its name, without brackets.")
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        try:
            value = self.function(*copy.deepcopy(inputs))
        except Exception as error:
            raise NotYet(_describe(error, self.function)) from None
        if value is None or value is ...:
            raise NotYet(
                "Your function returns nothing: replace the dots (...) in it with your own code, "
                "end it with a `return` line, and run the cell again."
            )
        return value

    def number(self, *inputs: Any) -> float:
        """What the function returns, as one finite number."""
        return float(self.numbers((), *inputs))

    def numbers(self, shape: int | tuple[int, ...], *inputs: Any) -> np.ndarray:
        """What the function returns, as finite float64 numbers of this shape; (): one number."""
        value = self(*inputs)
        shape = np.empty(shape).shape
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError, RuntimeError):
            kind = type(value).__name__
            raise NotYet(f"Your function must return numbers; yours returns {kind}.") from None
        if array.shape == (1,) and not shape:
            array = array[0]
        wanted = f"an array of shape {shape}" if shape else "one number"
        fits = array.shape == shape
        need(fits, f"Your function must return {wanted}, not one of shape {array.shape}.")
        finite = np.isfinite(array).all()
        need(finite, "Your function returns NaN or infinity: does it divide by 0 or take log(0)?")
        return array


def _describe(error: Exception, function: Any) -> str:
    """An exception in the learner's code, with the line of the cell where it happened."""
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200).rstrip(".")
    code = getattr(function, "__code__", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if code and frame.filename == code.co_filename:
            return f"line {frame.lineno} of your cell, `{frame.line}`, stops with {reason}."
    return f"your function stops with {reason}. Keep the starter's first line as it was."


def need(holds: Any, message: str) -> None:
    """Raise NotYet with the message unless the condition holds."""
    if not holds:
        raise NotYet(message)


def near(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Whether all numbers agree, by default to the accuracy of float32."""
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance))


def agree(value: Any, right: Any, message: str, unit: str = "", tolerance: float = 1e-5) -> None:
    """Raise NotYet with the message and the learner's own value unless it is near the right one."""
    shown = ", ".join(f"{number:.3g}" for number in np.ravel(value))
    need(near(value, right, tolerance), f"{message} Your function gives {shown}{unit}.")


def agree_on_random(
    answer: Learner,
    right: Callable[..., Any],
    draw: Callable[[np.random.Generator], tuple[Any, ...]],
    message: str,
    tolerance: float = 1e-5,
) -> None:
    """Raise NotYet with the message unless `answer` is near `right` for 40 drawn inputs."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        inputs = draw(rng)
        expected = np.asarray(right(*copy.deepcopy(inputs)), dtype=float)
        agree(answer.numbers(expected.shape, *inputs), expected, message, tolerance=tolerance)
