"""Points of a path at equal quality and at equal diversity."""

from __future__ import annotations

import pytest

from ddpo_utils.small_world.frontier import at_diversity, at_quality

QUALITY = [0.0, 1.0, 2.0, 4.0]
DIVERSITY = [9.0, 7.0, 6.0, 2.0]


@pytest.mark.parametrize(
    ("level", "expected"), [(-1, 9), (0, 9), (0.5, 8), (1, 7), (3, 4), (4, 2), (5, 2)]
)
def test_diversity_where_quality_first_reaches_the_level(level: float, expected: float) -> None:
    assert at_quality(QUALITY, level, DIVERSITY) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("level", "expected"), [(10, 0), (9, 0), (8, 0.5), (6.5, 1.5), (4, 3), (2, 4), (1, 4)]
)
def test_quality_where_diversity_was_last_at_the_level(level: float, expected: float) -> None:
    assert at_diversity(DIVERSITY, level, QUALITY) == pytest.approx(expected)


def test_a_path_that_meets_a_level_twice_gets_its_better_point() -> None:
    quality, diversity = [0.0, 2.0, 1.0, 3.0], [5.0, 4.0, 4.5, 1.0]
    assert at_quality(quality, 1.0, diversity) == pytest.approx(4.5)  # at 0.5 of the first part
    assert at_diversity(diversity, 4.25, quality) == pytest.approx(1.0 + 2 * 0.25 / 3.5)


def test_a_path_of_the_reference_alone_and_faulty_paths() -> None:
    assert at_quality([0.5], 2.0, [3.0]) == 3.0
    with pytest.raises(ValueError, match="as many values"):
        at_quality([0.5, 1.0], 2.0, [3.0])
    with pytest.raises(ValueError, match="at least one"):
        at_diversity([], 2.0, [])
