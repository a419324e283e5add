"""A small study: two systems, six prompts; each text names its own system, prompt and sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ddpo_utils.human_eval.comparisons import UNDECIDED, Comparisons, build_comparisons
from ddpo_utils.human_eval.ratings import Ratings

ONE, TWO = SYSTEMS = ("one", "two")


def stories(name: str, prompts: int = 6, each: int = 4, text: str = "") -> pd.DataFrame:
    rows = [
        (f"p{p}", f"Prompt {p}.", k, f"{name} {p} {k}{text}")
        for p in range(prompts)
        for k in range(each)
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "prompt", "sample", "text"])


def build(**changes: Any) -> tuple[Comparisons, dict[str, Any]]:
    return build_comparisons(stories(ONE), stories(TWO), SYSTEMS, **{"seed": 1, **changes})


BUILT, KEY = build()
ITEMS = [item["item"] for item in BUILT.items]


def side(item: str, system: str) -> str:
    """Where the system is, "undecided" for none."""
    if system == UNDECIDED:
        return system
    return "A" if KEY["items"][item]["A"] == system else "B"


def rate(folder: Path, rater: str, diverse: list[str]) -> Path:
    """A person who names these systems as the more diverse, and story 1 of ONE as the best."""
    ratings = Ratings(folder, BUILT, rater)
    for item, system in zip(ITEMS, diverse, strict=False):
        ratings.save(item, side(item, system), f"{side(item, ONE)}1", seconds=10.0)
    return ratings.path


def write_model(path: Path, answers: list[tuple[str, ...]], comparisons: Any = BUILT) -> Path:
    """A model's file: (item, diverse, best), and the order that a judge was asked in."""
    names = ("item", "diverse", "best", "order")
    rows = [dict(zip(names, answer, strict=False)) | {"seconds": 2.0} for answer in answers]
    content = {"comparisons": comparisons.id, "rater": path.stem, "kind": "model", "answers": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
