"""Columns under other people's names, chats and preference pairs, brought into the course's fields.

The fields are prompt, text, score, prompt_id, writer, source and split, one response a row.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from typing import Any

import pandas as pd

from ..settings import CourseError
from .text import read_messages, same_text

FIELDS = ("prompt", "text", "score", "prompt_id", "writer", "source", "split")
PAIRS = ("chosen", "rejected")
CHATS = ("messages", "conversations")
USUAL = {  # names that other data sets give to the fields
    "prompt": (
        *("instruction", "question", "query", "prompt_text", "user_prompt", "user"),
        *("input", "title", "post", "context"),
    ),
    "text": (
        *("output", "response", "completion", "answer", "story", "comment", "reply", "assistant"),
        *("continuation", "response_text", "generated_text", "generation", "content", "body"),
    ),
    "score": ("rating", "votes", "upvotes", "grade", "reward", "stars", "likes", "points"),
}
KNOWN_COLUMNS = frozenset((*FIELDS, *PAIRS, *CHATS, *chain(*USUAL.values())))
CHAT = ("system", "user", "assistant")  # what a chat may hold, each once and in this order

Counted = dict[str, int]  # what was left out or changed, and how often


def name_columns(
    frame: pd.DataFrame, columns: str | Mapping[str, str], name: str
) -> tuple[pd.DataFrame, str]:
    """(the frame with the course's fields as columns, a remark on the score or nothing).

    Args:
        columns: field -> column, or a text such as "text=output,prompt=instruction+input"; the
            columns joined by + follow each other after an empty line.

    Raises:
        CourseError: a named column or field is unknown.
    """
    spellings = {_folded(column): column for column in frame.columns}
    for field in (*FIELDS, *PAIRS, *CHATS):
        if field not in frame and field in spellings:
            frame = frame.rename(columns={spellings[field]: field})
    if isinstance(columns, str):
        parts = [part.partition("=") for part in columns.split(",") if part.strip()]
        columns = {field.strip(): column.strip() for field, _, column in parts}
    found = {}
    taken = set()
    for field, source in columns.items():
        if field not in (*FIELDS, *PAIRS, *CHATS) or not source:
            known = ", ".join((*FIELDS, *PAIRS))
            raise CourseError(
                f"columns cannot map {field!r} to {source!r} for {name}: write field=column, such "
                f"as text=output, where a field is one of {known}."
            )
        joined = [source]
        if source not in frame:
            joined = [part.strip() for part in source.split("+")]
        missing = [column for column in joined if column not in frame]
        if missing:
            known = ", ".join(map(str, frame.columns))
            raise CourseError(f"{name} has no column {missing[0]!r}: it has {known}.")
        found[field] = frame[joined[0]]
        if len(joined) > 1:
            rows = frame[joined].fillna("").astype(str).itertuples(index=False)
            found[field] = ["\n\n".join(filter(str.strip, row)) for row in rows]
        taken.add(source)
    frame = frame.drop(columns=[column for column in taken - set(found) if column in frame])
    frame = frame.assign(**found)
    votes = [column for column in USUAL["score"] if column in frame]
    if votes and "score" not in frame:
        return frame, f"no column is called score: set columns to score={votes[0]} to use that one"
    return frame, ""


def _folded(column: Any) -> str:
    return str(column).strip().lower().replace(" ", "_").replace("-", "_")


def _require(frame: pd.DataFrame, name: str) -> None:
    """CourseError where prompt or text is missing, with the mapping that would give it."""
    needed = ["prompt"] if set(PAIRS) <= set(frame.columns) else ["prompt", "text"]
    lacking = [field for field in needed if field not in frame]
    if not lacking:
        return
    known = {_folded(column): str(column) for column in frame.columns}
    advice = []
    for field in lacking:
        usual = [known[column] for column in USUAL[field] if column in known]
        if field == "prompt" and {"instruction", "input"} <= set(known):
            usual = [f"{known['instruction']}+{known['input']}"]
        advice.append(f"{field}={usual[0] if usual else 'YOUR_COLUMN'}")
    columns = ", ".join(map(str, frame.columns))
    raise CourseError(
        f"{name} has no column {lacking[0]!r}: it needs prompt and text, and has {columns}; set "
        f"columns (--columns) to {','.join(advice)}."
    )


def read_chats(frame: pd.DataFrame, name: str, counted: Counted) -> pd.DataFrame:
    """The frame with texts in place of chat messages: one user's message is the prompt.

    A system's message is left out and counted. A whole chat as `messages`, `text` or `chosen` gives
    prompt and text. Raises CourseError for chats of several turns and for parts that are no text,
    and where there is no prompt or text.
    """
    for column in CHATS:
        if column in frame and not {"text", "chosen"} & set(frame.columns):
            frame = frame.rename(columns={column: "text"})
    for column in ("text", *PAIRS, "prompt"):
        if column not in frame:
            continue
        roles = CHAT[:2] if column == "prompt" else CHAT
        texts, prompts = [], []
        for number, value in enumerate(frame[column], 1):
            try:
                chat = _chat(value, roles)
            except ValueError as error:
                raise CourseError(f"Row {number} of {name} has as {column} {error}.") from None
            texts.append(chat.get(roles[-1]) if chat else value)
            prompts.append(chat.get("user"))
            count(counted, "system messages of chats", int("system" in chat))
        frame = frame.assign(**{column: texts})
        if "prompt" not in frame and any(prompts):
            frame["prompt"] = prompts
    _require(frame, name)
    return frame


def _chat(value: Any, allowed: tuple[str, ...]) -> dict[str, str]:
    """Role -> text of a chat; empty where the value is no chat."""
    if hasattr(value, "tolist"):  # numpy, of a parquet file
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _parsed(value)
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        return {}
    turns = read_messages(messages)
    roles = [role for role, _ in turns]
    if not roles or roles != [role for role in allowed if role in roles]:
        raise ValueError(
            f"a chat of the roles {', '.join(roles) or 'none'}: it may hold one message each of "
            f"{', '.join(allowed)}, so delete that row or write its texts out"
        )
    return dict(turns)


def _parsed(value: str) -> Any:
    """The chat that a CSV's cell holds as JSON or as Python writes it; else the text itself."""
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError, AttributeError):
            messages = parse(value)
            if all(message.keys() & {"role", "from"} for message in messages):
                return messages
    return value


def responses_of_pairs(frame: pd.DataFrame, counted: Counted) -> pd.DataFrame:
    """One response a row, for a frame with chosen and rejected: every distinct one of a prompt.

    A response's score is 1 above the highest of those it was chosen over, 0 where there is none, so
    that no pair of the file is turned round. Responses of pairs that contradict each other have no
    such score; they are left out and counted.
    """
    rows = []
    keys = [frame["prompt"].map(lambda prompt: same_text(str(prompt)))]
    if "split" in frame:
        keys.append(frame["split"].astype(str))
    for _, pairs in frame.groupby(keys, sort=False):
        texts: dict[str, str] = {}
        below: dict[str, set[str]] = {}
        for chosen, rejected in zip(pairs["chosen"], pairs["rejected"], strict=True):
            if not isinstance(chosen, str) or not isinstance(rejected, str):
                count(counted, "pairs without a text on one side")
                continue
            winner, loser = same_text(chosen), same_text(rejected)
            if winner == loser:
                count(counted, "pairs of one text as chosen and rejected")
                continue
            texts |= {winner: chosen, loser: rejected}
            below.setdefault(winner, set()).add(loser)
            below.setdefault(loser, set())
        levels = _levels(below)
        count(counted, "responses in pairs that contradict each other", len(below) - len(levels))
        first = pairs.iloc[0].drop(list(PAIRS)).to_dict()
        for key, level in levels.items():
            rows.append(first | {"text": texts[key], "score": float(level)})
    return pd.DataFrame(rows, dtype=object)


def _levels(below: dict[str, set[str]]) -> dict[str, int]:
    """Each item's level above those below it; items on a circle, or above one, have none."""
    sorter = TopologicalSorter(below)
    with suppress(CycleError):  # what is below every circle is sorted nevertheless
        sorter.prepare()
    levels: dict[str, int] = {}
    level = 0
    while ready := sorter.get_ready():
        levels |= dict.fromkeys(ready, level)
        sorter.done(*ready)
        level += 1
    return {item: levels[item] for item in below if item in levels}


def count(counted: Counted, what: str, number: int = 1) -> None:
    """Add to what is counted under a name."""
    if number:
        counted[what] = counted.get(what, 0) + number
