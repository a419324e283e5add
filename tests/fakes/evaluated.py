"""What the tests of the evaluation share besides fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARMS = ("sft", "dpo", "shuffled", "ddpo-sem", "ddpo")


def samples_of(folder: Path, row: str) -> Path:
    found = [
        p
        for p in folder.glob(f"{row}-*.jsonl")
        if p.name.count(".") == 1 and len(p.stem) == len(row) + 11
    ]
    assert len(found) == 1
    return found[0]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """The same results, whatever was committed between the two."""
    return {**a, "code": ""} == {**b, "code": ""}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.jsonl")}
