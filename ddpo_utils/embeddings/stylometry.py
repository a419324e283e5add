"""The two style encoders, which need no model: what is left of a text when its matter is masked or counted away.

    stylometric  character 2- to 4-grams of text whose content words are masked (Halvani's POSNoise idea)
    delta        cosine Delta over the 150 commonest tokens (Burrows; Smith and Aldridge)

Both are fitted once, on the training authors, and frozen in data/style.npz: style figures depend on the corpus they
are centred on.
"""

from __future__ import annotations

import hashlib
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..settings import data_dir

__all__ = [
    "DeltaEncoder",
    "StylometricEncoder",
    "fit_style",
    "frozen_style",
    "mask_content",
    "unit_rows",
]

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d|[^\w\s]|\n")


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(N, d) rows of any length as float32 unit rows."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # A text without one known feature has no direction; a constant one keeps it a unit row, far from all others.
    rows = np.where(norms > 0, rows, 1.0)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=1)
def _function_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    clipped = "don't can't won't isn't wasn't didn't i'm it's that's he's she's i've we're you're they're i'll i'd"
    return ENGLISH_STOP_WORDS | frozenset(clipped.split())


def mask_content(text: str) -> str:
    """The text's manner without its matter: function words, punctuation, line breaks and case stay, a content word
    becomes x's for its length (up to 4 letters, up to 7, more) after its first letter's case, a digit 0."""
    out = []
    for token in _TOKEN.findall(text.replace("’", "'")):
        if token[0].isdigit():
            out.append("0")
        elif token[0].isalpha() and token.lower() not in _function_words():
            shape = "x" * (1 + (len(token) > 4) + (len(token) > 7))
            if token.isupper() and len(token) > 1:
                shape = shape.upper()
            out.append("X" + shape if token[0].isupper() else shape)
        else:
            out.append(token)
    return " ".join(out)


class StylometricEncoder:
    """Unit rows of centred TF-IDF over character 2- to 4-grams of masked text; `fit` freezes grams, idf, centre."""

    def __init__(self, grams: list[str], idf: np.ndarray, centre: np.ndarray):
        self.grams, self.idf, self.centre = grams, idf, centre

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import CountVectorizer

        return CountVectorizer(
            analyzer="char", ngram_range=(2, 4), lowercase=False, vocabulary=self.grams
        )

    @classmethod
    def fit(cls, texts: list[str], features: int = 3000) -> StylometricEncoder:
        from sklearn.feature_extraction.text import TfidfVectorizer

        tfidf = TfidfVectorizer(
            analyzer="char",
            ngram_range=(2, 4),
            lowercase=False,
            sublinear_tf=True,
            min_df=3,
            max_features=features,
        ).fit([mask_content(t) for t in texts])
        encoder = cls(
            list(tfidf.get_feature_names_out()), tfidf.idf_.astype(np.float32), np.float32(0)
        )
        encoder.centre = encoder._tfidf(texts).mean(axis=0)
        return encoder

    def _tfidf(self, texts: list[str]) -> np.ndarray:
        counts = (
            self._vectorizer.transform([mask_content(t) for t in texts])
            .toarray()
            .astype(np.float32)
        )
        return (
            unit_rows(np.log1p(counts) * self.idf)
            if len(texts)
            else np.zeros((0, len(self.grams)), np.float32)
        )

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows (always normalised)."""
        return unit_rows(self._tfidf(list(sentences)) - self.centre)


class DeltaEncoder:
    """Unit rows of z-scored relative frequencies of the commonest tokens (cosine Delta)."""

    def __init__(self, tokens: list[str], mean: np.ndarray, std: np.ndarray):
        self.tokens, self.mean, self.std = tokens, mean, std

    @classmethod
    def fit(cls, texts: list[str], features: int = 150) -> DeltaEncoder:
        from collections import Counter

        counts = Counter(token for t in texts for token in _TOKEN.findall(t.lower()))
        commonest = sorted(counts, key=lambda token: (-counts[token], token))[:features]
        encoder = cls(commonest, np.float32(0), np.float32(1))
        rates = encoder._rates(texts)
        encoder.mean, encoder.std = rates.mean(axis=0), rates.std(axis=0)
        return encoder

    def _rates(self, texts: list[str]) -> np.ndarray:
        place = {token: i for i, token in enumerate(self.tokens)}
        rates = np.zeros((len(texts), len(place)), np.float32)
        for row, text in zip(rates, texts, strict=True):
            tokens = _TOKEN.findall(text.lower())
            for token in tokens:
                if token in place:
                    row[place[token]] += 1 / len(tokens)
        return rates

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows (always normalised)."""
        return unit_rows((self._rates(list(sentences)) - self.mean) / self.std)


def fit_style(
    texts: list[str], path: Path | None = None
) -> tuple[StylometricEncoder, DeltaEncoder]:
    """Fit both style encoders on `texts`; with `path` freeze them there (data/style.npz, no pickles)."""
    style, delta = StylometricEncoder.fit(texts), DeltaEncoder.fit(texts)
    if path is not None:
        np.savez_compressed(
            path,
            grams=np.array(style.grams),
            idf=style.idf,
            centre=style.centre,
            tokens=np.array(delta.tokens),
            mean=delta.mean,
            std=delta.std,
        )
    return style, delta


def frozen_style(name: str) -> tuple[StylometricEncoder | DeltaEncoder, str]:
    """The encoder `name` of data/style.npz, and a key that names this fit."""
    path = data_dir() / "style.npz"
    return _frozen(name, path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # a corpus asks for it at every shard
def _frozen(name: str, path: Path, stamp: int) -> tuple[StylometricEncoder | DeltaEncoder, str]:
    fit = np.load(path)
    if name == "delta":
        encoder = DeltaEncoder(fit["tokens"].tolist(), fit["mean"], fit["std"])
    else:
        encoder = StylometricEncoder(fit["grams"].tolist(), fit["idf"], fit["centre"])
    return encoder, f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
