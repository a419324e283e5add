"""Files written in one step, JSON and JSONL read with the line at fault named, short digests."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

from ..settings import CourseError

_SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair; some models' answers hold one
SEAL = "checksums.json"
NO_JSON = (ValueError, RecursionError)  # broken, or nested too deeply


def write_fault(path: str | Path, error: Exception | str) -> CourseError:
    """The sentence for an output that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return CourseError(
        f"{str(path)!r} cannot be written ({reason}): free space there, change its permissions, or "
        "name another place (DDPO_CACHE names that of the cache)."
    )


def output_path(path: str | Path) -> Path:
    """`path`; CourseError where it is neither a file nor a folder, nor can become one."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:  # ValueError: no file name
        raise write_fault(path, error) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise write_fault(path, "it is a device")
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; what is written there replaces `path` in one step.

    The parent folders are made. If the block fails, `path` stays as it was; its OSError, such as a
    full disk's, becomes a CourseError. A folder may be written too, where `path` does not exist.
    """
    path = output_path(path)
    # A name that nobody knows: others may write the same file, or lay a link where all may write.
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if part.is_file():
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise write_fault(path, error) from None
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):
                part.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 in one step; half a surrogate pair becomes a question mark."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write `value` as JSON in one step."""
    write_text(path, json.dumps(value, indent=indent))


def to_jsonl(records: Iterable[Mapping[str, Any]]) -> str:
    """The records as JSON, one a line, in characters that UTF-8 can hold."""
    lines = []
    for record in records:
        line = json.dumps(record, ensure_ascii=False)
        if _SURROGATE.search(line):
            line = json.dumps(record)
        lines.append(line + "\n")
    return "".join(lines)


def write_jsonl(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records as JSON, one a line, in one step."""
    write_text(path, to_jsonl(records))


def _read_text(path: Path) -> str:
    try:
        if path.is_char_device() or path.is_block_device():
            raise OSError("it is a device")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CourseError(f"There is no file {path}: check the path, or make it first.") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no file name
        raise CourseError(f"{path} cannot be read as UTF-8 text ({error}).") from None


def read_json(path: str | Path) -> Any:
    """The value in a JSON file; CourseError where the file is missing or is no JSON."""
    text = _read_text(Path(path))
    try:
        return json.loads(text)
    except NO_JSON as error:
        raise CourseError(
            f"{path} is no JSON ({error}): correct or delete it, or make it again."
        ) from None


def check_as(kind: Any, value: Any, place: str | Path, advice: str) -> Any:
    """`value` as `kind`; where it is none, CourseError names place, fault and what to do."""
    from pydantic import ValidationError

    try:
        return _checker(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        inside = ".".join(str(part) for part in fault["loc"])
        raise CourseError(f"{place}: {inside or 'content'}: {fault['msg']}. {advice}") from None


@cache
def _checker(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_as(kind: Any, path: str | Path, advice: str) -> Any:
    """The content of a JSON file as `kind`; CourseError as of `check_as`."""
    return check_as(kind, read_json(path), path, advice)


def are_numbers(values: Iterable[Any]) -> bool:
    """True if all are finite numbers, as JSON holds them."""
    return all(type(value) in (int, float) and abs(value) < math.inf for value in values)


def read_numbers(path: str | Path, count: int) -> list[float]:
    """The finite numbers in a JSON file, `count` at most; CourseError where it holds others."""
    from pydantic import Field

    number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
    numbers = Annotated[list[number], Field(max_length=count)]
    return read_as(numbers, path, "Delete it, and run the command again.")


def whole_text(value: Any) -> Any:
    """The value; of a text, halves of surrogate pairs, which no encoder takes, become U+FFFD."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def parse_json(text: str) -> Any:
    """The value of a JSON text; half a surrogate pair, which no encoder takes, becomes U+FFFD."""
    value = json.loads(text)
    if "\\ud" in text.lower():
        value = json.loads(whole_text(json.dumps(value, ensure_ascii=False)))
    return value


def parse_jsonl(text: str, name: str | Path) -> list[dict[str, Any]]:
    """The records of JSON, one a line, in order; empty lines are skipped.

    CourseError, with name and line, where a line is no JSON object.
    """
    lines = text.split("\n")  # stories contain other line ends, such as U+2028
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except NO_JSON:
            record = None
        if not isinstance(record, dict):
            fault = "is no JSON object: correct or delete that line"
            if number == len(lines) and line.startswith("{"):
                fault = "is cut off: make the file again"
            raise CourseError(f"Line {number} of {name} {fault}.")
        records.append(record)
    return records


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSONL file, as by `parse_jsonl`; CourseError where there is no such file."""
    return parse_jsonl(_read_text(Path(path)), path)


def seal(folder: str | Path) -> None:
    """Write the checksums of a folder's files into it: the folder is whole from now on."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    write_json(folder / SEAL, digests)


def known_digest(*paths: Path) -> str:
    """file_digest(*paths); files are read again only when a size or time has changed."""
    stamps = [(path, path.stat()) for path in paths]
    return _digest_of(tuple((path, stamp.st_size, stamp.st_mtime_ns) for path, stamp in stamps))


@lru_cache(maxsize=256)
def _digest_of(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    return file_digest(*(path for path, *_ in stamps))


def check_seal(folder: str | Path) -> None:
    """None; CourseError, with the folder's name, where it is not whole or a file has changed."""
    folder = Path(folder)
    try:
        digests = read_json(folder / SEAL).items()
        same = [known_digest(folder / name) == digest for name, digest in digests]
    except (CourseError, OSError, AttributeError):
        same = []
    if not same or not all(same):
        raise CourseError(f"{folder} is damaged: delete that folder, and it is made again.")


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
        with Path(path).open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:length]
