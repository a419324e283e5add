"""The Vendi score and the partition into classes, against references written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ddpo_utils.evaluation.variety import distinct_k, equivalence_classes, vendi_score

# whole numbers, so that rows repeat, oppose each other and tie; a last column keeps every row from being zero
ROWS = arrays(
    np.float32, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=st.integers(-2, 2)
).map(lambda rows: np.column_stack([rows, np.ones(len(rows), dtype=np.float32)]))


def cosines(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(float)
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows])


def slow_vendi(rows: np.ndarray) -> float:
    values = np.linalg.eigvalsh(cosines(rows) / len(rows))
    return float(np.exp(-sum(v * np.log(v) for v in values if v > 1e-14)))


def slow_classes(rows: np.ndarray, threshold: float) -> list[int]:
    """One text after another, each compared with the founders in turn."""
    alike, founders, out = cosines(rows), [], []
    for i in range(len(rows)):
        for number, founder in enumerate(founders):
            if alike[i, founder] >= threshold - 1e-6:
                out.append(number)
                break
        else:
            out.append(len(founders))
            founders.append(i)
    return out


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from([-1.0, -0.3, 0.0, 0.4, 0.77, 0.95, 1.0]))
def test_equal_to_the_definitions(rows, threshold):
    assert vendi_score(rows) == pytest.approx(slow_vendi(rows), abs=1e-9)
    assert equivalence_classes(rows, threshold).tolist() == slow_classes(rows, threshold)
    assert distinct_k(rows, threshold) == len(set(slow_classes(rows, threshold)))


@settings(max_examples=50, deadline=None)
@given(ROWS, st.floats(0.5, 9))
def test_bounds_and_lengths(rows, length):
    assert 1 - 1e-9 <= vendi_score(rows) <= len(rows) + 1e-9
    assert vendi_score(rows * np.float32(length)) == pytest.approx(vendi_score(rows), abs=1e-5)
    doubled = np.concatenate([rows, rows])
    assert vendi_score(doubled) == pytest.approx(vendi_score(rows), abs=1e-9)  # copies add nothing
    assert distinct_k(doubled, 0.9) == distinct_k(rows, 0.9)


def test_extremes():
    same, apart = np.ones((5, 3)), np.eye(5)
    assert vendi_score(same) == pytest.approx(1) and distinct_k(same, 1.0) == 1
    assert (
        vendi_score(apart) == pytest.approx(5)
        and distinct_k(apart, 0.1) == 5
        and distinct_k(apart, -1.0) == 1
    )


def test_opposite_rows_count_as_one():
    assert vendi_score(np.array([[1.0, 2.0], [-1.0, -2.0]])) == pytest.approx(1)


def test_more_texts_than_dimensions():
    rows = np.random.default_rng(0).normal(size=(300, 5))
    assert vendi_score(rows) == pytest.approx(slow_vendi(rows)) and 4 < vendi_score(rows) <= 5


def test_founders_decide_and_so_does_the_order():
    chain = np.array(
        [[1, 0], [np.cos(0.6), np.sin(0.6)], [np.cos(1.2), np.sin(1.2)]]
    )  # neighbours 0.6 apart
    assert equivalence_classes(chain, np.cos(0.7)).tolist() == [0, 0, 1]
    assert equivalence_classes(chain[[1, 0, 2]], np.cos(0.7)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("measure", [vendi_score, lambda rows: distinct_k(rows, 0.5)])
@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((0, 3)),
        np.zeros((2, 3)),
        np.array([[np.nan, 1.0]]),
        np.ones((2, 2), dtype=int),
        np.ones(3),
    ],
)
def test_faulty_rows_are_refused(measure, rows):
    with pytest.raises(ValueError):
        measure(rows)


@pytest.mark.parametrize("threshold", [1.2, -2, float("nan")])
def test_a_threshold_is_a_cosine(threshold):
    with pytest.raises(ValueError, match="cosine"):
        equivalence_classes(np.eye(2), threshold)
