"""Two style encoders that need no model.

    stylometric  character 2- to 4-grams of text with masked content words (Halvani: POSNoise)
    delta        cosine Delta over the 150 most frequent tokens (Burrows; Smith and Aldridge)

Both are fitted once, on the training authors, in data/style.npz: figures depend on the corpus.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..settings import data_dir
from ..storage.files import file_digest, replacing

__all__ = ["DeltaEncoder", "StylometricEncoder", "fit_style", "frozen_style", "mask_content"]

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d|[^\w\s]|\n")  # word, digit, sign, line end
_GRAMS = {"analyzer": "char", "ngram_range": (2, 4), "lowercase": False}


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(N, d) rows of any length as float32 unit rows."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # A text without any known feature has no direction: a constant row is far from all others.
    rows = np.where(norms > 0, rows, 1.0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / norms).astype(np.float32)


@cache
def _function_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    negated = ["don't", "can't", "won't", "isn't", "wasn't", "didn't"]
    clipped = ["i'm", "it's", "that's", "he's", "she's", "i've", "we're", "you're", "they're"]
    return ENGLISH_STOP_WORDS.union(negated, clipped, ["i'll", "i'd"])


def mask_content(text: str) -> str:
    """The text's style without its content.

    Function words, punctuation, line breaks and case stay. Content words become x, xx or xxx (up
    to 4 letters, up to 7, more), with an X before them if they are capitalised; digits become 0.
    """
    out = []
    for token in _TOKEN.findall(text.replace("’", "'")):
        if token[0].isdigit():
            out.append("0")
        elif token[0].isalpha() and token.lower() not in _function_words():
            shape = "x"
            if len(token) > 4:
                shape = "xx" if len(token) <= 7 else "xxx"
            if token.isupper() and len(token) > 1:
                shape = shape.upper()
            if token[0].isupper():
                shape = "X" + shape
            out.append(shape)
        else:
            out.append(token)
    return " ".join(out)


@dataclass
class StylometricEncoder:
    """Unit rows of centred TF-IDF over character n-grams of masked text (a break is a space)."""

    grams: list[str]
    idf: np.ndarray
    centre: np.ndarray

    @classmethod
    def fit(cls, texts: list[str]) -> StylometricEncoder:
        """The encoder with the grams, idf and centre of `texts`."""
        from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

        counter = CountVectorizer(min_df=3, **_GRAMS)
        counts = counter.fit_transform(map(mask_content, texts))
        totals = np.ravel(counts.sum(axis=0))
        kept = np.argsort(-totals, kind="stable")[:3000]  # ties alike on every processor
        weighted = TfidfTransformer().fit(counts[:, kept])
        idf = np.float32(weighted.idf_)
        grams = counter.get_feature_names_out()[kept].tolist()
        encoder = cls(grams, idf, np.float32(0))
        encoder.centre = encoder._tfidf(texts).mean(axis=0)
        return encoder

    def _tfidf(self, texts: list[str]) -> np.ndarray:
        from sklearn.feature_extraction.text import CountVectorizer

        if not texts:
            return np.zeros((0, len(self.grams)), np.float32)
        vectorizer = CountVectorizer(vocabulary=self.grams, **_GRAMS)
        masked = [mask_content(text) for text in texts]
        counts = vectorizer.transform(masked).toarray().astype(np.float32)
        return unit_rows(np.log1p(counts) * self.idf)

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows (always normalised)."""
        rows = self._tfidf(list(sentences))
        return unit_rows(rows - self.centre)


@dataclass
class DeltaEncoder:
    """Unit rows of z-scored relative frequencies of the most frequent tokens (cosine Delta)."""

    tokens: list[str]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, texts: list[str]) -> DeltaEncoder:
        """The encoder with the 150 most frequent tokens of `texts`, their means and deviations."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_TOKEN.findall(text.lower()))
        tokens = sorted(counts, key=lambda token: (-counts[token], token))
        encoder = cls(tokens[:150], np.float32(0), np.float32(1))
        rates = encoder._rates(texts)
        encoder.mean = rates.mean(axis=0)
        encoder.std = rates.std(axis=0)
        return encoder

    def _rates(self, texts: list[str]) -> np.ndarray:
        columns = {token: i for i, token in enumerate(self.tokens)}
        rates = np.zeros((len(texts), len(columns)), np.float32)
        for row, text in zip(rates, texts, strict=True):
            tokens = _TOKEN.findall(text.lower())
            for token in tokens:
                if token in columns:
                    row[columns[token]] += 1 / len(tokens)
        return rates

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows (always normalised)."""
        rates = self._rates(list(sentences))
        return unit_rows((rates - self.mean) / self.std)


def fit_style(
    texts: list[str], path: Path | None = None
) -> tuple[StylometricEncoder, DeltaEncoder]:
    """Both style encoders, fitted on `texts`; with `path` also written there as an npz file."""
    style, delta = StylometricEncoder.fit(texts), DeltaEncoder.fit(texts)
    if path is not None:
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **vars(style), **vars(delta))
    return style, delta


def frozen_style(name: str) -> tuple[StylometricEncoder | DeltaEncoder, str]:
    """The encoder `name` of data/style.npz, and a key that names this fit."""
    path = data_dir() / "style.npz"
    with np.load(path) as fit:
        if name == "delta":
            encoder = DeltaEncoder(fit["tokens"].tolist(), fit["mean"], fit["std"])
        else:
            encoder = StylometricEncoder(fit["grams"].tolist(), fit["idf"], fit["centre"])
    return encoder, f"{name}-{file_digest(path)}"
