"""Stories in: the bundled ones, or your own from JSONL, CSV or a frame.

A corpus is a pandas frame with one response a row: prompt_id, prompt, text, score (the judges' mean
or the votes, where known), source, writer, split.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import WRITING_PROMPTS, CourseError, data_dir
from ..storage.files import read_json, read_jsonl

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "decisions",
    "development_prompts",
    "is_writing_prompts",
    "load_prompts",
    "load_stories",
]

DEFAULTS = {"score": np.nan, "source": "own", "writer": "", "split": "train"}


def is_writing_prompts(data: Any) -> bool:
    """Whether `data` names r/writingPrompts: on the Hub, a parquet file, or a folder of them."""
    if not isinstance(data, (str, Path)) or not str(data):
        return False
    path = Path(data)
    if str(data) == WRITING_PROMPTS or path.suffix.lower() == ".parquet":
        return True
    return path.is_dir() and any(path.rglob("*.parquet"))


def load_stories(data: str | Path | pd.DataFrame = "bundled") -> pd.DataFrame:
    """Responses as a new frame, one a row, in the order of the file.

    It has at least prompt_id (default: the prompt), prompt, text, score (default: NaN), source,
    writer, split (default: train). A bundled story's score is the mean of two judges, 1 to 10.

    Args:
        data: "bundled" (data/stories.jsonl), the path of a JSONL or CSV file, or a pandas frame.
            It needs the columns `prompt` and `text`, and for pairs `score` (higher is better).
            Every other column is kept.

    Raises:
        CourseError: the data cannot be read, are empty, or have a faulty row; names that row.
    """
    if is_writing_prompts(data):
        raise CourseError(f"{data} is r/writingPrompts: read it with corpus.writing_prompts.")
    frame, name = _read(data)
    if frame.empty:
        raise CourseError(f"{name} holds no story: give one response a row with prompt and text.")
    for column in ("prompt", "text"):
        if column not in frame:
            raise CourseError(f"{name} has no column {column!r}: it needs prompt and text.")
        empty = [not isinstance(text, str) or not text.strip() for text in frame[column]]
        _refuse(np.array(empty), name, f"no {column}")
    _set_scores(frame, name)
    for column, default in DEFAULTS.items():
        if column not in frame:
            frame[column] = default
    if "prompt_id" not in frame:
        frame["prompt_id"] = frame["prompt"]
    _refuse(frame["prompt_id"].isna(), name, "no prompt_id")
    ids = frame.drop_duplicates(["prompt_id", "prompt"])["prompt_id"]
    shared = ids[ids.duplicated()]
    if len(shared):
        raise CourseError(f"{name} has two different prompts with prompt_id {shared.iloc[0]}.")
    return frame


def _read(data: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """(rows, what messages call them)."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return data.reset_index(drop=True), "the frame"
    path = data_dir() / "stories.jsonl" if str(data) == "bundled" else Path(data)
    if path.suffix.lower() != ".csv":
        return pd.DataFrame(read_jsonl(path)), path.name
    try:
        frame = pd.read_csv(path, encoding="utf-8-sig", dtype={"prompt": str, "text": str})
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not CSV
        raise CourseError(f"{path} cannot be read as CSV ({type(error).__name__}).") from None
    return frame, path.name


def _refuse(faulty: Any, name: str, fault: str) -> None:
    if faulty.any():
        row = int(np.argmax(faulty)) + 1
        raise CourseError(f"Row {row} of {name} has {fault}: correct or delete that row.")


def _set_scores(frame: pd.DataFrame, name: str) -> None:
    """Makes `score` a column of floats, from `judge_scores` where the frame has no score."""
    import pandas as pd

    if "score" not in frame and "judge_scores" in frame:
        frame["score"] = frame["judge_scores"].map(np.mean, na_action="ignore")
    if "score" in frame:
        scores = pd.to_numeric(frame["score"], errors="coerce").astype(float)
        _refuse(frame["score"].notna() & ~np.isfinite(scores), name, "a score that is no number")
        frame["score"] = scores


def load_prompts() -> pd.DataFrame:
    """The 40 further prompts without stories (prompt_id, prompt, split), for tests that sample."""
    return _read(data_dir() / "test_prompts.jsonl")[0]


def decisions() -> dict[str, Any]:
    """What was fixed before any test prompt was read: data/decisions.json."""
    return read_json(data_dir() / "decisions.json")


def development_prompts() -> list[str]:
    """Ids of the training prompts on which settings are chosen; none is a test prompt."""
    return list(decisions()["development_prompts"])
