"""What the tests of the exercises share: a right answer passes, and a wrong one is told what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ddpo_utils.course.checks import check

Wrong = Sequence[tuple[str, Callable, str]]


def assert_right(name: str, answer: Callable, printed: Callable[[], str]) -> None:
    assert check(name, answer)
    assert printed().startswith("Right: ")


def assert_told(name: str, answer: Callable, says: str) -> None:
    outcome = check(name, answer)
    assert not outcome and re.search(says, outcome.says), outcome.says


def assert_enough(right: Mapping[str, Callable], wrong: Wrong) -> None:
    """Three wrong answers at least to every exercise."""
    counts = Counter(name for name, _, _ in wrong)
    assert set(counts) == set(right) and min(counts.values()) >= 3
