"""The exercises' cells in the notebooks, and their solutions as functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = {
    path.stem: nbformat.read(path, as_version=4).cells
    for path in sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
}
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[2] / "notebooks/solutions").glob("*.md"))
}
SOLVED = r"^## (Exercise \d: [^\n]+)\n.*?```python\n(.*?)```\n\nThe check says: \*(.*?)\*\n"


def has_tag(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def name_of(cell: Any) -> str:
    """The exercise that a cell checks."""
    return re.search(r'check\("(\w+)", \1\)', cell.source)[1]


@dataclass(frozen=True)
class Solution:
    """One solution of a page: its exercise's heading, its code, and what the check says of it."""

    heading: str
    code: str
    said: str


def solutions(page: str) -> list[Solution]:
    """The solutions that a page of notebooks/solutions holds, in order."""
    return [Solution(*found) for found in re.findall(SOLVED, page, re.MULTILINE | re.DOTALL)]


def _by_name() -> dict[str, Solution]:
    """Exercise -> its solution; the function that a solution defines last bears its name."""
    found = {}
    for page in PAGES.values():
        for solved in solutions(page):
            found[re.findall(r"^def (\w+)", solved.code, re.MULTILINE)[-1]] = solved
    return found


SOLUTIONS = _by_name()


def solution(name: str) -> Callable:
    """The solution of an exercise."""
    return changed(name, "")


def changed(name: str, old: str, new: str | None = None) -> Callable:
    """A solution with `old` in its source replaced by `new`, or the function of a lambda alone.

    The lambda may call the solution, `right`.
    """
    source = SOLUTIONS[name].code
    if new is not None:
        assert old in source, f"{old!r} is not in the solution of {name}"
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(source, names)
    names["right"] = names[name]
    return names[name] if new is not None or not old else eval(old, names)
