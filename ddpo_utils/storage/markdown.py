"""Text of data in Markdown and in the terminal: what it says and nothing that it could do there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["markdown_table", "markdown_text", "printable"]


def printable(value: Any, keep: str = "") -> str:
    """The text on one line; control characters, escapes to the terminal too, become spaces."""
    return "".join(mark if mark.isprintable() or mark in keep else " " for mark in str(value))


def markdown_text(value: Any) -> str:
    """The text on one line, with what could be Markdown or HTML as character references."""
    text = " ".join(printable(value).split())
    return re.sub(r"[&<>|`*\[\]$\\~]|:(?=//)", lambda mark: f"&#{ord(mark[0])};", text)


def markdown_table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown whose cells are plain text."""
    titles = list(header)
    lines = [[markdown_text(cell) for cell in line] for line in (titles, *rows)]
    lines.insert(1, ["---"] * len(titles))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
