"""The measures of the trust table equal slow references written from their definitions."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ddpo_utils.corpus.text import words
from set_measures import distinct_k, ngram_diversity, rouge_homogenisation, vendi_score

# few words, so that they repeat; some texts are shorter than four words
TEXT = st.lists(
    st.sampled_from(["sea", "Light", "don't", "the", "a", "é", "7"]), min_size=1, max_size=12
).map(" ".join)
# whole numbers, so that rows repeat, oppose each other and tie; the last column is never 0
ROWS = arrays(
    np.float32, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=st.integers(-2, 2)
).map(lambda rows: np.column_stack([rows, np.ones(len(rows), dtype=np.float32)]))


def common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by the table of its definition."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, j in np.ndindex(len(a), len(b)):
        same = a[i] == b[j]
        table[i + 1, j + 1] = table[i, j] + 1 if same else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def slow_rouge(texts: list[str]) -> float:
    scores = []
    for one, other in permutations([words(text) for text in texts], 2):
        precision, recall = common(one, other) / len(one), common(one, other) / len(other)
        scores.append(2 * precision * recall / (precision + recall) if precision else 0)
    return float(np.mean(scores))


def slow_ngrams(texts: list[str]) -> float:
    value = 0.0
    for n in range(1, 5):
        every = []
        for text in texts:
            tokens = words(text)
            every += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        value += len(set(every)) / len(every) if every else 0
    return value


@given(st.lists(TEXT, min_size=2, max_size=6))
def test_wording_equals_its_definition(texts):
    assert rouge_homogenisation(texts) == pytest.approx(slow_rouge(texts), abs=1e-12)
    assert ngram_diversity(texts) == pytest.approx(slow_ngrams(texts), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "n", "lcs"),  # of words, or of characters in scripts without spaces
    [
        ("The sea, the sea", "the SEA the sea", 4, 4),
        ("a b c d", "e f g h", 4, 0),
        ("एक दिन राजा सोया।", "एक दिन रानी सोई।", 4, 2),
        ("从前有国王。", "从前有王后。", 5, 4),
        ("cafe\u0301 ferme\u0301", "Café fermé!", 2, 2),
    ],
)
def test_rouge_of_known_pairs(first, second, n, lcs):
    assert rouge_homogenisation([first, second]) == pytest.approx(lcs / n)
    assert len(words(first)) == len(words(second)) == n


def cosines(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(float)
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows])


def slow_vendi(rows: np.ndarray) -> float:
    values = np.linalg.eigvalsh(cosines(rows) / len(rows))
    return float(np.exp(-sum(v * np.log(v) for v in values if v > 1e-14)))


def slow_classes(rows: np.ndarray, threshold: float) -> int:
    """One text after another, each compared with the founders in turn."""
    alike, founders = cosines(rows), []
    for i in range(len(rows)):
        if not any(alike[i, founder] >= threshold - 1e-6 for founder in founders):
            founders.append(i)
    return len(founders)


@given(ROWS, st.sampled_from([-1.0, -0.3, 0.0, 0.4, 0.77, 0.95, 1.0]))
def test_vendi_and_classes_equal_their_definitions(rows, threshold):
    assert vendi_score(rows) == pytest.approx(slow_vendi(rows), abs=1e-9)
    assert distinct_k(rows, threshold) == slow_classes(rows, threshold)


def test_vendi_and_classes_of_known_sets():
    same, apart = np.ones((5, 3)), np.eye(5)
    assert vendi_score(same) == pytest.approx(1) and distinct_k(same, 1.0) == 1
    assert vendi_score(apart) == pytest.approx(5)
    assert (distinct_k(apart, 0.1), distinct_k(apart, -1.0)) == (5, 1)
    many = np.random.default_rng(0).normal(size=(300, 5))  # more texts than dimensions
    assert vendi_score(many) == pytest.approx(slow_vendi(many)) and vendi_score(many) <= 5
    chain = np.array([[np.cos(a), np.sin(a)] for a in (0, 0.6, 1.2)])
    assert distinct_k(chain, np.cos(0.7)) == 2
    assert distinct_k(chain[[1, 0, 2]], np.cos(0.7)) == 1  # the one in the middle founds the class


@pytest.mark.parametrize(
    ("rows", "threshold"),
    [
        (np.zeros((0, 3)), 0.5),
        (np.zeros((2, 3)), 0.5),
        (np.array([[np.nan, 1.0]]), 0.5),
        (np.ones((2, 2), dtype=int), 0.5),
        (np.eye(2), 1.2),
        (np.eye(2), float("nan")),
    ],
)
def test_faulty_rows_and_thresholds_are_refused(rows, threshold):
    with pytest.raises(ValueError):
        distinct_k(rows, threshold)
    if threshold == 0.5:
        with pytest.raises(ValueError):
            vendi_score(rows)
