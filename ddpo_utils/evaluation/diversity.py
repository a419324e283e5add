"""Diversity of one set of texts beside mean pairwise distance: by wording, and as a count.

compression_ratio, rouge_homogenisation and self_bleu grow with similarity, ngram_diversity,
vendi_score and distinct_k with diversity. The wording measures read words (lower case, no
punctuation), not meaning; in scripts without spaces characters, so compare within one language.
All but ROUGE-L depend on the number of texts: compare equal sizes.
They raise CourseError for fewer than two texts, or a text without a word; measures of an encoder's
rows raise ValueError for faulty rows.

Source: arXiv 2503.17126 uses three of them beside embeddings; arXiv 2403.00553 surveys the wording
measures, and its package `diversity` 0.3.1 is slow and partly wrong (data/results/benchmarks.json).
"""

from __future__ import annotations

import gzip
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..corpus.text import words
from ..deviation import TIE, raw_deviation
from ..settings import CourseError

__all__ = [
    "compression_ratio",
    "distinct_k",
    "ngram_diversity",
    "rouge_homogenisation",
    "self_bleu",
    "vendi_score",
]

ORDERS = range(1, 5)  # n-grams of 1 to 4 words
GZIP_LEVEL = 9


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    """Each text's words."""
    if isinstance(texts, str) or len(texts) < 2:
        raise CourseError("Diversity of wording needs a set: give a list of two texts or more.")
    tokens = []
    for number, text in enumerate(texts):
        tokens.append(words(text) if isinstance(text, str) else [])
        if not tokens[-1]:
            raise CourseError(f"Text {number} holds no word: leave it out of the set.")
    return tokens


def _ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of one text."""
    shifted = [tokens[start:] for start in range(n)]
    return list(zip(*shifted, strict=False))


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, joined by line breaks in UTF-8, over the bytes of their gzip stream."""
    _tokens(texts)
    raw = unicodedata.normalize("NFC", "\n".join(texts)).encode("utf-8", "replace")
    compressed = gzip.compress(raw, GZIP_LEVEL, mtime=0)
    return len(raw) / len(compressed)


def rouge_homogenisation(texts: Sequence[str]) -> float:
    """Mean over all pairs of texts of ROUGE-L's F1, 2 LCS / (m + n) for m and n words, 0 to 1.

    Source: Lin 2004; the mean over pairs is arXiv 2309.05196's homogenisation score.
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    tokens = _tokens(texts)
    lengths = np.array([len(text_tokens) for text_tokens in tokens])
    common = cdist(tokens, tokens, scorer=LCSseq.similarity, dtype=np.int32)
    first, second = np.triu_indices(len(tokens), 1)
    f1 = 2 * common[first, second] / (lengths[first] + lengths[second])
    return float(f1.mean())


def ngram_diversity(texts: Sequence[str]) -> float:
    """Sum over n = 1..4 of the share of distinct n-grams among all of the set, 0 to 4.

    No n-gram spans two texts. Source: Meister et al., arXiv 2202.00666.
    """
    tokens = _tokens(texts)
    value = 0.0
    for n in ORDERS:
        ngrams = [ngram for text_tokens in tokens for ngram in _ngrams(text_tokens, n)]
        if ngrams:
            value += len(set(ngrams)) / len(ngrams)
    return value


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over texts of the sentence BLEU-4 of each against all the others, 0 to 1.

    A hundredth of sacrebleu's sentence_score with exponential smoothing and effective order. One
    copy of each text is enough for 1. Source: Zhu et al., "Texygen", arXiv 1802.01886.
    """
    tokens = _tokens(texts)
    lengths = np.array([len(text_tokens) for text_tokens in tokens])
    matches = np.array([_clipped_matches(tokens, n) for n in ORDERS], dtype=float)
    totals = np.array([np.maximum(lengths - n + 1, 0) for n in ORDERS])
    present = totals > 0  # a short text has no n-grams of the higher orders
    missed = (matches == 0) & present
    # each order without a match counts half a match of the one before
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=0), matches)
    precisions = np.divide(smoothed, totals, out=np.ones_like(smoothed), where=present)
    log_precision = np.log(precisions).sum(axis=0) / present.sum(axis=0)
    brevity = np.minimum(0, 1 - _nearest_lengths(lengths) / lengths)
    scores = np.where(matches[0] > 0, np.exp(log_precision + brevity), 0)
    return float(scores.mean())


def _clipped_matches(tokens: list[list[str]], n: int) -> list[int]:
    """For each text the number of its n-grams in other texts, clipped as BLEU clips it.

    An n-gram counts at most as often as the other text with the most of it holds it.
    """
    counters = [Counter(_ngrams(text_tokens, n)) for text_tokens in tokens]
    largest: dict[tuple[str, ...], int] = {}
    second: dict[tuple[str, ...], int] = {}  # equal to the largest where two texts hold it
    for counter in counters:
        for ngram, count in counter.items():
            before = largest.get(ngram, 0)
            largest[ngram] = max(before, count)
            second[ngram] = max(second.get(ngram, 0), min(before, count))
    matches = []
    for counter in counters:
        matched = 0
        for ngram, count in counter.items():
            clip = second[ngram] if count == largest[ngram] else largest[ngram]
            matched += min(count, clip)
        matches.append(matched)
    return matches


def _nearest_lengths(lengths: np.ndarray) -> np.ndarray:
    """For each text the nearest length among the others, of two as near the shorter."""
    nearest = []
    for place, length in enumerate(lengths):
        others = np.sort(np.delete(lengths, place))
        nearest.append(others[np.argmin(np.abs(others - length))])
    return np.array(nearest)


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
    eigenvalues = np.linalg.svd(unit, compute_uv=False) ** 2 / len(unit)
    p = eigenvalues[eigenvalues > 0]
    entropy = -(p * np.log(p)).sum()
    return float(np.exp(entropy))


def distinct_k(rows: Any, threshold: float) -> int:
    """Number of classes of similar texts in a set, as NoveltyBench counts them (arXiv 2504.05228).

    A text joins the first class whose founder has a cosine of at least `threshold` with it, or
    founds a new one, so the order of the (N, d) rows matters. The paper decides by a classifier
    trained on people's judgements. A cosine is no such judgement: choose the threshold on texts
    with known classes, and report it.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is a cosine, -1 to 1; got {threshold!r}.")
    unit = _unit_rows(rows)
    alike = unit @ unit.T >= threshold - TIE
    founders: list[int] = []
    for text in range(len(unit)):
        if not alike[founders, text].any():
            founders.append(text)
    return len(founders)
