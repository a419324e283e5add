"""One lock per output: two processes never write the same file or folder at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..settings import CourseError
from .files import output_path, write_fault

__all__ = ["locked"]


@contextmanager
def locked(path: str | Path, wait: bool = False, every_rank: bool = False) -> Iterator[None]:
    """Holds the lock of an output, a file or a folder, while the block runs.

    The lock file `<path>.lock` lies beside the output, under its real path. The system releases it
    when the process dies. The thread that holds it may enter again.

    Args:
        wait: a second comer waits for the first in place of being refused.
        every_rank: each process of a launch (`accelerate launch`) takes the lock for itself. Else
            the first process takes it for all.

    Raises:
        CourseError: another process (or thread) has the output, or its folder cannot be written.
    """
    from filelock import FileLock, Timeout

    if os.environ.get("RANK", "0") != "0" and not (wait or every_rank):
        yield
        return
    target = Path(os.path.realpath(output_path(path)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{target}.lock", is_singleton=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise CourseError(
            f"Another process writes to {path}: wait until it ends, or name another output."
        ) from None
    except OSError as error:
        raise write_fault(target.parent, error) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # Windows removes no open file
                os.unlink(lock.lock_file)
        lock.release()
