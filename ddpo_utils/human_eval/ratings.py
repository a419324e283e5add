"""Ratings: one rater's answers in one file, and the labels that they give with the key."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..settings import CourseError
from ..storage.files import read_json, write_json
from .comparisons import QUESTIONS, UNDECIDED, Comparisons, read_comparisons, read_key

__all__ = ["UNREADABLE", "ForeignRatings", "Ratings", "read_labels", "read_ratings", "read_study"]

UNREADABLE = "unreadable"  # a model's answer that is none of those allowed; not "undecided"


class Answer(TypedDict):
    """A rater's answer to one comparison."""

    item: str
    diverse: str
    best: str
    comment: NotRequired[str]
    seconds: NotRequired[float | None]
    order: NotRequired[Literal["AB", "BA"]]  # a judge's: which side was shown first


class RatingsFile(TypedDict):
    """The content of a ratings file; comparisons is their id."""

    comparisons: str
    rater: str
    kind: Literal["person", "model"]
    answers: list[Answer]


class ForeignRatings(CourseError):
    """A ratings file belongs to other comparisons than those at hand."""


def _check(answer: Answer, comparisons: Comparisons, kind: str, path: Path) -> None:
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


def read_ratings(path: str | Path, comparisons: Comparisons) -> RatingsFile:
    """The content of a file that the notebook's widget, the page (its download) or a judge wrote.

    Raises:
        ForeignRatings: the file rates other comparisons.
        CourseError: there is no such file, or it holds something else; an answer is not allowed,
            or occurs twice.
    """
    try:
        content = TypeAdapter(RatingsFile).validate_python(read_json(path))
    except ValidationError:
        raise CourseError(f"{path} holds no ratings: name a file that a rater made.") from None
    rated = content["comparisons"]
    if rated != comparisons.id:
        raise ForeignRatings(f"{path} rates other comparisons ({rated}) than {comparisons.id}.")
    for answer in content["answers"]:
        _check(answer, comparisons, content["kind"], Path(path))
    answered = {(answer["item"], answer.get("order")) for answer in content["answers"]}
    if len(answered) < len(content["answers"]):
        raise CourseError(f"{path} answers a comparison twice: keep the answer that counts.")
    return content


class Ratings:
    """The answers of one person to some comparisons, on the disk after each answer.

    Args:
        folder: holds the rater's file, `<rater>.json` or the page's download, or gets it.
        comparisons: what is rated.
        rater: a name, by which the rater is known and goes on later.

    Raises:
        CourseError: the name has no letter or digit; the file is a model's or as `read_ratings`.
    """

    def __init__(self, folder: str | Path, comparisons: Comparisons, rater: str):
        name = re.sub(r"[^\w-]+", "-", rater.strip()).strip("-").lower()
        if not name:
            raise CourseError(f"A rater's name has at least one letter or digit; got {rater!r}.")
        download = Path(folder) / f"{name}-{comparisons.id[:6]}.json"
        self.path = download if download.exists() else Path(folder) / f"{name}.json"
        self.comparisons, self.rater = comparisons, rater
        self.answers: list[Answer] = []
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
        """Store one answer, on the disk at return; it replaces an earlier one to that item.

        Raises:
            CourseError: there is no such comparison, or the answer is not allowed.
        """
        answer = Answer(item=item, diverse=diverse, best=best, comment=comment, seconds=seconds)
        _check(answer, self.comparisons, "person", self.path)
        self._load()
        self.answers = [known for known in self.answers if known["item"] != item] + [answer]
        self._write()

    def undo(self) -> Answer | None:
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


def _side(answer: str) -> str:
    """The side that an answer names, "" if none."""
    return answer[0] if answer[0] in "AB" else ""


def _label(sides: dict[str, Any], answers: list[Answer], path: Path) -> dict[str, Any]:
    """One rater's label of one item: of one answer, or of a judge's answers in both orders."""
    orders = [answer.get("order") for answer in answers]
    if set(orders) not in ({None}, {"AB", "BA"}):
        raise CourseError(f"{path} answers {answers[0]['item']} in one order only: judge again.")
    label = {"prompt_id": sides["prompt_id"]}
    systems = {"A": sides["A"], "B": sides["B"], "": UNDECIDED}
    swapped = str.maketrans("AB", "BA")  # side B of the file has the first place in order "BA"
    for question in QUESTIONS:
        given = [answer[question] for answer in answers]
        named = {systems[_side(answer)] for answer in given}
        label[question] = named.pop() if len(named) == 1 else UNDECIDED
        if UNREADABLE in given:
            label[question] = None
        places = ""
        for answer, order in zip(given, orders, strict=True):
            side = _side(answer)
            places += side.translate(swapped) if order == "BA" else side
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

    Raises:
        CourseError: there are no labels; key, raters or orders do not fit together; people and
            models are mixed without `mixed`; as `read_ratings`.
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

    The labels are as of `read_labels(..., mixed=True)`, without a row if there are none yet.

    Raises:
        CourseError: comparisons or key are missing; as `read_labels`.
    """
    comparisons = read_comparisons(Path(folder) / "for_raters" / "comparisons.json")
    key = read_key(Path(folder) / "key.json", comparisons)
    labels = _labels(sorted(Path(folder).glob("ratings/*.json")), comparisons, key)
    return labels, tuple(key["systems"])
