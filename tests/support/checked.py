"""The exercises' cells in the notebooks, and their solutions as functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = {
    path.stem: nbformat.read(path, as_version=4).cells
    for path in sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
}
IMPORTS = """
import math
from math import comb
import numpy as np
import torch
import torch.nn.functional as F
from ddpo_utils import deviation_weights
"""


def has_tag(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def name_of(cell: Any) -> str:
    """The exercise that an exercise's or a solution's cell checks."""
    return re.search(r'check\("(\w+)", \1\)', cell.source)[1]


def _sources() -> dict[str, str]:
    """Exercise -> its solution's function, without the lines after `assert check(...)`."""
    sources = {}
    for cells in NOTEBOOKS.values():
        for cell in cells:
            if has_tag(cell, "solution"):
                sources[name_of(cell)] = cell.source.partition("\nassert check(")[0]
    return sources


SOLUTIONS = _sources()


def solution(name: str) -> Callable:
    """The notebook's solution of an exercise."""
    return changed(name, "")


def changed(name: str, old: str, new: str | None = None) -> Callable:
    """A solution with `old` in its source replaced by `new`, or the function of a lambda alone.

    The lambda may call the solution, `right`.
    """
    source = SOLUTIONS[name]
    if new is not None:
        assert old in source, f"{old!r} is not in the solution of {name}"
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(IMPORTS + source, names)
    names["right"] = names[name]
    return names[name] if new is not None or not old else eval(old, names)
