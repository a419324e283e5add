"""Rows of texts in files that survive a kill: written atomically, claimed by a lock, gathered into one mapped array.

A shard is an .npz file with `keys` (n,) of its texts, their `rows` (n, d), and `cut` (n,): the tokens at which the
encoder cut each text, 0 for a whole one. It appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .profiles import CourseError

__all__ = ["Taken", "claim", "gather", "read_shard", "shard_path", "text_key", "write_shard"]


class Taken(Exception):
    """Another process is at this file."""


def text_key(text: str) -> str:
    """Name of a text among the rows: 128 bits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shard_path(store: Path, texts: Sequence[str]) -> Path:
    """Where the shard of these texts lies: its name follows from them."""
    return store / f"{text_key(''.join(map(text_key, texts)))}.npz"


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of `path`, and tell whether it has still to be written. The system frees a dead process's lock.

    Raises:
        Taken: another process holds it, and `wait` is not set.
        CourseError: what is written in the block, or the lock, does not fit on the disk or is not allowed.
    """
    import filelock

    lock = filelock.FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        raise Taken from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield not path.exists()
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


def read_shard(path: Path, name: str) -> np.ndarray:
    """One array of a shard; CourseError where the file is damaged."""
    try:
        with np.load(path) as shard:
            return shard[name].astype(str) if name == "keys" else shard[name]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise CourseError(f"{path} is damaged: delete it and call again; its texts alone are done anew.") from None


def gather(store: Path, keys: Sequence[str]) -> np.ndarray:
    """The rows of N text keys out of the store's shards, as a mapped file (N, d) that is made once.

    Raises:
        CourseError: a damaged shard, or a folder that cannot be written.
    """
    path = store / f"rows-{text_key(''.join(keys))}.npy"
    with claim(path, wait=True) as missing:
        if missing:
            shards = sorted(store.glob("*.npz"))
            held = [read_shard(shard, "keys").tolist() for shard in shards]
            place = {key: i for i, key in enumerate(key for names in held for key in names)}
            wanted = np.array([place[key] for key in keys])
            order = np.argsort(wanted, kind="stable")
            starts = np.cumsum([0, *map(len, held)])
            bounds = np.searchsorted(wanted[order], starts)
            row = read_shard(shards[0], "rows")[0]
            header = {"descr": row.dtype.str, "fortran_order": False, "shape": (len(keys), len(row))}

            def content(file: BinaryIO) -> None:
                np.lib.format.write_array_header_1_0(file, header)
                for _ in keys:  # zeros first: a full disk is an error here, and a crash in a mapped file
                    file.write(bytes(row.nbytes))
                file.flush()
                out = np.load(file.name, mmap_mode="r+")
                for shard, start, first, last in zip(shards, starts, bounds, bounds[1:], strict=False):
                    if first < last:
                        own = order[first:last]
                        out[own] = read_shard(shard, "rows")[wanted[own] - start]
                out.flush()

            _write(path, content)
    return np.load(path, mmap_mode="r")
