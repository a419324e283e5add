"""Files written in one step, JSON and JSONL read with the line at fault named, short digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..settings import CourseError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; what is written there replaces `path` in one step.

    The parent folders are made. If the block fails, `path` stays as it was. A folder may be written
    too, but only where `path` does not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes may write the same file
    try:
        yield part
        if part.is_file():
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 in one step."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write `value` as JSON in one step."""
    write_text(path, json.dumps(value, indent=indent))


def to_jsonl(records: Iterable[Mapping[str, Any]]) -> str:
    """The records as JSON, one a line."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    return "".join(lines)


def write_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records as JSON, one a line, in one step."""
    write_text(path, to_jsonl(records))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CourseError(f"There is no file {path}: check the path, or make it first.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read as UTF-8 text ({error}).") from None


def read_json(path: str | Path) -> Any:
    """The value in a JSON file; CourseError where the file is missing or is no JSON."""
    try:
        return json.loads(_read_text(Path(path)))
    except ValueError as error:
        raise CourseError(f"{path} is no JSON ({error}).") from None


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSONL file, in order; empty lines are skipped.

    Raises:
        CourseError: there is no such file, or a line is no JSON object; names file and line.
    """
    lines = _read_text(Path(path)).split("\n")  # stories contain other line ends, such as U+2028
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            fault = "is no JSON object: correct or delete that line"
            if number == len(lines) and line.startswith("{"):
                fault = "is cut off: run the command that writes the file again"
            raise CourseError(f"Line {number} of {path} {fault}.")
        records.append(record)
    return records


def short_digest(*parts: Any, length: int = 10) -> str:
    """The first hexadecimal digits of the SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]


def text_key(text: str) -> str:
    """The first 32 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def file_digest(*paths: str | Path, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:length]
