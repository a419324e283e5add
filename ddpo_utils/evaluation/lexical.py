"""Diversity of wording: four measures of one set of texts, such as a prompt's samples. None of them reads meaning.

    compression_ratio      raw bytes over gzip's bytes of the joined texts                      larger = more alike
    rouge_homogenisation   mean ROUGE-L F1 of all pairs of texts, 0 to 1                        larger = more alike
    self_bleu              mean BLEU-4 of each text against all the others, 0 to 1              larger = more alike
    ngram_diversity        sum over n = 1..4 of distinct n-grams over all n-grams, 0 to 4       larger = more varied

Tokens are the words of `metrics.words`: lower case, punctuation dropped, an apostrophe kept inside a word. Every value
but ROUGE-L's depends on how many texts the set holds, and on how long they are: compare sets of one size alone.

Source: arXiv 2503.17126 uses three of them beside embeddings; Shaib et al., arXiv 2403.00553, survey all four. The
package `diversity` 0.3.1 of that survey's authors is not used: it is slow, and some of its values are wrong
(tests/benchmarks/lexical.py measures both). It gzips a gzip stream; divides its BLEU by the number of texts less one
once too often, so that identical texts score 1/(K - 1) in place of 1; gives texts without one word in common a
homogenisation of 1; and counts n-grams across the seams between texts.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence

import numpy as np

from ..corpus.text import words
from ..settings import CourseError

__all__ = ["compression_ratio", "ngram_diversity", "rouge_homogenisation", "self_bleu"]

ORDERS = 4  # n-grams of 1 to 4 words
LEVEL = 9  # of gzip


def _tokens(texts: Sequence[str]) -> list[list[int]]:
    """Each text's words as numbers, one number a word, counted from 0."""
    if isinstance(texts, str) or len(texts) < 2:
        raise CourseError(
            "Diversity of wording is a property of a set: give a list of two texts or more."
        )
    number: dict[str, int] = {}
    coded = [[number.setdefault(word, len(number)) for word in words(text)] for text in texts]
    if not all(coded):
        empty = next(i for i, tokens in enumerate(coded) if not tokens)
        raise CourseError(
            f"Text {empty} holds no word: count it as a failure, and leave it out of the set."
        )
    return coded


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, joined by line breaks in UTF-8, over the bytes of their gzip stream at level 9.

    Identical texts give the largest value for their number and length; it has no bound, and grows with both. gzip
    looks back 32,768 bytes and no further, so likeness across more than some 5,000 words goes unseen.

    Raises:
        CourseError: fewer than two texts, or one without a word.
    """
    _tokens(texts)
    raw = "\n".join(texts).encode("utf-8", "replace")
    return len(raw) / len(gzip.compress(raw, LEVEL, mtime=0))


def rouge_homogenisation(texts: Sequence[str]) -> float:
    """Mean over all pairs of texts of ROUGE-L's F1, 2 LCS / (m + n) for texts of m and n words, 0 to 1.

    The longest common subsequence (LCS) is rapidfuzz's, bit-parallel. Identical texts give 1, texts without a common
    word 0. F1 is the same in both directions, so ordered and unordered pairs have one mean; no text meets itself.

    Raises:
        CourseError: fewer than two texts, or one without a word.

    Source: Lin, "ROUGE", 2004; the mean over pairs is arXiv 2309.05196's homogenisation score.
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    coded = _tokens(texts)
    common = cdist(coded, coded, scorer=LCSseq.similarity, dtype=np.int32)
    length = np.array([len(tokens) for tokens in coded])
    pairs = np.triu_indices(len(coded), 1)
    return float((2 * common[pairs] / (length[pairs[0]] + length[pairs[1]])).mean())


def self_bleu(texts: Sequence[str]) -> float:
    """Mean over texts of the sentence BLEU-4 of each as hypothesis with all others as its references, 0 to 1.

    A hundredth of sacrebleu's sentence_score on the words, with its exponential smoothing and effective order (orders
    that a text is too short for are left out), the closest reference length, and of two as close the shorter.
    Identical texts give 1, texts without a common word 0; but a copy of each text is enough for 1, however the texts
    differ. The counts of all texts are made at once: a reference's count is the largest among the other texts, which is
    the largest of all, or for the text that holds it the second largest.

    Raises:
        CourseError: fewer than two texts, or one without a word.

    Source: Zhu et al., "Texygen" (self-BLEU), arXiv 1802.01886; Papineni et al., "BLEU", 2002.
    """
    coded = _tokens(texts)
    length = np.array([len(tokens) for tokens in coded])
    correct = np.zeros((ORDERS, len(coded)))
    total = np.maximum(length - np.arange(ORDERS)[:, None], 0)
    for n, (gram, owner) in enumerate(_grams(coded)):
        pair, count = np.unique(gram * len(coded) + owner, return_counts=True)
        gram, owner = np.divmod(pair, len(coded))
        order = np.lexsort(
            (-count, gram)
        )  # within an n-gram, the text that holds it most often comes first
        gram, owner, count = gram[order], owner[order], count[order]
        first = np.flatnonzero(np.diff(gram, prepend=-1))
        most = np.repeat(count[first], np.diff(first, append=len(gram)))
        second = np.append(count, 0)[first + 1]
        most[first] = np.where(np.append(gram, -1)[first + 1] == gram[first], second, 0)
        correct[n] = np.bincount(owner, np.minimum(count, most), len(coded))
    missed = (correct == 0) & (total > 0)
    smooth = 2.0 ** np.cumsum(
        missed, axis=0
    )  # each order without a match counts half of the one before
    hits = np.where(missed, 1 / smooth, correct)
    logs = np.log(np.divide(hits, total, out=np.ones_like(hits), where=total > 0))
    mean = logs.sum(axis=0) / (total > 0).sum(axis=0)
    score = np.exp(mean + np.minimum(0, 1 - _closest(length) / length))
    return float(np.where(correct[0] > 0, score, 0).mean())


def ngram_diversity(texts: Sequence[str]) -> float:
    """Sum over n = 1..4 of the share of distinct n-grams among all n-grams of the set, 0 to 4; none spans two texts.

    4 means that no word occurs twice. K identical texts give 1/K of what one of them gives. An order that every text
    is too short for adds 0.

    Raises:
        CourseError: fewer than two texts, or one without a word.

    Source: Meister et al., "Locally Typical Sampling", arXiv 2202.00666, as used by arXiv 2503.17126.
    """
    return float(
        sum(len(np.unique(gram)) / max(len(gram), 1) for gram, _ in _grams(_tokens(texts)))
    )


def _grams(coded: list[list[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For n = 1..4: a number for each n-gram in the set, the same where its words are, and the text it stands in."""
    token = np.concatenate([np.array(tokens, dtype=np.int64) for tokens in coded])
    owner = np.repeat(np.arange(len(coded)), [len(tokens) for tokens in coded])
    gram, size = token, token.max() + 1
    for n in range(1, ORDERS + 1):
        left = max(len(token) - n + 1, 0)
        inside = owner[:left] == owner[n - 1 :]  # a sequence that runs over a seam is no n-gram
        yield gram[inside], owner[:left][inside]
        gram = np.unique(gram[:-1] * size + token[n:], return_inverse=True)[1]


def _closest(length: np.ndarray) -> np.ndarray:
    """For each text the length among the others' that is nearest to its own, of two as near the shorter."""
    order = np.argsort(length, kind="stable")
    own = length[order].astype(float)
    below, above = np.append(-np.inf, own[:-1]), np.append(own[1:], np.inf)
    out = np.empty(len(length))
    out[order] = np.where(own - below <= above - own, below, above)
    return out
