"""Blind comparisons: two sets of stories for one prompt, side by side, and nothing that tells who wrote which.

The key that says so is another file, kept from the raters until they are done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import CourseError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Comparisons",
    "build_comparisons",
    "read_comparisons",
    "read_key",
    "write_comparisons",
    "write_json",
]

# The two questions of arXiv 2503.17126's human evaluation, in this project's words. Question -> (text, its answers).
QUESTIONS = {
    "diverse": "Which set has the more diverse stories?",
    "best": "Which one of all these stories is the most interesting, of the highest quality?",
}
UNDECIDED = "undecided"  # shown as "Hard to decide"


@dataclass(frozen=True)
class Comparisons:
    """What raters see.

    Attributes:
        id: hash of the items; ratings and key carry it.
        shown: "whole", or "summaries" where long stories are shown as summaries of their plots.
        items: dicts of item ("c01"), prompt, A and B (lists of as many stories each).
    """

    id: str
    shown: str
    items: list[dict[str, Any]]

    @property
    def per_side(self) -> int:
        return len(self.items[0]["A"])

    def allowed(self, question: str) -> list[str]:
        """The answers that a question ("diverse" or "best") takes."""
        if question == "diverse":
            return ["A", "B", UNDECIDED]
        return [f"{side}{n}" for side in "AB" for n in range(1, self.per_side + 1)] + [UNDECIDED]


def _identity(items: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256(
        json.dumps(items, ensure_ascii=False, sort_keys=True).encode()
    ).hexdigest()[:12]


def build_comparisons(
    a: pd.DataFrame,
    b: pd.DataFrame,
    systems: tuple[str, str],
    per_side: int = 4,
    prompts: int | None = None,
    seed: int = 0,
) -> tuple[Comparisons, dict[str, Any]]:
    """One comparison for each prompt that both systems answered, in random order, sides dealt at random.

    Each system stands on side A in half of the comparisons (one more or less where their number is odd), so that a
    rater who always takes one side favours nobody.

    Args:
        a, b: the systems' stories: frames with prompt_id, prompt and text; where there is a column `sample`, the key
            names it; where there is a column `summarised` (bool), texts may be summaries, and raters are told so.
        systems: their names, which raters never see.
        per_side: stories of a set; of a prompt with more, so many are drawn at random.
        prompts: how many comparisons, drawn at random; None: all prompts that both answered.
        seed: of every draw.

    Returns:
        The comparisons, and the key as a dict: comparisons (their id), systems, items: item -> prompt_id, A and B
        (names of systems), samples (which stories stand where).

    Raises:
        CourseError: the names are equal or empty; the seed is below 0; a column or a common prompt is missing; a
            prompt has too few stories or two texts.
    """
    if len({"", UNDECIDED, *(name.strip() for name in systems)}) < 4:
        raise CourseError(
            "The two systems need two names, and neither may be empty or 'undecided'."
        )
    if seed < 0:
        raise CourseError(f"The seed is 0 at least; got {seed}.")
    if per_side < 1 or (prompts is not None and prompts < 1):
        raise CourseError(
            "A comparison needs at least one story a side, and there must be at least one comparison."
        )
    for frame in (a, b):
        if missing := {"prompt_id", "prompt", "text"} - set(frame.columns):
            raise CourseError(
                f"The stories to compare lack {', '.join(sorted(missing))}: take files of samples."
            )
    rng = np.random.default_rng(seed)
    asked = [
        frame.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"] for frame in (a, b)
    ]
    common = [p for p in asked[0].index if p in asked[1].index]
    if not common:
        raise CourseError(
            "The two files answer no prompt in common: compare samples of the same prompts."
        )
    for prompt_id in common:
        if asked[0][prompt_id] != asked[1][prompt_id]:
            raise CourseError(
                f"Prompt {prompt_id} has two texts in the two files: compare samples of the same prompts."
            )
        if min((frame["prompt_id"] == prompt_id).sum() for frame in (a, b)) < per_side:
            raise CourseError(
                f"Prompt {prompt_id} has fewer than {per_side} stories: sample more, or compare fewer."
            )
    order = [common[i] for i in rng.permutation(len(common))][:prompts]
    first_on_a = rng.permutation(np.arange(len(order)) % 2 == 0)
    items, key = [], {}
    for number, prompt_id in enumerate(order):
        item = f"c{number + 1:0{max(2, len(str(len(order))))}}"
        frames, names = ((a, b), systems) if first_on_a[number] else ((b, a), systems[::-1])
        shown, drawn = {}, {}
        for side, frame in zip("AB", frames, strict=True):
            own = frame[frame["prompt_id"] == prompt_id]
            own = own.iloc[rng.permutation(len(own))[:per_side]]
            shown[side] = [text.strip() or "(no text)" for text in own["text"]]
            drawn[side] = [int(n) for n in own.get("sample", own.index)]
        items.append({"item": item, "prompt": asked[0][prompt_id], **shown})
        key[item] = {"prompt_id": prompt_id, "A": names[0], "B": names[1], "samples": drawn}
    summaries = any("summarised" in frame and frame["summarised"].any() for frame in (a, b))
    comparisons = Comparisons(_identity(items), "summaries" if summaries else "whole", items)
    return comparisons, {"comparisons": comparisons.id, "systems": list(systems), "items": key}


def write_json(path: str | Path, content: Any) -> None:
    """Write the file whole or not at all, and return when it is on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_comparisons(folder: str | Path, comparisons: Comparisons, key: dict[str, Any]) -> Path:
    """Write `for_raters/comparisons.json`, which raters get, and `key.json` beside that folder, which they do not.

    Returns:
        The path of the comparisons.

    Raises:
        CourseError: other comparisons stand there; labels that refer to them would lose their meaning.
    """
    path = Path(folder) / "for_raters" / "comparisons.json"
    if path.exists() and read_comparisons(path).id != comparisons.id:
        raise CourseError(
            f"{path} holds other comparisons, which may have been rated: take another folder."
        )
    write_json(Path(folder) / "key.json", key)
    content = {"id": comparisons.id, "shown": comparisons.shown, "items": comparisons.items}
    write_json(path, content)
    return path


def _read(path: str | Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CourseError(
            f"There are no {what} at {path}: build them first, or name their file."
        ) from None
    except (OSError, ValueError):
        raise CourseError(f"{path} cannot be read as JSON: name the file of the {what}.") from None
    if not isinstance(content, dict):
        raise CourseError(f"{path} does not hold {what}.")
    return content


def read_comparisons(path: str | Path) -> Comparisons:
    """The comparisons of a file.

    Raises:
        CourseError: there is none, it holds something else (such as the key), or its texts were changed after it was
            built.
    """
    content = _read(path, "comparisons")
    if {"comparisons", "systems"} <= content.keys():
        raise CourseError(
            f"{path} is the key: give for_raters/comparisons.json, which stands beside it."
        )
    try:
        comparisons = Comparisons(content["id"], content["shown"], content["items"])
        whole = comparisons.id == _identity(comparisons.items) and comparisons.per_side == len(
            comparisons.items[0]["B"]
        )
    except (LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CourseError(f"{path} does not hold comparisons as they were built: build them anew.")
    return comparisons


def read_key(path: str | Path, comparisons: Comparisons | None = None) -> dict[str, Any]:
    """The key of a file: which system stands on which side of each comparison.

    Raises:
        CourseError: there is none, it holds something else, or it belongs to other comparisons.
    """
    key = _read(path, "keys")
    if not {"comparisons", "systems", "items"} <= key.keys():
        raise CourseError(
            f"{path} does not hold a key: it is the file key.json beside the folder for_raters."
        )
    if comparisons is not None and key["comparisons"] != comparisons.id:
        raise CourseError(f"{path} is the key of other comparisons.")
    return key
