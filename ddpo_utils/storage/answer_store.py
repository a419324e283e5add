"""The store of answers of everything that resumes: a JSONL file that survives kills."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ..settings import CourseError
from .files import NO_JSON, to_jsonl, write_fault, write_jsonl
from .locks import locked

__all__ = ["AnswerStore", "Key", "Record"]

Key = tuple[Any, int]  # prompt_id, sample
Record = dict[str, Any]
_START = b'{"prompt_id"'  # of every line


@dataclass
class AnswerStore:
    """The answers of one run by (prompt_id, sample), in a JSONL file that only grows.

    A context manager that locks the file against other processes. The incomplete last call of a
    killed run is removed. Processes that share a run write a file each; `join` merges them.

    Args:
        run: digest of all that an answer depends on besides its prompt; every record carries it.
        prompts: prompt_id -> prompt.
        call_of: gives the keys of all answers that are made in one call with that of a key.
        source: name of the model in the records.
        rank: number of this process, from 0.

    Attributes:
        records: the stored records by key.

    Raises:
        CourseError: on entering, the file holds something else, or another process uses it.
    """

    path: Path
    run: str
    prompts: Mapping[Any, str]
    call_of: Callable[[Key], Sequence[Key]]
    source: str
    rank: int = 0

    def __post_init__(self) -> None:
        self.part = self.path  # the file that this process writes
        if self.rank:
            self.part = self.path.with_name(f"{self.path.name}.{self.rank + 1}")
        self.records: dict[Key, Record] = {}
        self._adding = Lock()

    def __enter__(self) -> AnswerStore:
        with ExitStack() as stack:
            stack.enter_context(locked(self.part, every_rank=True))
            self._read_all()
            _, size = self._read(self.part)
            stack.callback(self._remove_if_empty)
            self._file = stack.enter_context(self.part.open("ab", buffering=0))
            self._file.truncate(size)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _remove_if_empty(self) -> None:
        if self.part.exists() and not self.part.stat().st_size:
            self.part.unlink()

    def add(self, key: Key, answers: Sequence[Record]) -> None:
        """Append the answers of the call of `key`; returns when they are on the disk.

        Threads may call it. An answer has a text and what else is to be kept.
        """
        added = []
        for (prompt_id, sample), answer in zip(self.call_of(key), answers, strict=True):
            prompt = self.prompts[prompt_id]
            record = {"prompt_id": prompt_id, "prompt": prompt, "sample": sample}
            added.append({**record, "source": self.source, **answer, "run": self.run})
        data = to_jsonl(added).encode()
        with self._adding:
            size = os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError as error:
                self._file.truncate(size)
                raise write_fault(self.part, error) from None
            self.records |= {_key(record): record for record in added}

    def join(self, keys: Sequence[Key]) -> list[Record]:
        """The stored records of the keys, of all processes, in order.

        Once none is missing, they become one file, and the processes' own files are deleted.
        """
        self._file.close()
        self._read_all()
        found = [self.records[key] for key in keys if key in self.records]
        parts = self._other_parts()
        in_order = list(self.records) == list(keys) and self._lines == len(keys)
        if len(found) == len(keys) and (parts or not in_order):
            write_jsonl(self.path, found)
            for part in parts:
                part.unlink(missing_ok=True)
        return found

    def _other_parts(self) -> list[Path]:
        """The files <path>.2, <path>.3, ... of further processes."""
        name = re.compile(re.escape(self.path.name) + r"\.\d+")
        return [file for file in sorted(self.path.parent.iterdir()) if name.fullmatch(file.name)]

    def _read_all(self) -> None:
        self.records, self._lines = {}, 0
        for path in (self.path, *self._other_parts()):
            records, _ = self._read(path)
            self._lines += len(records)
            for record in records:  # of an answer that is there twice, the first counts
                self.records.setdefault(_key(record), record)

    def _read(self, path: Path) -> tuple[list[Record], int]:
        """The records of the whole calls in a file, and how many bytes they take."""
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:  # also where another process has just joined the files
            return [], 0
        except OSError as error:
            raise CourseError(f"{path} cannot be read ({error.strerror or error}).") from None
        if lines and not lines[-1].endswith(b"\n"):
            written = lines[-1].rstrip(b"\0")  # a power cut leaves zeros
            if written.startswith(_START[: len(written)]):
                lines.pop()  # a process was killed, or is at work, in the middle of this line
        records = []
        try:
            for line in lines:
                records.append(json.loads(line))
            whole = self._count_whole(records)
        except (*NO_JSON, LookupError, TypeError):
            fault = "does not hold answers of this model with these settings: delete it"
            if len(records) < len(lines):
                fault = f"has no answer in line {len(records) + 1}: delete that line"
            raise CourseError(f"{path} {fault}, or name another file.") from None
        size = sum(len(line) for line in lines[:whole])
        return records[:whole], size

    def _count_whole(self, records: Sequence[Record]) -> int:
        """How many records belong to whole calls; ValueError where one is not of this run."""
        count = 0
        while count < len(records):
            keys = self.call_of(_key(records[count]))
            call = records[count : count + len(keys)]
            for key, record in zip(keys, call, strict=False):
                prompt = self.prompts.get(key[0], record["prompt"])
                same_run = record["run"] == self.run and record["prompt"] == prompt
                if _key(record) != key or not same_run or not isinstance(record["text"], str):
                    raise ValueError(record)
            if len(call) < len(keys):
                break
            count += len(keys)
        return count


def _key(record: Record) -> Key:
    return record["prompt_id"], record["sample"]
