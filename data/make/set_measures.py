"""Measures of one set that are tried in the trust table alone.

rouge_homogenisation grows with similarity, ngram_diversity, vendi_score and distinct_k with
diversity. Measures of an encoder's rows raise ValueError for faulty rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddpo_utils.corpus.text import ngrams
from ddpo_utils.deviation import TIE, raw_deviation
from wording import ORDERS, word_lists


def rouge_homogenisation(texts: Sequence[str]) -> float:
    """Mean over all pairs of texts of ROUGE-L's F1, 2 LCS / (m + n) for m and n words, 0 to 1.

    Source: Lin 2004; the mean over pairs is arXiv 2309.05196's homogenisation score.
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    tokens = word_lists(texts)
    lengths = np.array([len(text_tokens) for text_tokens in tokens])
    common = cdist(tokens, tokens, scorer=LCSseq.similarity, dtype=np.int32)
    first, second = np.triu_indices(len(tokens), 1)
    f1 = 2 * common[first, second] / (lengths[first] + lengths[second])
    return float(f1.mean())


def ngram_diversity(texts: Sequence[str]) -> float:
    """Sum over n = 1..4 of the share of distinct n-grams among all of the set, 0 to 4.

    No n-gram spans two texts. Source: Meister et al., arXiv 2202.00666.
    """
    tokens = word_lists(texts)
    value = 0.0
    for n in ORDERS:
        every = [ngram for text_tokens in tokens for ngram in ngrams(text_tokens, n)]
        if every:
            value += len(set(every)) / len(every)
    return value


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
