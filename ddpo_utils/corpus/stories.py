"""Stories in: the bundled ones, or your own from a file of any usual kind, or from a frame.

A corpus is a pandas frame with one response a row: prompt_id, prompt, text, score (the judges' mean
or the votes, where known), source, writer, split.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..extras import needs
from ..settings import WRITING_PROMPTS, CourseError, data_dir
from ..storage.files import read_json, read_jsonl, whole_text
from .fields import KNOWN_COLUMNS, Counted, count, name_columns, read_chats, responses_of_pairs
from .posts import COLUMNS as POST_COLUMNS
from .tables import read_rows
from .text import plain_text, same_text

DEFAULTS = {"source": "own", "writer": ""}
NO_SCORE = ("", "na", "n/a", "nan", "none", "null", "-")
MOST_LEFT_OUT = 0.2  # share of the rows; where a fault takes more, the file is refused


@dataclass
class Reading:
    """What was read of somebody's data, what was left out and why, and what is to be known."""

    name: str
    rows: int = 0  # of the file
    responses: int = 0  # that are left, to so many prompts
    prompts: int = 0
    left_out: Counted = field(default_factory=dict)  # reason -> rows
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        read = f"{self.responses:,} responses to {self.prompts:,} prompts"
        lines = [f"{self.name}: {read}, of {self.rows:,} rows."]
        if self.left_out:
            parts = [f"{number:,} {reason}" for reason, number in self.left_out.items()]
            lines.append(f"Left out: {'; '.join(parts)}.")
        return "\n".join([*lines, *(f"Note: {remark}." for remark in self.remarks)])


def is_writing_prompts(data: Any) -> bool:
    """Whether `data` names r/writingPrompts: on the Hub, or parquet files with its columns."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    if not isinstance(data, (str, Path)) or not str(data):
        return False
    path = Path(data)
    if str(data) == WRITING_PROMPTS:
        return True
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or files[0].suffix.lower() != ".parquet":
        return False
    with suppress(OSError, ArrowException):  # what cannot be read is told where it is read
        return len(set(POST_COLUMNS) & set(read_schema(files[0]).names)) > 1
    return False


@needs("train")
def load_stories(
    data: str | Path | pd.DataFrame = "bundled", columns: str | Mapping[str, str] = ""
) -> pd.DataFrame:
    """Responses as a new frame, one a row, in the order of the file.

    It has at least prompt_id (default: the prompt), prompt, text, score (default: NaN), source,
    writer, split (default: train). A bundled story's score is the mean of two judges, 1 to 10.
    What is left out, and what is to be known of the data, is said in a warning; `read_stories`
    gives it as an object.

    Args:
        data: "bundled" (data/stories.jsonl), the path of a JSONL, JSON, CSV, TSV or parquet file,
            or a pandas frame. It needs the columns `prompt` and `text`, and for pairs `score`
            (higher is better); or `prompt`, `chosen` and `rejected`, or chats as `messages`. Two
            responses a prompt make DDPO the same as DPO. Every other column is kept.
        columns: the fields' names in the file, such as "text=output,prompt=instruction".

    Raises:
        CourseError: the data cannot be read, are empty, or have a faulty row; names that row.
    """
    frame, reading = read_stories(data, columns)
    if reading.left_out or reading.remarks:
        warnings.warn(str(reading), stacklevel=3)
    return frame


def read_stories(
    data: str | Path | pd.DataFrame, columns: str | Mapping[str, str] = ""
) -> tuple[pd.DataFrame, Reading]:
    """(frame of `load_stories`, what was left out of it and why); arguments and faults as there."""
    if is_writing_prompts(data):
        raise CourseError(f"{data} is r/writingPrompts: read it with corpus.writing_prompts.")
    if isinstance(data, pd.DataFrame):
        frame, name = data.reset_index(drop=True).astype(object), "the frame"
        if not frame.columns.is_unique or frame.columns.nlevels > 1:
            raise CourseError("The frame has two columns of one name, or columns in levels.")
        frame = frame.map(whole_text)
    else:
        path = data_dir() / "stories.jsonl" if str(data) == "bundled" else Path(data)
        frame, name = pd.DataFrame(read_rows(path, KNOWN_COLUMNS), dtype=object), path.name
    if frame.empty:
        raise CourseError(f"{name} holds no story: give one response a row with prompt and text.")
    reading = Reading(name, rows=len(frame))
    frame, remark = name_columns(frame, columns, name)
    frame = read_chats(frame, name, reading.left_out)
    frame = frame.assign(_row=np.arange(1, len(frame) + 1))
    if {"chosen", "rejected"} <= set(frame.columns) and "text" not in frame:
        frame = responses_of_pairs(_with_texts(frame, "prompt", reading), reading.left_out)
        if frame.empty:
            raise CourseError(f"{name} holds no pair of two texts, one chosen over the other.")
        reading.remarks.append("pairs were read as responses, scored by what they were chosen over")
    frame = _with_texts(frame, "prompt", reading)
    frame = _with_texts(frame, "text", reading)
    frame["score"] = _scores(frame, name)
    frame["split"] = _splits(frame, reading)
    for column, default in DEFAULTS.items():
        values = frame[column] if column in frame else pd.Series(None, frame.index, object)
        frame[column] = values.where(values.notna(), default).astype(str)
    frame = _without_copies(_with_prompt_ids(frame, name), reading)
    if remark:
        reading.remarks.append(remark)
    _remark_on_sizes(frame, reading)
    reading.responses, reading.prompts = len(frame), frame["prompt_id"].nunique()
    return frame.drop(columns=["_row", "_key"]).reset_index(drop=True).infer_objects(), reading


def _leave_out(frame: pd.DataFrame, faulty: Any, fault: str, reading: Reading) -> pd.DataFrame:
    """The frame without the faulty rows, which are counted; CourseError where they are too many."""
    faulty = np.asarray(faulty, dtype=bool)
    number = int(faulty.sum())
    if number > MOST_LEFT_OUT * len(frame):
        _refuse(frame, faulty, fault, reading.name)
    count(reading.left_out, f"with {fault}", number)
    return frame[~faulty]


def _refuse(frame: pd.DataFrame, faulty: Any, fault: str, name: str) -> None:
    """CourseError where a row is faulty."""
    rows = frame.loc[np.asarray(faulty, dtype=bool), "_row"].tolist()
    if len(rows) == 1:
        raise CourseError(f"Row {rows[0]} of {name} has {fault}: correct or delete that row.")
    if rows:
        raise CourseError(
            f"{len(rows)} of {len(frame)} rows of {name} have {fault}: correct or delete them; the "
            f"first is row {rows[0]}."
        )


def _with_texts(frame: pd.DataFrame, column: str, reading: Reading) -> pd.DataFrame:
    """The frame with whole, composed and stripped texts; rows without one are left out."""
    texts = frame[column].map(lambda value: isinstance(value, str))
    _refuse(frame, frame[column].notna() & ~texts, f"a {column} that is no text", reading.name)
    frame = frame.assign(**{column: frame[column].map(_clean, na_action="ignore")})
    return _leave_out(frame, frame[column].fillna("") == "", f"no {column}", reading)


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", plain_text(whole_text(text)))


def _scores(frame: pd.DataFrame, name: str) -> pd.Series:
    """The scores as floats, NaN where there is none; the mean of `judge_scores` if they are all."""
    given = frame.get("score")
    if given is None:
        given = frame.get("judge_scores", pd.Series(None, frame.index, object)).map(_mean)
    texts = given.map(lambda value: value.strip().lower() if isinstance(value, str) else value)
    scores = texts.mask(texts.isin(NO_SCORE)).map(_number, na_action="ignore")
    _refuse(frame, np.isinf(scores.astype(float)), "a score that is no number", name)
    return scores.astype(float)


def _mean(scores: Any) -> Any:
    try:
        return np.mean(scores) if isinstance(scores, (list, np.ndarray)) else scores
    except (TypeError, ValueError):
        return scores


def _number(value: Any) -> float:
    """The value as a float; infinity where it is no number."""
    try:
        return math.inf if "_" in str(value) else float(value)  # Python reads 1_0 as 10
    except (OverflowError, TypeError, ValueError):
        return math.inf


def _splits(frame: pd.DataFrame, reading: Reading) -> list[str]:
    """Each row's split, train or test; an empty cell is train."""
    given = frame.get("split")
    if given is None:
        return ["train"] * len(frame)
    names = given.map(lambda value: value.strip().lower() if isinstance(value, str) else value)
    names = names.where(names.notna(), "").tolist()
    wrong = dict.fromkeys(repr(value) for value in names if value not in ("train", "test", ""))
    if wrong:
        listed = ", ".join(list(wrong)[:9])
        raise CourseError(
            f"{reading.name} has splits other than train and test: {listed}: rename or delete "
            "those rows."
        )
    empty = names.count("")
    if 0 < empty < len(names):
        reading.remarks.append(f"{empty} rows without a split are taken for training")
    return [value or "train" for value in names]


def _with_prompt_ids(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The frame with one prompt_id and one spelling of each prompt, and with `_key`, its mark.

    Prompts that differ by spacing or Unicode form alone are one, under the first's id and spelling.
    """
    frame = frame.assign(_key=frame["prompt"].map(same_text))
    frame["prompt"] = frame.groupby("_key")["prompt"].transform("first")
    if "prompt_id" not in frame:
        return frame.assign(prompt_id=frame["prompt"])
    ids = frame["prompt_id"]
    faulty = ids.map(lambda value: isinstance(value, (list, dict, np.ndarray)))
    _refuse(frame, faulty, "a prompt_id that is no text or number", name)
    empty = ids.isna() | (ids.astype(str).str.strip() == "")
    if ids[~empty].map(type).nunique() > 1:
        ids = ids.astype(str)  # 7 and "7" could not be sorted
    shared = frame["_key"][~empty].groupby(ids[~empty]).nunique()
    if (shared > 1).any():
        raise CourseError(
            f"{name} has two different prompts with prompt_id {shared.idxmax()}: give each its own."
        )
    first = ids.mask(empty).groupby(frame["_key"]).transform("first")
    return frame.assign(prompt_id=first.where(first.notna(), frame["prompt"]))


def _without_copies(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """The frame without training rows that a test prompt, a copy or a lacking score spoils.

    Rows without a score stay where no training row has one.
    """
    in_test = frame["_key"].isin(frame.loc[frame["split"] == "test", "_key"])
    leaked = in_test & (frame["split"] == "train")
    frame = _leave_out(frame, leaked, "a test prompt in training", reading)
    texts = frame["text"].map(same_text)
    ranked = frame.assign(_text=texts).sort_values("score", ascending=False, kind="stable")
    copy = ranked.duplicated(["_key", "_text"]).reindex(frame.index)
    count(reading.left_out, "copies of a response (the best score stays)", int(copy.sum()))
    frame = frame[~copy]
    train = frame["split"] == "train"
    unscored = frame["score"].isna() & train
    if unscored.sum() < train.sum():
        count(reading.left_out, "without a score", int(unscored.sum()))
        frame = frame[~unscored]
    return frame


def _remark_on_sizes(frame: pd.DataFrame, reading: Reading) -> None:
    """Says where deviation cannot tell a prompt's responses apart."""
    train = frame[(frame["split"] == "train") & frame["score"].notna()]
    sizes = train.groupby("_key").size()
    few = int((sizes < 3).sum())
    if 2 * few > len(sizes):
        reading.remarks.append(
            f"{few} of {len(sizes)} training prompts have two responses or fewer: all their "
            "deviation weights are 1, which makes DDPO the same as DPO; give each three or more"
        )


def load_prompts() -> pd.DataFrame:
    """The 40 further prompts without stories (prompt_id, prompt, split), for tests that sample."""
    return pd.DataFrame(read_jsonl(data_dir() / "test_prompts.jsonl"))


def decisions() -> dict[str, Any]:
    """What was fixed before any test prompt was read: data/decisions.json."""
    return read_json(data_dir() / "decisions.json")


def development_prompts() -> list[str]:
    """Ids of the training prompts on which settings are chosen; none is a test prompt."""
    return list(decisions()["development_prompts"])
