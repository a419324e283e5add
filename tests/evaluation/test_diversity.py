"""Wording, the Vendi score and classes equal slow references written from their definitions."""

from __future__ import annotations

import gzip
import unicodedata
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ddpo_utils import CourseError, load_stories
from ddpo_utils.corpus.text import words
from ddpo_utils.evaluation.diversity import (
    compression_ratio,
    distinct_k,
    ngram_diversity,
    rouge_homogenisation,
    self_bleu,
    vendi_score,
)

WORDING = [compression_ratio, rouge_homogenisation, self_bleu, ngram_diversity]
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


def library_bleu(texts: list[str]) -> float:
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    plain = [" ".join(words(text)) for text in texts]
    scores = []
    for i, text in enumerate(plain):
        scores.append(bleu.sentence_score(text, plain[:i] + plain[i + 1 :]).score)
    return float(np.mean(scores)) / 100


def slow_ngrams(texts: list[str]) -> float:
    value = 0.0
    for n in range(1, 5):
        every = []
        for text in texts:
            tokens = words(text)
            every += [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        value += len(set(every)) / len(every) if every else 0
    return value


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (rouge_homogenisation, slow_rouge),
        (self_bleu, library_bleu),
        (ngram_diversity, slow_ngrams),
    ],
)
def test_wording_equals_its_definition(fast, slow):
    @given(st.lists(TEXT, min_size=2, max_size=6))
    def equal(texts):
        assert fast(texts) == pytest.approx(slow(texts), abs=1e-12)

    equal()
    assert fast(["(The sea) don't -- sleep...", "The LIGHT!"]) == fast(
        ["the sea don't sleep", "the light"]
    )


def test_wording_of_known_sets():
    stories = load_stories()["text"].tolist()[:6]
    raw = "\n".join(stories).encode()
    assert compression_ratio(stories) == len(raw) / len(gzip.compress(raw, 9))
    assert compression_ratio(["broken \ud83d half", "whole"]) > 0
    same, apart = ["The sea, the sea"] * 3, ["a b c d", "e f g h", "i j k l m"]
    assert rouge_homogenisation(same) == 1 and self_bleu(same) == pytest.approx(1)
    assert rouge_homogenisation(apart) == self_bleu(apart) == 0 and ngram_diversity(apart) == 4


@pytest.mark.parametrize(
    ("first", "second", "n", "lcs"),  # of words, or of characters in scripts without spaces
    [
        ("एक दिन राजा सोया।", "एक दिन रानी सोई।", (4, 4), 2),
        ("从前有国王。", "从前有王后。", (5, 5), 4),
        ("มีบ้าน", "มีเรือ", (4, 4), 1),
        ("cafe\u0301 ferme\u0301", "Café fermé!", (2, 2), 2),
        ("옛날 왕이 살았다.", "옛날 곰이 살았다.", (3, 3), 2),
    ],
)
def test_wording_in_other_scripts(first, second, n, lcs):
    assert rouge_homogenisation([first, second]) == pytest.approx(2 * lcs / sum(n))
    assert tuple(len(words(text)) for text in (first, second)) == n
    assert (self_bleu([first, second]) == pytest.approx(1)) == (n == (lcs, lcs))
    assert compression_ratio([first, first]) == compression_ratio(
        [unicodedata.normalize("NFD", first), first]
    )


@pytest.mark.parametrize("measure", WORDING)
@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ([], ""),
        (["one text"], ""),
        ("a bare string", ""),
        (["the sea", " \n", "light"], "1"),
        (["the sea", None], "1"),
        ([b"the sea", "light"], "0"),
        (["the sea", "🙂 …"], "1"),
    ],
)
def test_less_than_a_set_of_texts_with_words_is_refused(measure, texts, named):
    with pytest.raises(CourseError, match=named or None):
        measure(texts)


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
