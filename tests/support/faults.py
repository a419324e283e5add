"""What the tests of faults share."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ddpo_utils import CourseError


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes while the block runs, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sentence(caught: Any) -> str:
    """The message of a CourseError that shows nothing from below."""
    error, message = caught.value, str(caught.value)
    assert isinstance(error, CourseError) and "\n" not in message and message.endswith(".")
    assert error.__context__ is None or error.__suppress_context__
    return message


def refusal(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The sentence with which the call refuses its arguments."""
    with pytest.raises(CourseError) as caught:
        call(*args, **kwargs)
    return sentence(caught)
