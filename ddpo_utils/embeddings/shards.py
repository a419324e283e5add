"""Rows of texts in files that survive a kill: written atomically, claimed by a lock, gathered into one mapped array.

A shard is an .npz file with `keys` (n,) of its texts, their `rows` (n, d), and `cut` (n,): the tokens at which the
encoder cut each text, 0 for a whole one. It appears whole or not at all.
"""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..settings import CourseError
from ..storage.files import text_key

__all__ = ["Place", "claim", "contents", "gather", "shard_path", "text_key", "write_shard"]


class Place(NamedTuple):
    """Where the row of a text lies: its shard, its position there, and the tokens at which it was cut (0: whole)."""

    shard: Path
    position: int
    cut: int


def shard_path(store: Path, texts: Sequence[str]) -> Path:
    """Where the shard of these texts lies: its name follows from them."""
    return store / f"{text_key(''.join(map(text_key, texts)))}.npz"


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of `path`; False where another process holds it, unless `wait`. A dead process's lock is free.

    Raises:
        CourseError: the lock does not fit on the disk, or may not be written.
    """
    import filelock

    lock = filelock.FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield True
        with suppress(OSError):  # Windows keeps a file that is open
            os.unlink(lock.lock_file)
    finally:
        lock.release()


def _unwritable(path: Path, error: OSError) -> CourseError:
    return CourseError(
        f"{path.parent} cannot be written ({error.strerror or error}): free space there, mend its rights or name "
        "another folder, and call again; the finished shards are kept."
    )


def _write(path: Path, content: Callable[[BinaryIO], None]) -> None:
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritable(path, error) from None


def write_shard(path: Path, texts: Sequence[str], rows: np.ndarray, cut: np.ndarray) -> None:
    """Write the shard at `path` (of `shard_path`); CourseError where it cannot be written."""
    keys = np.array([text_key(text) for text in texts], dtype="S32")
    _write(path, lambda file: np.savez(file, keys=keys, rows=rows, cut=cut))


def _read(path: Path, *names: str) -> list[np.ndarray]:
    try:
        with np.load(path) as shard:
            return [shard[name] for name in names]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise CourseError(
            f"{path} is damaged: delete it and call again; its texts alone are done anew."
        ) from None


def contents(store: Path) -> dict[str, Place]:
    """The text keys whose rows the store holds, and where; CourseError where a shard is damaged."""
    found = {}
    for path in sorted(store.glob("*.npz")):
        keys, cut = _read(path, "keys", "cut")
        places = (Place(path, i, n) for i, n in enumerate(cut.tolist()))
        found.update(zip(keys.astype(str).tolist(), places, strict=True))
    return found


def gather(store: Path, keys: Sequence[str], held: dict[str, Place]) -> np.ndarray:
    """The rows of N text keys that the store holds, as a mapped file (N, d) that is made once.

    Raises:
        CourseError: a damaged shard, or a folder that cannot be written.
    """
    path = store / f"rows-{text_key(''.join(keys))}.npy"
    wanted: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for i, key in enumerate(keys):
        wanted[held[key].shard].append((i, held[key].position))

    def content(file: BinaryIO) -> None:
        start = 0
        for shard, places in wanted.items():
            (rows,) = _read(shard, "rows")
            if not start:
                shape = (len(keys), rows.shape[1])
                header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                start = file.tell()
            for i, position in places:
                file.seek(start + i * rows.strides[0])
                file.write(rows[position].tobytes())

    with claim(path, wait=True):
        if not path.exists():
            _write(path, content)
    return np.load(path, mmap_mode="r")
