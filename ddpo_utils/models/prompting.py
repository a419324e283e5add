"""What a model is asked under each condition, and how its answer becomes stories: plain, iterative, verbalised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..settings import CourseError

__all__ = ["CONDITIONS", "chat", "request", "stories"]

# plain: each story asked for by itself. iterative: each request carries the earlier stories and asks for one far from
# them (GPT-4o-iter in arXiv 2503.17126). verbalised: one request for several stories, each with its probability
# (verbalized sampling, arXiv 2510.01171). The papers say what is asked for; the words here are this project's own.
CONDITIONS = ("plain", "iterative", "verbalised")

SYSTEM = "You write fiction. Answer the user's prompt with one creative piece of writing, and with nothing beside it."
FAR = (
    "Those pieces answer the prompt already. Write another one that lies as far from all of them as you can, in its "
    "plot and in its style alike. Give the new piece alone."
)
TELLER = "You write fiction."
SEVERAL = (
    "Answer the prompt above {k} times, with pieces drawn from the whole range of what you might write, the unlikely "
    "ones included. Put each piece, whole, into this form, and write nothing outside it:\n"
    "<response><text>the piece</text><probability>a number from 0 to 1: how likely you would be to write this piece"
    "</probability></response>"
)
WORDING = (SYSTEM, FAR, TELLER, SEVERAL)  # samples asked for in other words are other samples

_RESPONSE = re.compile(
    r"<response\b[^>]*>(.*?)(</response\s*>|(?=<response\b)|\Z)", re.DOTALL | re.IGNORECASE
)
_TEXT = re.compile(
    r"<text\b[^>]*>(.*?)(</text\s*>|(?=<probability\b)|\Z)", re.DOTALL | re.IGNORECASE
)
_PROBABILITY = re.compile(
    r"<probability\b[^>]*>\s*((?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*(%?)\s*(?:</probability\s*>|\Z)",
    re.IGNORECASE,
)
_PROBABILITY_PART = re.compile(r"<probability\b.*", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(
    r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL
)  # some servers leave a model's reasoning in


def check_condition(condition: str, samples: int) -> None:
    """Raises CourseError where the condition is unknown or no sample is asked for."""
    if condition not in CONDITIONS:
        raise CourseError(f"There is no condition {condition!r}: take {', '.join(CONDITIONS)}.")
    if samples < 1:
        raise CourseError("Sampling needs at least one sample a prompt.")


def request(prompt: str, condition: str, k: int = 4, earlier: Sequence[str] = ()) -> str:
    """The user's text of one call.

    Args:
        prompt: what a story is asked for. condition: of CONDITIONS.
        k: how many stories one verbalised call asks for. earlier: the stories that an iterative call must keep from.
    """
    if condition == "verbalised":
        return f"{prompt}\n\n{SEVERAL.format(k=k)}"
    if condition == "iterative" and earlier:
        pieces = "\n\n".join(f"Piece {number}:\n{text}" for number, text in enumerate(earlier, 1))
        return f"{prompt}\n\n{pieces}\n\n{FAR}"
    return prompt


def chat(text: str, condition: str) -> list[dict[str, str]]:
    """The messages of one call to an endpoint: system text, and the user's text of `request`."""
    system = TELLER if condition == "verbalised" else SYSTEM  # which asks for one piece alone
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def stories(answer: str, finished: bool, condition: str, k: int = 4) -> list[dict[str, Any]]:
    """The stories of one answer: one, or exactly `k` of a verbalised answer.

    Args:
        answer: the model's text. finished: False where a limit cut it.

    Returns:
        Dictionaries with text and finished; of a verbalised answer also probability (None where no number from 0 to 1
        is given) and unreadable (True where the answer holds fewer than `k` stories in the form asked for; their text
        is empty, so they count as failures wherever stories are checked).
    """
    answer = _THOUGHT.sub("", answer)
    if condition != "verbalised":
        return [{"text": answer.strip(), "finished": finished}]
    found = []
    for block in _RESPONSE.finditer(answer):
        inner = _TEXT.search(block[1])
        text = (inner[1] if inner else _PROBABILITY_PART.sub("", block[1])).strip()
        number = _PROBABILITY.search(block[1])
        value = float(number[1]) / (100 if number[2] else 1) if number else 2.0
        if text:
            cut = (
                not finished
                and block.end() == len(answer)
                and not block[2]
                and not (inner and inner[2])
            )
            value = value if value <= 1 else None
            found.append(
                {"text": text, "finished": not cut, "probability": value, "unreadable": False}
            )
    missing = {"text": "", "finished": finished, "probability": None, "unreadable": True}
    return (found + [missing] * k)[:k]
