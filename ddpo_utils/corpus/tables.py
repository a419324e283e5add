"""Files of rows: JSONL, JSON, CSV with any separator, and parquet, as they come from other people.

Every cell keeps its type: a CSV's cells are texts, also `NA`, `None` and `007`.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from ..settings import CourseError
from ..storage.files import NO_JSON, parse_json, parse_jsonl, whole_text

Rows = list[dict[str, Any]]

ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LOOKED_AT = 2**16  # characters that tell the separator
LARGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072


def read_rows(path: Path, names: frozenset[str] = frozenset()) -> Rows:
    """The rows of a file, or of a folder of parquet files, in order, by their columns' names.

    Args:
        names: columns that are hoped for: they tell a table's separator, and a row from a list of
            rows.

    Raises:
        CourseError: the file cannot be read, or a row is faulty; names file, and row or line.
    """
    if not (path.is_file() or path.is_dir()):  # a device has no end
        raise CourseError(f"There is no file {path}: check the path, or make it first.")
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return _parquet_rows(path)
    text = _decoded(path)
    table = not text.lstrip().startswith(("{", "[")) and "json" not in path.suffix
    if table or path.suffix.lower() in (".csv", ".tsv", ".tab"):
        return _table_rows(text.lstrip("\ufeff\r\n"), path.name, names)
    return _json_rows(text, path.name, names)


def _decoded(path: Path) -> str:
    """The file's text, in UTF-8 or UTF-16; a byte-order mark is no part of it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} cannot be read ({error.strerror}).") from None
    encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:  # UTF-16 without a mark
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        text = content.decode(encoding, "surrogatepass")
        fault = text.find("\0")  # such as UTF-32
    except UnicodeDecodeError as error:
        fault = error.start
    if fault >= 0:
        raise CourseError(
            f"{path} is no UTF-8 or UTF-16 text (byte {fault}): save it as UTF-8, or a spreadsheet "
            "as CSV."
        )
    return whole_text(text)


def _json_rows(text: str, name: str, names: frozenset[str]) -> Rows:
    """The rows of JSON (a list of them, lists by split, or columns) or of JSONL."""
    try:
        value = parse_json(text)
    except NO_JSON:
        value = None
    if value is None:
        return parse_jsonl(text, name)
    rows = _rows_of_object(value, names) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise CourseError(f"{name} holds no list of rows: give one JSON object a response.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise CourseError(f"Row {number} of {name} is no JSON object: correct or delete it.")
    return rows


def _rows_of_object(value: dict[str, Any], names: frozenset[str]) -> Rows:
    """The rows of one JSON object: lists of rows (by split), columns, or itself a row."""
    lists = {}
    for key, rows in value.items():
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            lists[key] = rows
    if lists and not names & value.keys():
        found = []
        for key, rows in lists.items():
            split = {"split": key} if key in ("train", "test") or len(lists) > 1 else {}
            found += [split | row for row in rows]
        return found
    kinds = {type(cells) for cells in value.values()}
    if kinds in ({list}, {dict}) and not lists and len(set(map(len, value.values()))) == 1:
        return pd.DataFrame(value, dtype=object).to_dict("records")
    return [value]


def _table_rows(text: str, name: str, names: frozenset[str]) -> Rows:
    """The rows of a CSV or TSV; each must have as many cells as the header."""
    told = re.match(r"sep=(.)\r?\n", text)  # Excel's first line
    if told:
        text = text[told.end() :]
    separator = told[1] if told else _separator(text, names)
    advice = f"put a text that holds {separator!r}, a quote or a line end into double quotes"
    limit = csv.field_size_limit(LARGEST_CELL)
    try:
        lines = list(_lines(text, separator, strict=True))
    except csv.Error as error:
        if separator != "\t":
            raise CourseError(
                f"{name} cannot be read as CSV ({error}): {advice}, and double the quotes in it."
            ) from None
        lines = list(_lines(text, separator, quoting=csv.QUOTE_NONE))  # a TSV may have bare quotes
    finally:
        csv.field_size_limit(limit)  # the whole process has one
    if not lines:
        return []
    header = [cell.strip() for cell in lines[0]]
    twice = [column for column in header if column and header.count(column) > 1]
    if twice:
        raise CourseError(f"{name} has two columns {twice[0]!r}: rename or delete one.")
    rows = []
    for number, cells in enumerate(lines[1:], 1):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            counts = f"{len(cells)} cells, the header {len(header)}"
            raise CourseError(f"Row {number} of {name} has {counts}: {advice}.")
        row = dict(zip(header, cells, strict=True))
        row.pop("", None)  # row numbers, as pandas writes them
        rows.append(row)
    return rows


def _lines(text: str, separator: str, **options: Any) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, **options)


def _separator(text: str, names: frozenset[str]) -> str:
    """The character that splits the header into most known names, and the rows like the header."""
    head = text[:LOOKED_AT]
    found = [c for c in head.partition("\n")[0] if not c.isalnum() and c not in "_-.\"'()\r "]

    def rank(separator: str) -> tuple[int, int, int]:
        lines = _lines(head, separator)
        columns = next(lines, [])
        known = sum(column.strip().lower() in names for column in columns)
        alike = sum(len(line) == len(columns) for line in islice(lines, 50))
        return known, min(len(columns), 2), alike

    return max(dict.fromkeys([",", ";", "\t", "|", *found, " "]), key=rank)


def _parquet_rows(path: Path) -> Rows:
    """The rows of a parquet file or of a folder's; a file called `test-...` holds that split."""
    from pyarrow.parquet import ParquetFile

    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise CourseError(f"{path} is a folder without parquet files: name a file.")
    rows: Rows = []
    for file in files:
        split = re.match(r"(train|test|validation)[-_.]", file.name) if path.is_dir() else None
        given = {"split": split[1]} if split else {}
        try:
            table = ParquetFile(file).read().to_pylist()
        except Exception as error:  # pyarrow's own, many kinds
            fault = type(error).__name__
            raise CourseError(f"{file} cannot be read as parquet ({fault}): check it.") from None
        for row in table:
            row.pop("__index_level_0__", None)  # row numbers, as pandas writes them
            rows.append(given | row)
    return rows
