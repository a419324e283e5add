"""The file of a paid run: every answer is on the disk before the next thing happens, and no call is made twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..settings import CourseError

__all__ = ["Journal"]


class Journal:
    """Records of answers in a JSONL file, by (prompt_id, sample), one line a story, a call's lines together.

    A context manager that keeps other processes out while it is open. What a killed run left of its last call is cut
    off; a file of anything else is refused and left alone. Where nothing was stored, no file is left.

    Args:
        path: the file; it may grow by further prompts and samples.
        settings: all that an answer depends on besides its prompt, as JSON values.
        prompts: prompt_id -> prompt of this run.
        size: stories of one call.

    Raises:
        CourseError: on entering, the file holds something else or is in use.
    """

    def __init__(
        self, path: str | Path, settings: Sequence[Any], prompts: Mapping[Any, str], size: int
    ):
        from filelock import FileLock

        self.path, self.prompts, self.size = Path(path), prompts, size
        self.run = hashlib.sha256(json.dumps(settings, ensure_ascii=False).encode()).hexdigest()[
            :16
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock")
        self._records: dict[tuple[Any, int], dict[str, Any]] = {}

    def __enter__(self) -> Journal:
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CourseError(
                f"Another process is sampling into {self.path}: wait for it, or take another file."
            ) from None
        try:
            whole = self._read()
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(whole)
        except BaseException:
            self._release(empty=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        empty = not (self.path.exists() and self.path.stat().st_size)
        if empty:
            self.path.unlink(missing_ok=True)
        self._release(empty)

    def _release(self, empty: bool) -> None:
        with suppress(OSError):  # Windows removes no open file
            if empty:
                os.unlink(self._lock.lock_file)
        self._lock.release()

    def __contains__(self, call: tuple[Any, int]) -> bool:
        return call in self._records

    def __getitem__(self, call: tuple[Any, int]) -> dict[str, Any]:
        return self._records[call]

    def _read(self) -> int:
        """Take in the whole calls that the file holds; how many bytes they are."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        start = b'{"prompt_id"'
        if (
            lines
            and not lines[-1].endswith(b"\n")
            and lines[-1].startswith(start[: len(lines[-1])])
        ):
            lines.pop()  # a run was killed in the middle of this line
        records = []
        for line in lines:
            try:
                record = json.loads(line)
                known = self.prompts.get(record["prompt_id"], record["prompt"])
                foreign = record["run"] != self.run or record["prompt"] != known
                records.append(((record["prompt_id"], record["sample"]), record))
            except (ValueError, LookupError, TypeError):
                foreign = True
            if foreign:
                raise CourseError(
                    f"{self.path} holds something else than samples of this model with these settings: delete it, or "
                    "sample into another file."
                )
        count = len(lines) // self.size * self.size
        self._records = dict(records[:count])
        return sum(map(len, lines[:count]))

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the stories of one call, and return when they are on the disk."""
        added = [{**record, "run": self.run} for record in records]
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in added).encode()
        place = self.path.stat().st_size
        try:
            if self._file.write(data) != len(data):
                raise OSError(28, os.strerror(28), str(self.path))  # a full disk took a part of it
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(place)
            raise
        self._records |= {(record["prompt_id"], record["sample"]): record for record in added}
