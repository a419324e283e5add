"""Stories in: the bundled ones or your own, the splits, and preference pairs made from scores.

A corpus is a pandas frame with one response a row: prompt_id, prompt, text, and where known score (mean of the
judges, or votes), source, writer, split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .profiles import WRITING_PROMPTS, CourseError, data_dir

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "decisions",
    "development_prompts",
    "is_writing_prompts",
    "load_prompts",
    "load_stories",
    "make_pairs",
    "to_dataset",
]


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise CourseError(f"There is no stories file at {path}: check the path (JSONL or CSV, one response a row).")
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
                raise CourseError(f"Line {number} of {path} is not a JSON object: mend or delete that line.")
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
        raise CourseError(f"{data} is r/writingPrompts: read it with stories_of(profile, tokenizer, folder).")
    else:
        path = data_dir() / "stories.jsonl" if str(data) == "bundled" else Path(data)
        frame, name = _read(path), path.name
    if frame.empty:
        raise CourseError(f"{name} holds no story: give one response a row with the columns prompt and text.")
    for column in ("prompt", "text"):
        if column not in frame:
            raise CourseError(f"{name} has no column {column!r}: it needs prompt and text, and score to make pairs.")
        faulty = ~frame[column].map(lambda value: isinstance(value, str) and bool(value.strip())).to_numpy()
        if faulty.any():
            raise CourseError(
                f"Row {int(np.argmax(faulty)) + 1} of {name} has no {column}: fill it in or delete the row."
            )
    frame = frame.reset_index(drop=True)
    if "judge_scores" in frame and "score" not in frame:
        frame["score"] = frame["judge_scores"].map(lambda scores: np.mean(scores) if _numbers(scores) else scores)
    if "score" in frame:
        scores = pd.to_numeric(frame["score"], errors="coerce")
        faulty = (~np.isfinite(scores) & frame["score"].notna()).to_numpy()
        if faulty.any():
            raise CourseError(f"Row {int(np.argmax(faulty)) + 1} of {name} has a score that is no number: mend it.")
        frame["score"] = scores.astype(float)
    for column, default in (("score", np.nan), ("source", "own"), ("writer", ""), ("split", "train")):
        if column not in frame:
            frame[column] = default
    if "prompt_id" not in frame:
        frame["prompt_id"] = frame["prompt"]
    faulty = frame["prompt_id"].isna().to_numpy()
    if faulty.any():
        raise CourseError(f"Row {int(np.argmax(faulty)) + 1} of {name} has no prompt_id: fill it in.")
    ids = frame.drop_duplicates(["prompt_id", "prompt"])["prompt_id"]
    if ids.duplicated().any():
        raise CourseError(
            f"The prompt_id {ids[ids.duplicated()].iloc[0]} of {name} stands for two different prompts: "
            "give each prompt an id of its own."
        )
    return frame


def _numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(isinstance(v, (int, float)) for v in values)


def load_prompts(name: str = "test_prompts.jsonl") -> pd.DataFrame:
    """The 40 further prompts without stories (prompt_id, prompt, split), for tests that sample."""
    return _read(data_dir() / name)


def decisions() -> dict[str, Any]:
    """What was fixed before any test prompt was read: data/decisions.json, with its own explanations."""
    return json.loads((data_dir() / "decisions.json").read_text(encoding="utf-8"))


def development_prompts() -> list[str]:
    """Ids of the training prompts on which settings are chosen; no test prompt is ever among them."""
    return list(decisions()["development_prompts"])


def make_pairs(stories: pd.DataFrame, min_gap: float = 0.0, seed: int = 42) -> pd.DataFrame:
    """Preference pairs within each prompt: random partners, each response used once, ties never paired.

    First pairs whose scores differ by at least `min_gap` are drawn until none is left, then pairs with any
    difference above 0 from what remains. (For r/writingPrompts votes the paper's authors use a gap of 5.)

    Args:
        stories: a frame of `load_stories` with a score in every row; its index must be unique.
        min_gap: wanted difference of the scores, in the score's own unit.
        seed: of the drawing; the same frame and seed give the same pairs.

    Returns:
        A frame, one pair a row: prompt_id, prompt, chosen, rejected (texts), chosen_row, rejected_row (index
        labels in `stories`), gap (score units).

    Raises:
        CourseError: a score is missing, or not a single pair can be made.

    Source: arXiv 2503.17126, section 4 (pairs of the training data).
    """
    rng = np.random.default_rng(seed)
    score, rows = stories["score"].tolist(), []
    for group in score_groups(stories):
        free = group[rng.permutation(len(group))].tolist()
        for gap in dict.fromkeys((min_gap, 0.0)):
            left = []
            while free:
                i = free.pop()
                fits = [j for j in free if score[i] != score[j] and abs(score[i] - score[j]) >= gap]
                if not fits:
                    left.append(i)
                    continue
                j = fits[rng.integers(len(fits))]
                free.remove(j)
                rows.append((i, j) if score[i] > score[j] else (j, i))
            free = left
    return pair_frame(stories, rows)


def score_groups(stories: pd.DataFrame) -> list[np.ndarray]:
    """Positions of each prompt's rows, the prompts in order of their ids; CourseError where pairs cannot be made.

    Positions, since a frame for each of 95,000 prompts would take most of the time.
    """
    if stories["score"].isna().any():
        first = stories[stories["score"].isna()].iloc[0]
        raise CourseError(
            f"The response with index {first.name} (prompt {first['prompt_id']}) has no score: pairs need one for each."
        )
    if not stories.index.is_unique:
        raise CourseError("The frame's index repeats: call reset_index(drop=True) on it before making pairs.")
    number = stories.groupby("prompt_id", sort=True).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def pair_frame(stories: pd.DataFrame, rows: list[tuple[int, int]]) -> pd.DataFrame:
    """The frame of `make_pairs` from positions of (chosen, rejected); CourseError where there are none."""
    import pandas as pd

    if not rows:
        raise CourseError(
            "No preference pair can be made: at least one prompt needs two responses whose scores differ."
        )
    chosen, rejected = (np.array(side) for side in zip(*rows, strict=True))

    def of(column: str, side: np.ndarray) -> pd.Series:  # a Series throughout: as Python strings texts take far more
        return stories[column].iloc[side].reset_index(drop=True)

    columns = {
        "prompt_id": of("prompt_id", chosen),
        "prompt": of("prompt", chosen),
        "chosen_row": stories.index[chosen],
        "rejected_row": stories.index[rejected],
        "gap": of("score", chosen) - of("score", rejected),
        "chosen": of("text", chosen),
        "rejected": of("text", rejected),
    }
    return pd.DataFrame(columns, copy=False)


def as_messages(role: str, text: str) -> list[dict[str, str]]:
    """One message in the conversational form that chat templates and TRL read."""
    return [{"role": role, "content": text}]


def to_dataset(pairs: pd.DataFrame, weight: Any = None) -> Any:
    """Pairs as a `datasets.Dataset` in TRL's conversational form, with a `weight` column.

    Args:
        pairs: a frame of `make_pairs`; log-probs of a reference in ref_chosen_logps, ref_rejected_logps travel along.
        weight: one number a pair, in the order of the frame; None gives 1 to every pair (plain DPO).

    Raises:
        ValueError: another number of weights than pairs.
    """
    from datasets import Dataset

    weight = [1.0] * len(pairs) if weight is None else [float(w) for w in weight]
    if len(weight) != len(pairs):
        raise ValueError(f"There are {len(pairs)} pairs and {len(weight)} weights: give one weight a pair.")
    columns = {
        "prompt": [as_messages("user", p) for p in pairs["prompt"]],
        "chosen": [as_messages("assistant", t) for t in pairs["chosen"]],
        "rejected": [as_messages("assistant", t) for t in pairs["rejected"]],
        "weight": weight,
    }
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        if column in pairs:
            columns[column] = pairs[column].tolist()
    return Dataset.from_dict(columns)
