"""One rater's answers: a small file, written whole after each answer, so that a restart loses nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..settings import CourseError
from .comparisons import Comparisons, _read, write_json

__all__ = ["ForeignRatings", "Ratings", "own_files", "read_ratings"]

KINDS = ("person", "model")
UNREADABLE = (
    "unreadable"  # a model's words that are none of the answers: a failure, and not "undecided"
)


class ForeignRatings(CourseError):
    """A ratings file belongs to other comparisons than those at hand."""


def _check(answer: dict[str, Any], comparisons: Comparisons, path: Any, kind: str) -> None:
    """Raise CourseError where the answer is not one to these comparisons."""
    known = {item["item"] for item in comparisons.items}
    if answer.get("item") not in known:
        raise CourseError(f"{path}: there is no comparison {answer.get('item')!r}.")
    for question in ("diverse", "best"):
        allowed = comparisons.allowed(question) + [UNREADABLE] * (kind == "model")
        if answer.get(question) not in allowed:
            raise CourseError(
                f"{path}: {answer.get(question)!r} is no answer to the question {question!r} of {answer['item']}; take "
                f"one of {', '.join(allowed)}."
            )


def read_ratings(path: str | Path, comparisons: Comparisons | None = None) -> dict[str, Any]:
    """The content of a ratings file: comparisons (id), rater, kind, answers.

    Args:
        path: of the notebook's instrument, of the page (its download), or of a judge.
        comparisons: what the answers must belong to; None leaves that unchecked.

    Raises:
        ForeignRatings: it belongs to other comparisons.
        CourseError: there is none; it holds something else; an answer is none of those allowed, or stands twice.
    """
    content = _read(path, "ratings")
    answers = content.get("answers")
    listed = isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers)
    if (
        not listed
        or not {"comparisons", "rater", "kind"} <= content.keys()
        or content["kind"] not in KINDS
    ):
        raise CourseError(
            f"{path} does not hold ratings: name a file that the notebook, the page or a judge wrote."
        )
    if comparisons is not None:
        if content["comparisons"] != comparisons.id:
            raise ForeignRatings(
                f"{path} rates other comparisons ({content['comparisons']}) than these ({comparisons.id}): read it "
                "with the key written beside its page, or take it out of this folder."
            )
        for answer in content["answers"]:
            _check(answer, comparisons, path, content["kind"])
    places = [(answer.get("item"), answer.get("order")) for answer in content["answers"]]
    if len(set(places)) < len(places):
        raise CourseError(f"{path} answers a comparison twice: keep the answer that counts.")
    return content


def own_files(folder: str | Path, comparisons: Comparisons) -> list[Path]:
    """The ratings files in a folder that hold answers to these comparisons; a line says which rate others.

    Args:
        folder: of ratings files (every .json in it); it may be missing.
        comparisons: what was rated.

    Raises:
        CourseError: as `read_ratings`, but for files of other comparisons.
    """
    own = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            own += [path] if read_ratings(path, comparisons)["answers"] else []
        except ForeignRatings as fault:
            print(f"Left out: {fault}")
    return own


class Ratings:
    """The answers of one rater to some comparisons, kept in a file.

    Args:
        folder: where the file `<rater>.json` stands or is begun, or the page's download stands.
        comparisons: what is rated.
        rater: a name, by which the rater is known and goes on later.
        kind: "person" or "model".

    Raises:
        CourseError: the name is empty; the file belongs to other comparisons or to another kind of rater.
    """

    def __init__(
        self, folder: str | Path, comparisons: Comparisons, rater: str, kind: str = "person"
    ):
        name = re.sub(r"[^\w-]+", "-", rater.strip()).strip("-").lower()
        if not name or kind not in KINDS:
            raise CourseError(
                "A rater needs a name with at least one letter or digit, and is a person or a model."
            )
        of_page = Path(folder) / f"{name}-{comparisons.id[:6]}.json"
        self.path = of_page if of_page.exists() else Path(folder) / f"{name}.json"
        self.comparisons, self.rater, self.kind = comparisons, rater, kind
        self.answers: list[dict[str, Any]] = []
        self._load()

    def _load(self) -> None:
        """Take in what the file holds: another tab may have gone on in it."""
        if self.path.exists():
            content = read_ratings(self.path, self.comparisons)
            if content["kind"] != self.kind:
                raise CourseError(
                    f"{self.path} holds the answers of a {content['kind']}: take another name."
                )
            self.answers = content["answers"]

    def _write(self) -> None:
        content = {
            "comparisons": self.comparisons.id,
            "rater": self.rater,
            "kind": self.kind,
            "answers": self.answers,
        }
        write_json(self.path, content)

    def save(
        self, item: str, diverse: str, best: str, comment: str = "", seconds: float | None = None
    ) -> None:
        """Store one answer; it takes the place of an earlier one to the same comparison. On the disk at return.

        Raises:
            CourseError: there is no such comparison, or the answer is none of those allowed.
        """
        answer = {
            "item": item,
            "diverse": diverse,
            "best": best,
            "comment": comment,
            "seconds": seconds,
        }
        _check(answer, self.comparisons, self.path, self.kind)
        self._load()
        self.answers = [known for known in self.answers if known["item"] != item] + [answer]
        self._write()

    def undo(self) -> dict[str, Any] | None:
        """Take the last answer back; it is returned, None where there is none."""
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
