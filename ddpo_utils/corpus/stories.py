"""Stories in: the bundled ones or your own, the splits, and preference pairs made from scores.

A corpus is a pandas frame with one response a row: prompt_id, prompt, text, and where known score (mean of the
judges, or votes), source, writer, split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import WRITING_PROMPTS, CourseError, data_dir

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "decisions",
    "development_prompts",
    "is_writing_prompts",
    "load_prompts",
    "load_stories",
]


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise CourseError(
            f"There is no stories file at {path}: check the path (JSONL or CSV, one response a row)."
        )
    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path, encoding="utf-8-sig", dtype={"prompt": str, "text": str})
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:  # of which not UTF-8 and not CSV are two
        raise CourseError(
            f"{path} cannot be read ({type(error).__name__}): save it as JSONL or CSV in UTF-8."
        ) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError:
                rows.append(None)
            if not isinstance(rows[-1], dict):
                raise CourseError(
                    f"Line {number} of {path} is not a JSON object: mend or delete that line."
                )
    return pd.DataFrame(rows)


def is_writing_prompts(data: Any) -> bool:
    """Whether `data` names r/writingPrompts: the Hub's, a parquet file, or a folder with parquet files in it."""
    if not isinstance(data, (str, Path)) or not str(data):
        return False
    path = Path(data)
    folder = path.is_dir() and any(path.rglob("*.parquet"))
    return str(data) == WRITING_PROMPTS or path.suffix.lower() == ".parquet" or folder


def load_stories(data: str | Path | pd.DataFrame = "bundled") -> pd.DataFrame:
    """Responses with their prompts as a frame, one a row, in the order of the file.

    Args:
        data: "bundled" (data/stories.jsonl), the path of a JSONL or CSV file, or a pandas frame. Your own needs
            the columns `prompt` and `text`; `score` (a number, higher is better) is needed for pairs; `prompt_id`
            (else the prompt itself tells prompts apart), `source`, `writer` and `split` are kept where present.

    Returns:
        A new frame with prompt_id, prompt, text, score, source, writer, split; score is NaN where none is known.
        For the bundled stories score is the mean of the two judges' scores (1 to 10).

    Raises:
        CourseError: no such file, unreadable, empty, or a row without a prompt or text; the message names the row.
    """
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        frame, name = data.copy(), "the frame"
    elif is_writing_prompts(data):
        raise CourseError(
            f"{data} is r/writingPrompts: read it with stories_of(profile, tokenizer, folder)."
        )
    else:
        path = data_dir() / "stories.jsonl" if str(data) == "bundled" else Path(data)
        frame, name = _read(path), path.name
    if frame.empty:
        raise CourseError(
            f"{name} holds no story: give one response a row with the columns prompt and text."
        )
    for column in ("prompt", "text"):
        if column not in frame:
            raise CourseError(
                f"{name} has no column {column!r}: it needs prompt and text, and score to make pairs."
            )
        faulty = (
            ~frame[column]
            .map(lambda value: isinstance(value, str) and bool(value.strip()))
            .to_numpy()
        )
        if faulty.any():
            raise CourseError(
                f"Row {int(np.argmax(faulty)) + 1} of {name} has no {column}: fill it in or delete the row."
            )
    frame = frame.reset_index(drop=True)
    if "judge_scores" in frame and "score" not in frame:
        frame["score"] = frame["judge_scores"].map(
            lambda scores: np.mean(scores) if _numbers(scores) else scores
        )
    if "score" in frame:
        scores = pd.to_numeric(frame["score"], errors="coerce")
        faulty = (~np.isfinite(scores) & frame["score"].notna()).to_numpy()
        if faulty.any():
            raise CourseError(
                f"Row {int(np.argmax(faulty)) + 1} of {name} has a score that is no number: mend it."
            )
        frame["score"] = scores.astype(float)
    for column, default in (
        ("score", np.nan),
        ("source", "own"),
        ("writer", ""),
        ("split", "train"),
    ):
        if column not in frame:
            frame[column] = default
    if "prompt_id" not in frame:
        frame["prompt_id"] = frame["prompt"]
    faulty = frame["prompt_id"].isna().to_numpy()
    if faulty.any():
        raise CourseError(
            f"Row {int(np.argmax(faulty)) + 1} of {name} has no prompt_id: fill it in."
        )
    ids = frame.drop_duplicates(["prompt_id", "prompt"])["prompt_id"]
    if ids.duplicated().any():
        raise CourseError(
            f"The prompt_id {ids[ids.duplicated()].iloc[0]} of {name} stands for two different prompts: "
            "give each prompt an id of its own."
        )
    return frame


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) > 0
        and all(isinstance(v, (int, float)) for v in values)
    )


def load_prompts(name: str = "test_prompts.jsonl") -> pd.DataFrame:
    """The 40 further prompts without stories (prompt_id, prompt, split), for tests that sample."""
    return _read(data_dir() / name)


def decisions() -> dict[str, Any]:
    """What was fixed before any test prompt was read: data/decisions.json, with its own explanations."""
    return json.loads((data_dir() / "decisions.json").read_text(encoding="utf-8"))


def development_prompts() -> list[str]:
    """Ids of the training prompts on which settings are chosen; no test prompt is ever among them."""
    return list(decisions()["development_prompts"])
