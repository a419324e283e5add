"""Ratings: one rater's answers in one file, and the labels that they give with the key."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..settings import CourseError
from ..storage.files import check_as, read_as, write_json
from ..storage.locks import locked
from .comparisons import QUESTIONS, UNDECIDED, Comparisons, read_comparisons, read_key
from .study_files import Answer, RatingsFile, clean_name, file_name

UNREADABLE = "unreadable"  # a model's answer that is none of those allowed; not "undecided"
LONGEST_NAME = 60  # characters, as in the page


class ForeignRatings(CourseError):
    """A ratings file belongs to other comparisons than those at hand."""


def _check(answer: dict[str, Any], comparisons: Comparisons, kind: str, path: Path) -> None:
    """Raise CourseError if this is no answer to these comparisons."""
    item = answer["item"]
    if item not in [shown["item"] for shown in comparisons.items]:
        raise CourseError(f"{path}: there is no comparison {item!r}: correct that answer.")
    for question in QUESTIONS:
        allowed = comparisons.allowed(question)
        if kind == "model":
            allowed.append(UNREADABLE)
        if answer[question] not in allowed:
            raise CourseError(
                f"{path}: {answer[question]!r} is no answer to {question!r} of {item}; take one of "
                f"{', '.join(allowed)}."
            )


def read_ratings(path: str | Path, comparisons: Comparisons) -> dict[str, Any]:
    """The content of a file that the notebook's widget, the page (its download) or a judge wrote.

    A dict as `RatingsFile`; a judge's answers have an order. ForeignRatings if the file rates other
    comparisons, CourseError if an answer is not allowed or occurs twice.
    """
    content = read_as(RatingsFile, path, "Name a file that a rater made, or delete it.")
    if content["comparisons"] != comparisons.id:
        raise ForeignRatings(f"{path} rates other comparisons than {comparisons.id}.")
    if not clean_name(content["rater"]):
        raise CourseError(f"{path} has no rater's name: write one into its field rater.")
    answers = content["answers"]
    for answer in answers:
        _check(answer, comparisons, content["kind"], Path(path))
    if len({(answer["item"], answer.get("order")) for answer in answers}) < len(answers):
        raise CourseError(f"{path} answers a comparison twice: keep the answer that counts.")
    return content


class Ratings:
    """The answers of one person to some comparisons, on the disk after each answer.

    They are in the file `<rater>.json` of the folder, or in the page's download there.
    """

    def __init__(self, folder: str | Path, comparisons: Comparisons, rater: str):
        name = file_name(rater) if isinstance(rater, str) else ""
        if not name or len(name) > LONGEST_NAME:
            raise CourseError(
                f"A rater's name is a text with a letter or digit, of at most {LONGEST_NAME} "
                f"characters; got {str(rater)[:LONGEST_NAME]!r}."
            )
        folder = Path(folder)
        self.path = folder / f"{name}.json"
        download = folder / f"{name}-{comparisons.id[:6]}.json"
        if download.exists():
            self.path = download
        self.comparisons = comparisons
        self.rater = clean_name(rater)
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
        """Store one answer on the disk; it replaces an earlier one to that item."""
        answer: dict[str, Any] = {"item": item, "diverse": diverse, "best": best}
        answer |= {"comment": comment, "seconds": seconds}
        check_as(Answer, answer, self.path, "Correct that value.")
        _check(answer, self.comparisons, "person", self.path)
        with locked(self.path, wait=True):
            self._load()
            self.answers = [known for known in self.answers if known["item"] != item]
            self.answers.append(answer)
            self._write()

    def undo(self) -> dict[str, Any] | None:
        """The last answer, which is taken back; None if there is none."""
        with locked(self.path, wait=True):
            self._load()
            if not self.answers:
                return None
            last = self.answers.pop()
            self._write()
            return last

    @property
    def waiting(self) -> list[str]:
        """The comparisons without an answer, in order."""
        answered = {answer["item"] for answer in self.answers}
        names = [item["item"] for item in self.comparisons.items]
        return [name for name in names if name not in answered]


def _label(sides: dict[str, Any], answers: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """One rater's label of one item: of one answer, or of a judge's answers in both orders."""
    if {answer.get("order") for answer in answers} not in ({None}, {"AB", "BA"}):
        raise CourseError(f"{path} answers {answers[0]['item']} in one order only: judge again.")
    label: dict[str, Any] = {}
    for question in QUESTIONS:
        named, places = [], ""
        for answer in answers:
            choice, order = answer[question], answer.get("order", "AB")
            side = choice[0]  # of "A", "B4", "undecided" or "unreadable"
            if side in order:
                places += "AB"[order.index(side)]
                choice = sides[side]
            named.append(choice)
        label[question] = named[0] if len(set(named)) == 1 else UNDECIDED
        if UNREADABLE in named:
            label[question] = None
        label[f"{question}_at"] = places
    return label


def _labels(paths: Iterable[Path], comparisons: Comparisons, key: dict[str, Any]) -> pd.DataFrame:
    """The labels of several files, as `read_labels`; foreign files are named and left out."""
    if key["comparisons"] != comparisons.id:
        raise CourseError("The key is of other comparisons: take the one written with these.")
    rows = []
    files: dict[str, Path] = {}
    for path in sorted(paths):
        try:
            content = read_ratings(path, comparisons)
        except ForeignRatings as fault:
            print(f"Left out: {clean_name(str(fault))}")
            continue
        rater = clean_name(content["rater"])
        name = unicodedata.normalize("NFKC", rater).casefold()
        if name in files:
            raise CourseError(f"{path} and {files[name]} are both by {rater!r}: keep one of them.")
        files[name] = path
        by_item = defaultdict(list)
        for answer in content["answers"]:
            by_item[answer["item"]].append(answer)
        for item, answers in by_item.items():
            sides = key["items"][item]
            who = {"prompt_id": sides["prompt_id"], "rater": rater, "kind": content["kind"]}
            rows.append({"item": item, **who, **_label(sides, answers, path)})
    columns = ["item", "prompt_id", "rater", "kind", "diverse", "diverse_at", "best", "best_at"]
    return pd.DataFrame(rows, columns=columns)


def read_labels(path: str | Path, comparisons: Comparisons, key: dict[str, Any]) -> pd.DataFrame:
    """One row a (rater, item), with the system's name in place of the side.

    A judge that was asked in both orders has one label an item: the system that it named in both,
    else "undecided"; None, which counts in no share, if one of its answers could not be read.

    Args:
        path: a ratings file, or a folder of them (every .json in it). A file that rates other
            comparisons is named and left out.

    Returns:
        item, prompt_id, rater, kind ("person" or "model"), diverse and best (a system's name,
        "undecided" or None), diverse_at and best_at (the place taken: "A" or "B", "" if none; of a
        judge one letter an order, "A" for the place shown first). CourseError where there are no
        labels, or both people's and language models'.
    """
    path = Path(path)
    labels = _labels(path.glob("*.json") if path.is_dir() else [path], comparisons, key)
    if labels.empty:
        raise CourseError(f"There are no labels in {path} yet: rate a comparison first.")
    if labels["kind"].nunique() > 1:
        raise CourseError("People and language models rated: their labels are not to be mixed.")
    return labels


def read_study(folder: str | Path) -> tuple[pd.DataFrame, tuple[str, str]]:
    """The labels in a folder that `compare` wrote, people's and models', and its two systems.

    As `read_labels`, but people and models may both have rated, told apart by `kind`, and a study
    without labels gives a frame without rows.
    """
    folder = Path(folder)
    comparisons = read_comparisons(folder / "for_raters" / "comparisons.json")
    key = read_key(folder / "key.json", comparisons)
    labels = _labels(folder.glob("ratings/*.json"), comparisons, key)
    return labels, tuple(key["systems"])
