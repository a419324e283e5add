"""Columns under other people's names, chats and preference pairs, brought into the course's fields.

The fields are prompt, text, score, prompt_id, writer, source and split, one response a row.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..settings import CourseError
from .text import same_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FIELDS",
    "KNOWN_COLUMNS",
    "Counted",
    "count",
    "name_columns",
    "read_chats",
    "responses_of_pairs",
]

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
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}

Counted = dict[str, int]  # what was left out or changed, and how often


def name_columns(
    frame: pd.DataFrame, columns: str | Mapping[str, str], name: str
) -> tuple[pd.DataFrame, str]:
    """(the frame with the course's fields as columns, a remark on the score or nothing).

    Args:
        columns: field -> column, or a text such as "text=output,prompt=instruction+input"; the
            columns joined by + follow each other after an empty line.

    Raises:
        CourseError: a named column or field is unknown, or prompt or text is missing; suggests a
            mapping.
    """
    spellings = {_folded(column): column for column in frame.columns}
    for field in (*FIELDS, *PAIRS, *CHATS):
        if field not in frame and field in spellings:
            frame = frame.rename(columns={spellings[field]: field})
    frame = _mapped(frame, _mapping(columns, name), name)
    votes = [column for column in USUAL["score"] if column in frame]
    if votes and "score" not in frame:
        return frame, f"no column is called score: set columns to score={votes[0]} to use that one"
    return frame, ""


def _folded(column: Any) -> str:
    return str(column).strip().lower().replace(" ", "_").replace("-", "_")


def _mapping(columns: str | Mapping[str, str], name: str) -> dict[str, str]:
    """Field -> column, of a text or a mapping."""
    pairs = columns
    if isinstance(columns, str):
        parts = [part.partition("=") for part in columns.split(",") if part.strip()]
        pairs = {field.strip(): column.strip() for field, _, column in parts}
    for field, column in pairs.items():
        if field not in (*FIELDS, *PAIRS, *CHATS) or not column:
            known = ", ".join((*FIELDS, *PAIRS))
            raise CourseError(
                f"columns cannot map {field!r} to {column!r} for {name}: write field=column, such "
                f"as text=output, where a field is one of {known}."
            )
    return dict(pairs)


def _mapped(frame: pd.DataFrame, mapping: dict[str, str], name: str) -> pd.DataFrame:
    found = {}
    for field, source in mapping.items():
        columns = [source]
        if source not in frame:
            columns = [part.strip() for part in source.split("+")]
        for column in columns:
            if column not in frame:
                known = ", ".join(map(str, frame.columns))
                raise CourseError(f"{name} has no column {column!r}: it has {known}.")
        found[field] = frame[columns[0]]
        if len(columns) > 1:
            rows = frame[columns].fillna("").astype(str).itertuples(index=False)
            found[field] = ["\n\n".join(filter(str.strip, row)) for row in rows]
    taken = set(mapping.values()) - set(mapping)
    return frame.drop(columns=[column for column in taken if column in frame]).assign(**found)


def _require(frame: pd.DataFrame, name: str) -> None:
    """CourseError where prompt or text is missing, with the mapping that would give it."""
    needed = ["prompt", "text"]
    if set(PAIRS) <= set(frame.columns):
        needed = ["prompt"]
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
    prompt and text. Raises CourseError for chats of several turns and for parts that are no text.
    """
    for column in CHATS:
        if column in frame and not {"text", "chosen"} & set(frame.columns):
            frame = frame.rename(columns={column: "text"})
    for column in ("text", *PAIRS, "prompt"):
        if column not in frame:
            continue
        own_part = "user" if column == "prompt" else "assistant"
        texts, prompts = [], []
        for number, value in enumerate(frame[column], 1):
            try:
                turns = _turns(value)
                if column == "prompt" and "assistant" in turns:
                    raise ValueError("a chat that holds an answer: give the user's message alone")
            except ValueError as error:
                raise CourseError(f"Row {number} of {name} has as {column} {error}.") from None
            texts.append(turns.get(own_part) if turns else value)
            prompts.append(turns.get("user") if turns else None)
            if turns and "system" in turns:
                count(counted, "system messages of chats")
        frame = frame.assign(**{column: texts})
        if "prompt" not in frame and any(prompts):
            frame["prompt"] = prompts
    _require(frame, name)
    return frame


def _turns(value: Any) -> dict[str, str]:
    """Role -> text of a chat with at most one message a role; empty where the value is no chat."""
    if hasattr(value, "tolist"):  # numpy, of a parquet file
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _parsed(value)
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(part, dict) for part in messages):
        return {}
    turns: dict[str, str] = {}
    roles = []
    for message in messages:
        role = str(message.get("role", message.get("from", "")))
        role = ROLES.get(role, role)
        roles.append(role)
        turns[role] = _content(message.get("content", message.get("value")))
    expected = [role for role in ("system", "user", "assistant") if role in turns]
    if roles != expected or not roles:
        raise ValueError(
            f"a chat of the roles {', '.join(roles) or 'none'}: one user message and one answer "
            "can be read, so delete that row or write its texts out"
        )
    return turns


def _parsed(value: str) -> Any:
    """The chat that a CSV's cell holds as JSON or as Python writes it; else the text itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list) and all(isinstance(part, dict) for part in parsed):
            keys = [part.keys() & {"role", "from"} for part in parsed]
            return parsed if all(keys) else value
    return value


def _content(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    texts = content if isinstance(content, list) else [content]
    if texts and all(isinstance(part, dict) for part in texts):
        texts = [part.get("text") for part in texts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("a message that is no text: delete that row or write its text out")
    return "".join(texts)


def responses_of_pairs(frame: pd.DataFrame, counted: Counted) -> pd.DataFrame:
    """One response a row, for a frame with chosen and rejected: every distinct one of a prompt.

    A response's score is 1 above the highest of those it was chosen over, 0 where there is none, so
    that no pair of the file is turned round. Responses of pairs that contradict each other have no
    such score; they are left out and counted.
    """
    import pandas as pd

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
    levels: dict[str, int] = {}
    waiting = list(below)
    while waiting:
        ready = [item for item in waiting if below[item] <= levels.keys()]
        if not ready:
            break
        for item in ready:
            levels[item] = 1 + max((levels[other] for other in below[item]), default=-1)
        waiting = [item for item in waiting if item not in levels]
    return {item: levels[item] for item in below if item in levels}


def count(counted: Counted, what: str, number: int = 1) -> None:
    """Add to what is counted under a name."""
    if number:
        counted[what] = counted.get(what, 0) + number
