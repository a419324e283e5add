"""What the tests of faults share."""

from __future__ import annotations

from typing import Any

from ddpo_utils import CourseError


def sentence(caught: Any) -> str:
    """The message of a CourseError that shows nothing from below."""
    error, message = caught.value, str(caught.value)
    assert isinstance(error, CourseError) and "\n" not in message and message.endswith(".")
    assert error.__context__ is None or error.__suppress_context__
    return message
