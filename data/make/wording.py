"""Diversity of wording of one set of texts, tried in the trust table alone.

Both measures grow with similarity. They read words (lower case, no punctuation), not meaning; in
scripts without spaces characters, so compare within one language, and sets of equal size. They
raise CourseError for fewer than two texts, or a text without a word.

Source: arXiv 2503.17126 uses them beside embeddings; arXiv 2403.00553 surveys such measures, and
its package `diversity` 0.3.1 is slow and partly wrong (data/results/benchmarks.json).
"""

from __future__ import annotations

import gzip
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ddpo_utils.corpus.text import ngrams, words
from ddpo_utils.settings import CourseError

ORDERS = range(1, 5)  # n-grams of 1 to 4 words
GZIP_LEVEL = 9


def word_lists(texts: Sequence[str]) -> list[list[str]]:
    """Each text's words."""
    if isinstance(texts, str) or len(texts) < 2:
        raise CourseError("Diversity of wording needs a set: give a list of two texts or more.")
    tokens = []
    for number, text in enumerate(texts):
        tokens.append(words(text) if isinstance(text, str) else [])
        if not tokens[-1]:
            raise CourseError(f"Text {number} holds no word: leave it out of the set.")
    return tokens


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, joined by line breaks in UTF-8, over the bytes of their gzip stream."""
    word_lists(texts)
    raw = unicodedata.normalize("NFC", "\n".join(texts)).encode("utf-8", "replace")
    compressed = gzip.compress(raw, GZIP_LEVEL, mtime=0)
    return len(raw) / len(compressed)


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over texts of the sentence BLEU-4 of each against all the others, 0 to 1.

    A hundredth of sacrebleu's sentence_score with exponential smoothing and effective order. One
    copy of each text is enough for 1. Source: Zhu et al., "Texygen", arXiv 1802.01886.
    """
    tokens = word_lists(texts)
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
    counters = [Counter(ngrams(text_tokens, n)) for text_tokens in tokens]
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
