"""Rows of numbers by text, kept on disk: what one process has encoded no other encodes again."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..extras import needs
from ..settings import CourseError, cache_dir, progress_bar
from ..storage.files import text_key

__all__ = ["CachedEncoder"]

BLOCK = 256  # texts encoded between two writes: what a killed run loses
QUERY = 1000  # keys a query asks for

# Keys of texts, their rows (n, d), and the tokens (n,) at which each was cut; 0: it was read whole.
_Part = tuple[list[str], np.ndarray, np.ndarray]


def _checksum(text: str, row: bytes, cut: int) -> int:
    return zlib.crc32(f"{text} {cut} ".encode() + row)


def _is_whole(text: str, row: Any, cut: Any, checksum: Any) -> bool:
    return isinstance(row, bytes) and _checksum(text, row, cut) == checksum


def as_rows(values: Any, count: int, name: str) -> np.ndarray:
    """(count, d) float32 rows; CourseError, with the encoder's `name`, where `values` are none."""
    try:
        rows = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        rows = np.empty(0)
    shaped = rows.ndim == 2 and len(rows) == count and (rows.size or not count)
    if not shaped or not np.isfinite(rows).all():
        raise CourseError(
            f"The encoder {name} gives no row of finite numbers for each of {count} texts: name "
            "another."
        )
    return rows


class CachedEncoder:
    """An encoder that keeps its rows by text in one SQLite file: each text is encoded once.

    Several processes may use the file at once. A file that is damaged or cannot be written costs
    time, never a result: a warning is given, and the texts are encoded anyway.

    Args:
        encoder: `encode(texts)` gives (n, d) rows. One that cuts long texts has `token_counts` and
            `limit` too; `block` is the number of texts that it takes at once.
        key: names what the rows depend on; part of the file's name.
        folder: where the file lies; None: `embeddings` in the cache.
        dtype: number type of the rows, float32 or float16.
    """

    def __init__(
        self, encoder: Any, key: str, folder: Path | None = None, dtype: DTypeLike = np.float32
    ):
        self.encoder, self.dtype = encoder, np.dtype(dtype)
        self.key = re.sub(r"[^A-Za-z0-9._-]", "_", key)
        folder = folder or cache_dir() / "embeddings"
        self.path = folder / f"{self.key}-{self.dtype}.sqlite"

    @needs("train")
    def encode(self, sentences: Sequence[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) rows in the order of the texts, from the file where it has them.

        A warning gives the number of texts that the encoder cut. `normalize_embeddings` has no
        effect. CourseError: an item is no text, or the encoder cannot be loaded.
        """
        try:
            sentences = [sentences] if isinstance(sentences, str) else list(sentences)
        except TypeError:
            raise CourseError(f"Give a list of texts, not {sentences!r}.") from None
        for i, text in enumerate(sentences):
            if not isinstance(text, str):
                raise CourseError(f"Text {i} is {text!r}, not a text: leave it out.")
        if not sentences:
            return as_rows(self.encoder.encode([]), 0, self.key).astype(self.dtype)
        keys = [text_key(text) for text in sentences]
        texts = dict(zip(keys, sentences, strict=True))
        places = {key: i for i, key in enumerate(texts)}
        rows, limits = None, np.zeros(len(texts), int)
        missing = dict(texts)  # `_read` takes out what it finds
        for part_keys, part_rows, part_limits in chain(self._read(missing), self._make(missing)):
            if rows is None:
                rows = np.empty((len(texts), part_rows.shape[1]), self.dtype)
            if part_rows.shape[1] != rows.shape[1]:
                raise CourseError(f"{self.path} holds rows of another encoder: delete it.")
            index = [places[key] for key in part_keys]
            rows[index] = part_rows
            limits[index] = part_limits
        cut = np.count_nonzero(limits)
        if cut and os.environ.get("RANK", "0") == "0":  # the first of several processes
            warnings.warn(
                f"{self.key} reads {limits.max()} tokens: {cut} of {len(texts)} texts are cut.",
                stacklevel=3,
            )
        if len(texts) == len(keys):  # a large corpus is not copied
            return rows
        index = [places[key] for key in keys]
        return rows[index]

    def _make(self, missing: dict[str, str]) -> Iterator[_Part]:
        """The rows of the missing texts, encoded and written block by block."""
        # Longest first: little padding, and a batch that does not fit fails first.
        order = sorted(missing, key=lambda key: -len(missing[key]))
        block = getattr(self.encoder, "block", BLOCK)
        starts = range(0, len(order), block)
        shown = len(starts) > 1
        for start in progress_bar(starts, shown, desc=f"embedding, {self.key}", leave=False):
            keys = order[start : start + block]
            batch = [missing[key] for key in keys]
            rows = as_rows(self.encoder.encode(batch), len(batch), self.key).astype(self.dtype)
            limits = np.zeros(len(batch), int)
            if hasattr(self.encoder, "limit"):
                limit, lengths = self.encoder.limit, self.encoder.token_counts(batch)
                limits = np.where(lengths > limit, limit, 0).astype(int)
            self._write(keys, rows, limits)
            yield keys, rows, limits

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(self.path, timeout=60)
        file.execute(
            "CREATE TABLE IF NOT EXISTS checked_rows "
            "(text TEXT PRIMARY KEY, row BLOB, cut INTEGER, checksum INTEGER)"
        )
        return file

    def _read(self, missing: dict[str, str]) -> Iterator[_Part]:
        """The stored rows of the missing texts, which are then taken out of `missing`."""
        query = (
            "SELECT text, row, cut, checksum FROM checked_rows "
            "WHERE text IN (SELECT value FROM json_each(?))"
        )
        keys, damaged = list(missing), 0
        try:
            with closing(self._connect()) as file:
                for start in range(0, len(keys), QUERY):
                    wanted = json.dumps(keys[start : start + QUERY])
                    found = file.execute(query, [wanted]).fetchall()
                    whole = [record for record in found if _is_whole(*record)]
                    damaged += len(found) - len(whole)
                    if whole:
                        stored, blobs, limits, _ = zip(*whole, strict=True)
                        numbers = np.frombuffer(b"".join(blobs), self.dtype)
                        for key in stored:
                            del missing[key]
                        yield list(stored), numbers.reshape(len(stored), -1), np.array(limits)
        except (sqlite3.Error, OSError) as error:
            self._warn(error)
        if damaged:
            self._warn(f"{damaged} of its rows are damaged")

    def _write(self, keys: list[str], rows: np.ndarray, limits: np.ndarray) -> None:
        records = []
        for key, row, limit in zip(keys, rows, limits.tolist(), strict=True):
            blob = row.tobytes()
            records.append((key, blob, limit, _checksum(key, blob, limit)))
        try:
            with closing(self._connect()) as file, file:
                file.executemany("INSERT OR REPLACE INTO checked_rows VALUES (?, ?, ?, ?)", records)
        except (sqlite3.Error, OSError) as error:
            self._warn(error)

    def _warn(self, error: Exception | str) -> None:
        warnings.warn(
            f"The cache {self.path} cannot be used ({error}): delete it, free space there or set "
            "DDPO_CACHE; the texts are encoded without it.",
            stacklevel=2,
        )
