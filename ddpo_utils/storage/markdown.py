"""Text of data in Markdown and in the terminal: what it says and nothing that it could do there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["markdown_table", "markdown_text", "printable"]


# C0 and C1 (ESC among them), line separators, marks that turn the direction, half surrogate pairs.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(value: Any, keep: str = "") -> str:
    """The text with a space for each character that controls a terminal, but those in `keep`."""
    return CONTROL.sub(lambda mark: mark[0] if mark[0] in keep else " ", str(value))


def markdown_text(value: Any) -> str:
    """The text on one line, with what could be Markdown or HTML as character references."""
    text = " ".join(printable(value).split())
    return re.sub(r"[&<>|`*\[\]$\\~]|:(?=//)", lambda mark: f"&#{ord(mark[0])};", text)


def markdown_table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown whose cells are plain text."""
    titles = list(header)
    lines = [_table_row(titles), _table_row(["---"] * len(titles))]
    lines += [_table_row(cells) for cells in rows]
    return "\n".join(lines)


def _table_row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(markdown_text, cells))} |"
