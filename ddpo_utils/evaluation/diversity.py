"""Diversity of one set of texts beside mean pairwise distance: by wording, and as a count.

compression_ratio, rouge_homogenisation and self_bleu grow with likeness, ngram_diversity,
vendi_score and distinct_k with diversity. The wording measures read words (lower case, no
punctuation), not meaning. All but ROUGE-L depend on the number of texts: compare equal sizes.

Source: arXiv 2503.17126 uses three of them beside embeddings; arXiv 2403.00553 surveys the wording
measures. That survey's package `diversity` 0.3.1 is slow and partly wrong (tests/benchmarks).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..corpus.text import words
from ..deviation import TIE, raw_deviation
from ..settings import CourseError

__all__ = [
    "compression_ratio",
    "distinct_k",
    "equivalence_classes",
    "ngram_diversity",
    "rouge_homogenisation",
    "self_bleu",
    "vendi_score",
]

ORDERS = 4  # n-grams of 1 to 4 words
GZIP_LEVEL = 9


# -- wording: CourseError for fewer than two texts, or a text without a word -----------------------


def _word_ids(texts: Sequence[str]) -> list[list[int]]:
    """Each text's words as numbers, one number per distinct word, from 0."""
    if isinstance(texts, str) or len(texts) < 2:
        raise CourseError("Diversity of wording needs a set: give a list of two texts or more.")
    ids: dict[str, int] = {}
    coded = []
    for place, text in enumerate(texts):
        coded.append([ids.setdefault(word, len(ids)) for word in words(text)])
        if not coded[-1]:
            raise CourseError(f"Text {place} holds no word: leave it out of the set.")
    return coded


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, joined by line breaks in UTF-8, over the bytes of their gzip stream."""
    _word_ids(texts)
    raw = "\n".join(texts).encode("utf-8", "replace")
    return len(raw) / len(gzip.compress(raw, GZIP_LEVEL, mtime=0))


def rouge_homogenisation(texts: Sequence[str]) -> float:
    """Mean over all pairs of texts of ROUGE-L's F1, 2 LCS / (m + n) for m and n words, 0 to 1.

    Source: Lin 2004; the mean over pairs is arXiv 2309.05196's homogenisation score.
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    coded = _word_ids(texts)
    common = cdist(coded, coded, scorer=LCSseq.similarity, dtype=np.int32)
    lengths = np.array([len(ids) for ids in coded])
    first, second = np.triu_indices(len(coded), 1)
    return float((2 * common[first, second] / (lengths[first] + lengths[second])).mean())


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over texts of the sentence BLEU-4 of each against all the others, 0 to 1.

    A hundredth of sacrebleu's sentence_score with exponential smoothing and effective order. One
    copy of each text is enough for 1. Source: Zhu et al., "Texygen", arXiv 1802.01886.
    """
    coded = _word_ids(texts)
    lengths = np.array([len(ids) for ids in coded])
    matches = np.zeros((ORDERS, len(coded)))
    for n, (grams, owners) in enumerate(_ngrams(coded)):
        matches[n] = _matches(grams, owners, len(coded))
    totals = np.maximum(lengths - np.arange(ORDERS)[:, None], 0)
    missed = (matches == 0) & (totals > 0)
    # each order without a match counts half a match of the one before
    matches_smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=0), matches)
    ones = np.ones_like(matches)
    precisions = np.divide(matches_smoothed, totals, out=ones, where=totals > 0)
    log_precision = np.log(precisions).sum(axis=0) / (totals > 0).sum(axis=0)
    brevity = np.minimum(0, 1 - _closest(lengths) / lengths)
    return float(np.where(matches[0] > 0, np.exp(log_precision + brevity), 0).mean())


def ngram_diversity(texts: Sequence[str]) -> float:
    """Sum over n = 1..4 of the share of distinct n-grams among all of the set, 0 to 4.

    No n-gram spans two texts. Source: Meister et al., arXiv 2202.00666.
    """
    shares = [len(np.unique(grams)) / max(len(grams), 1) for grams, _ in _ngrams(_word_ids(texts))]
    return float(sum(shares))


def _ngrams(coded: list[list[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For n = 1..4 the n-grams of the set, equal numbers for equal words, and each one's text."""
    ids = np.concatenate([np.array(text, dtype=np.int64) for text in coded])
    owners = np.repeat(np.arange(len(coded)), [len(text) for text in coded])
    grams, base = ids, ids.max() + 1
    for n in range(1, ORDERS + 1):
        count = max(len(ids) - n + 1, 0)
        inside = owners[:count] == owners[n - 1 :]  # a sequence over a seam is no n-gram
        yield grams[inside], owners[:count][inside]
        grams = np.unique(grams[:-1] * base + ids[n:], return_inverse=True)[1]


def _matches(grams: np.ndarray, owners: np.ndarray, texts: int) -> np.ndarray:
    """(texts,) n-grams of each text that another text holds too, clipped as BLEU clips them.

    The clip is the largest count among the other texts: the largest of all, or for the text that
    has that one, the second largest.
    """
    pairs, counts = np.unique(grams * texts + owners, return_counts=True)
    grams, owners = np.divmod(pairs, texts)
    order = np.lexsort((-counts, grams))  # within an n-gram the text with the most comes first
    grams, owners, counts = grams[order], owners[order], counts[order]
    first = np.flatnonzero(np.diff(grams, prepend=-1))
    clip = np.repeat(counts[first], np.diff(first, append=len(grams)))
    shared = np.append(grams, -1)[first + 1] == grams[first]
    clip[first] = np.where(shared, np.append(counts, 0)[first + 1], 0)
    return np.bincount(owners, np.minimum(counts, clip), texts)


def _closest(lengths: np.ndarray) -> np.ndarray:
    """For each text the nearest length among the others, of two as near the shorter."""
    order = np.argsort(lengths, kind="stable")
    own = lengths[order].astype(float)
    below, above = np.append(-np.inf, own[:-1]), np.append(own[1:], np.inf)
    out = np.empty(len(lengths))
    out[order] = np.where(own - below <= above - own, below, above)
    return out


# -- an encoder's rows: ValueError for faulty ones -------------------------------------------------


def _unit_rows(rows: Any) -> np.ndarray:
    raw_deviation(rows)  # refuses faulty rows
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vendi_score(rows: Any) -> float:
    """Effective number of different texts: exp of the entropy of the eigenvalues of K / N.

    K holds the cosines of the (N, d) rows: 1 for equal rows (and opposite ones), N for orthogonal
    ones. Source: Friedman and Dieng, arXiv 2210.02410, definition 3.1.
    """
    unit = _unit_rows(rows)
    p = np.linalg.svd(unit, compute_uv=False) ** 2 / len(unit)  # the eigenvalues of K / N
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def equivalence_classes(rows: Any, threshold: float) -> np.ndarray:
    """(N,) class of each text, numbered from 0 in the order of their founders.

    A text joins the first class whose founder has a cosine of at least `threshold` with it, or
    founds a new one, as in NoveltyBench's code (arXiv 2504.05228); so the order of the (N, d) rows
    matters. The paper decides by a classifier of people's judgements, which a cosine is not: choose
    the threshold on texts whose classes are known, and state it.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is a cosine, -1 to 1; got {threshold!r}.")
    unit = _unit_rows(rows)
    alike = unit @ unit.T >= threshold - TIE  # a text is alike to itself whatever rounding says
    classes = np.full(len(unit), -1)
    for founder in range(len(unit)):
        if classes[founder] < 0:
            classes[(classes < 0) & alike[founder]] = classes.max() + 1
    return classes


def distinct_k(rows: Any, threshold: float) -> int:
    """Number of classes among the texts of a set (see `equivalence_classes`); arXiv 2504.05228."""
    return int(equivalence_classes(rows, threshold).max()) + 1
