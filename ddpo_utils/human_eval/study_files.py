"""What the files of a study hold, checked when they are read; names as they may be shown."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, InstanceOf, with_config
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

UNDECIDED = "undecided"  # shown as "Hard to decide"
Text = InstanceOf[str]  # a cut emoji, half of a surrogate pair, is a text too
Stories = Annotated[list[Text], Field(min_length=1)]


@with_config(ConfigDict(extra="forbid"))  # the comparisons' id covers all that an item holds
class Item(TypedDict):
    item: Text
    prompt: Text
    A: Stories
    B: Stories


@dataclass(frozen=True)
class Comparisons:
    """What raters see.

    Attributes:
        id: hash of the items; ratings and key hold it.
        shown: "whole", or "summaries" where long stories are shown as summaries of their plots.
        items: dicts of item ("c01"), prompt, A and B (lists of equally many stories).
    """

    id: Text
    shown: Literal["whole", "summaries"]
    items: Annotated[list[Item], Field(min_length=1)]

    def allowed(self, question: str) -> list[str]:
        """The answers that a question ("diverse" or "best") takes."""
        if question == "diverse":
            return ["A", "B", UNDECIDED]
        per_side = range(1, len(self.items[0]["A"]) + 1)
        return [*(f"A{n}" for n in per_side), *(f"B{n}" for n in per_side), UNDECIDED]


class KeyEntry(TypedDict):
    prompt_id: Text
    A: Text
    B: Text


class KeyFile(TypedDict):
    comparisons: Text
    systems: Annotated[list[Text], Field(min_length=2, max_length=2)]
    items: dict[Text, KeyEntry]


class Answer(TypedDict):
    item: Text
    diverse: Text
    best: Text
    comment: NotRequired[Text]
    seconds: NotRequired[Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None]
    order: NotRequired[Literal["AB", "BA"]]


class RatingsFile(TypedDict):
    comparisons: Text
    rater: Text
    kind: Literal["person", "model"]
    answers: list[Answer]


def clean_name(name: str) -> str:
    """A name as it is shown: no control or direction characters, single spaces, composed accents.

    So a rater's name cannot move a terminal's cursor or turn the text beside it.
    """
    composed = unicodedata.normalize("NFC", name)
    shown = [letter for letter in composed if letter.isprintable() or letter.isspace()]
    return " ".join("".join(shown).split())


def file_name(name: str) -> str:
    """A rater's name in file names: letters with their marks, digits, "_" and "-", "" for none.

    rating_page.html does the same.
    """
    parts = []
    for letter in clean_name(name):
        is_word = letter in "_-" or unicodedata.category(letter)[0] in "LMN"
        parts.append(letter if is_word else " ")
    return "-".join("".join(parts).split()).strip("-").lower()
