"""Ratings: one rater's answers in one file, and the labels that they give with the key."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..settings import CourseError
from ..storage.files import read_json, write_json
from .comparisons import QUESTIONS, UNDECIDED, Comparisons, read_comparisons, read_key

__all__ = ["UNREADABLE", "ForeignRatings", "Ratings", "read_labels", "read_ratings", "read_study"]

UNREADABLE = "unreadable"  # a model's answer that is none of those allowed; not "undecided"


class ForeignRatings(CourseError):
    """A ratings file belongs to other comparisons than those at hand."""


def _check(answer: dict[str, Any], comparisons: Comparisons, kind: str, path: Path) -> None:
    """Raise CourseError if this is no answer to these comparisons."""
    if answer["item"] not in {item["item"] for item in comparisons.items}:
        raise CourseError(f"{path}: there is no comparison {answer['item']!r}.")
    for question in QUESTIONS:
        allowed = comparisons.allowed(question)
        if kind == "model":
            allowed.append(UNREADABLE)
        if answer[question] not in allowed:
            wrong = f"{path}: {answer[question]!r} answers the question {question!r}"
            raise CourseError(f"{wrong} of {answer['item']}; take one of {', '.join(allowed)}.")


def read_ratings(path: str | Path, comparisons: Comparisons) -> dict[str, Any]:
    """The content of a file that the notebook's widget, the page (its download) or a judge wrote.

    Returns:
        comparisons (their id), rater, kind ("person" or "model"), and answers: dicts of item,
        diverse, best, comment, seconds; a judge's also of order, "AB" or "BA".

    Raises:
        ForeignRatings: the file rates other comparisons.
        CourseError: it holds no ratings, or an answer that is not allowed or occurs twice.
    """
    content = read_json(path)
    try:
        rated, rater, kind = content["comparisons"], content["rater"], content["kind"]
        answered = [(answer["item"], answer.get("order")) for answer in content["answers"]]
        if not isinstance(rater, str) or kind not in ("person", "model"):
            raise TypeError
        if rated != comparisons.id:
            raise ForeignRatings(f"{path} rates other comparisons ({rated}) than {comparisons.id}.")
        for answer in content["answers"]:
            _check(answer, comparisons, kind, Path(path))
    except (LookupError, TypeError):
        raise CourseError(f"{path} holds no ratings: name a file that a rater made.") from None
    if len(set(answered)) < len(answered):
        raise CourseError(f"{path} answers a comparison twice: keep the answer that counts.")
    return content


class Ratings:
    """The answers of one person to some comparisons, on the disk after each answer.

    They are in the file `<rater>.json` of the folder, or in the page's download there. CourseError
    if the name has no letter or digit, or the file is a model's; as `read_ratings`.
    """

    def __init__(self, folder: str | Path, comparisons: Comparisons, rater: str):
        name = re.sub(r"[^\w-]+", "-", rater.strip()).strip("-").lower()
        if not name:
            raise CourseError(f"A rater's name has at least one letter or digit; got {rater!r}.")
        download = Path(folder) / f"{name}-{comparisons.id[:6]}.json"
        self.path = download if download.exists() else Path(folder) / f"{name}.json"
        self.comparisons, self.rater = comparisons, rater
        self.answers: list[dict[str, Any]] = []
        self._load()

    def _load(self) -> None:
        """Read the file again: another tab may have added answers."""
        if self.path.exists():
            content = read_ratings(self.path, self.comparisons)
            if content["kind"] != "person":
                raise CourseError(f"{self.path} holds the answers of a model: take another name.")
            self.answers = content["answers"]

    def _write(self) -> None:
        head = {"comparisons": self.comparisons.id, "rater": self.rater, "kind": "person"}
        write_json(self.path, head | {"answers": self.answers})

    def save(
        self, item: str, diverse: str, best: str, comment: str = "", seconds: float | None = None
    ) -> None:
        """Store one answer, on the disk at return; it replaces an earlier one to that item."""
        answer = {"item": item, "diverse": diverse, "best": best}
        _check(answer, self.comparisons, "person", self.path)
        self._load()
        self.answers = [known for known in self.answers if known["item"] != item]
        self.answers.append(answer | {"comment": comment, "seconds": seconds})
        self._write()

    def undo(self) -> dict[str, Any] | None:
        """The last answer, which is taken back; None if there is none."""
        self._load()
        if not self.answers:
            return None
        last = self.answers.pop()
        self._write()
        return last

    @property
    def waiting(self) -> list[str]:
        """The comparisons without an answer, in order."""
        done = {answer["item"] for answer in self.answers}
        return [item["item"] for item in self.comparisons.items if item["item"] not in done]


def _label(sides: dict[str, Any], answers: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """One rater's label of one item: of one answer, or of a judge's answers in both orders."""
    if {answer.get("order") for answer in answers} not in ({None}, {"AB", "BA"}):
        raise CourseError(f"{path} answers {answers[0]['item']} in one order only: judge again.")
    label = {"prompt_id": sides["prompt_id"]}
    for question in QUESTIONS:
        named, places = set(), ""
        for answer in answers:
            side = answer[question][0]  # of "A", "B4", "undecided" or "unreadable"
            named.add(sides[side] if side in "AB" else answer[question])
            if side in "AB":
                places += "A" if answer.get("order", "AB")[0] == side else "B"
        label[question] = named.pop() if len(named) == 1 else UNDECIDED
        if UNREADABLE in (answer[question] for answer in answers):
            label[question] = None
        label[f"{question}_at"] = places
    seconds = [answer.get("seconds") for answer in answers]
    return label | {"seconds": np.nan if None in seconds else float(sum(seconds))}


def _labels(paths: Sequence[Path], comparisons: Comparisons, key: dict[str, Any]) -> pd.DataFrame:
    """The labels of several files, as `read_labels`; foreign files are named and left out."""
    if key["comparisons"] != comparisons.id:
        raise CourseError("The key is of other comparisons: take the one written with these.")
    rows, files = [], {}
    for path in paths:
        try:
            content = read_ratings(path, comparisons)
        except ForeignRatings as fault:
            print(f"Left out: {fault}")
            continue
        name = content["rater"].strip().casefold()
        if name in files:
            raise CourseError(f"{path} and {files[name]} are both by {name!r}: keep one of them.")
        files[name] = path
        by_item = defaultdict(list)
        for answer in content["answers"]:
            by_item[answer["item"]].append(answer)
        for item, answers in by_item.items():
            row = {"item": item, "rater": content["rater"], "kind": content["kind"]}
            rows.append(row | _label(key["items"][item], answers, path))
    answer_columns = ["diverse", "diverse_at", "best", "best_at", "seconds"]
    return pd.DataFrame(rows, columns=["item", "prompt_id", "rater", "kind", *answer_columns])


def read_labels(
    path: str | Path, comparisons: Comparisons, key: dict[str, Any], mixed: bool = False
) -> pd.DataFrame:
    """One row a (rater, item), with the system's name in place of the side.

    A judge that was asked in both orders has one label an item: the system that it named in both,
    else "undecided"; None, which counts in no share, if one of its answers could not be read.

    Args:
        path: a ratings file, or a folder of them (every .json in it). A file that rates other
            comparisons is named and left out.
        mixed: True allows people and language models in one frame, told apart by `kind`.

    Returns:
        item, prompt_id, rater, kind ("person" or "model"), diverse and best (a system's name,
        "undecided" or None), diverse_at and best_at (the place taken: "A" or "B", "" if none; of a
        judge one letter an order, "A" for the place shown first), seconds (NaN if unknown).
    """
    path = Path(path)
    labels = _labels(sorted(path.glob("*.json")) if path.is_dir() else [path], comparisons, key)
    if labels.empty:
        raise CourseError(f"There are no labels in {path} yet: rate a comparison first.")
    if labels["kind"].nunique() > 1 and not mixed:
        raise CourseError("People and language models rated: read them apart, or with mixed=True.")
    return labels


def read_study(folder: str | Path) -> tuple[pd.DataFrame, tuple[str, str]]:
    """The labels in a folder that `compare` wrote, people's and models', and its two systems.

    As `read_labels(..., mixed=True)`, but without a row, and no error, if there are no labels.
    """
    comparisons = read_comparisons(Path(folder) / "for_raters" / "comparisons.json")
    key = read_key(Path(folder) / "key.json", comparisons)
    labels = _labels(sorted(Path(folder).glob("ratings/*.json")), comparisons, key)
    return labels, tuple(key["systems"])
