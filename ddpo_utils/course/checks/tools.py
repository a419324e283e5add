"""What the checks share: the register of exercises, the learner's function, reports of faults."""

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

__all__ = ["EXERCISES", "Learner", "NotYet", "Outcome", "agree", "exercise", "near", "need"]

DOTS = "Replace the dots (...) in your function with your own code, then run the cell again."
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
        need(not _has_dots(function), DOTS)
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        try:
            value = self.function(*copy.deepcopy(inputs))
        except Exception as error:
            raise NotYet(_describe(error, self.function)) from None
        need(value is not ..., DOTS)
        need(value is not None, "Your function returns nothing: end it with a `return` line.")
        return value

    def number(self, *inputs: Any, finite: bool = True) -> float:
        """What the function returns, as one number."""
        return float(to_numbers(self(*inputs), (), finite))

    def numbers(self, shape: int | tuple[int, ...], *inputs: Any) -> np.ndarray:
        """What the function returns, as finite numbers of this shape."""
        return to_numbers(self(*inputs), shape if isinstance(shape, tuple) else (shape,))


def _has_dots(function: Any) -> bool:
    """Whether the source holds `...`, except in an index."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # built-in functions have no source
        return False
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.Subscript):
            node.slice = ast.Constant(0)  # dots in an index are code
    return any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(tree))


def _describe(error: Exception, function: Any) -> str:
    """An exception in the learner's code, with the line of the cell where it happened."""
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    reason = f"{type(error).__name__} ({first_line})" if first_line else type(error).__name__
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            return f"line {frame.lineno} of your cell, `{frame.line}`, stops with {reason}."
    if isinstance(error, TypeError):
        return f"your function cannot be called: {reason}. Keep the starter's first line as it was."
    return f"your function stops with {reason}."


def need(holds: Any, message: str) -> None:
    """Raise NotYet with the message unless the condition holds."""
    if not holds:
        raise NotYet(message)


def near(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Whether all numbers agree, by default to the accuracy of float32."""
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance))


def agree(value: Any, right: Any, message: str, unit: str = "") -> None:
    """Raise NotYet with the message and the learner's own value unless it is near the right one."""
    shown = np.round(value, 2).tolist() if np.ndim(value) else f"{value:.3g}"
    need(near(value, right), f"{message} Your function gives {shown}{unit}.")


def _detached(value: Any) -> Any:
    """Tensors, alone or in a list or tuple, without their gradient."""
    if isinstance(value, (list, tuple)):
        return [_detached(part) for part in value]
    return value.detach().cpu() if hasattr(value, "detach") else value


def to_numbers(value: Any, shape: tuple[int, ...], finite: bool = True) -> np.ndarray:
    """The value as float64 numbers of this shape, where () is one number; else NotYet."""
    try:
        array = np.asarray(_detached(value), dtype=float)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise NotYet(f"Your function must return numbers; yours returns {kind}.") from None
    if shape == () and array.shape == (1,):
        array = array.reshape(())
    wanted = f"an array of shape {shape}" if shape else "one number"
    need(array.shape == shape, f"Your function must return {wanted}, not one of {array.shape}.")
    valid = not finite or np.isfinite(array).all()
    need(valid, "Your function returns NaN or infinity: where does it divide by 0 or take log(0)?")
    return array
