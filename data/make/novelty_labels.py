"""What NoveltyBench says of its answers: classes of alike ones, people's judgements of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from ddpo_utils.course import noveltybench
from ddpo_utils.course.noveltybench import SOURCES, Text, answers_folder, records_of
from ddpo_utils.storage.files import file_digest


class _Classes(TypedDict):
    id: Text
    partition: Annotated[list[int], Field(min_length=2)]


class _Pair(TypedDict):
    id: Text
    prompt: Text
    generation_0: Text
    generation_1: Text
    similar: Literal[0, 1]


def load_classes(folder: str | Path) -> pd.DataFrame:
    """Number of classes of alike answers, a row for each prompt and a column for each source.

    NoveltyBench made the classes by a classifier that was trained on people's judgements. `folder`
    and errors are those of `load_answers`.
    """
    counts = {}
    for source in SOURCES:
        records = records_of(list[_Classes], answers_folder(folder) / f"{source}.jsonl")
        counts[source] = {record["id"]: len(set(record["partition"])) for record in records}
    return pd.DataFrame(counts)


def load_labels(folder: str | Path, part: str) -> pd.DataFrame:
    """Pairs of answers that people judged: prompt_id, prompt, first, second, alike (bool).

    Args:
        folder: as of `load_answers`; the labels lie beside the answers.
        part: "train" (1,000 pairs), to choose thresholds on, or "val" (100), to test them once.

    Raises:
        CourseError: the file is missing or damaged.
    """
    pairs = pd.DataFrame(records_of(list[_Pair], answers_folder(folder) / f"labels-{part}.jsonl"))
    names = {"id": "prompt_id", "generation_0": "first", "generation_1": "second"}
    pairs = pairs.rename(columns=names).assign(alike=pairs["similar"] == 1)
    return pairs[["prompt_id", "prompt", "first", "second", "alike"]]


def changed_files(folder: str | Path) -> list[str]:
    """Names of DIGESTS whose file is missing or is not the recorded one."""
    place = answers_folder(folder)
    changed = []
    for name, digest in noveltybench.DIGESTS.items():
        path = place / f"{name}.jsonl"
        if not path.is_file() or file_digest(path) != digest:
            changed.append(name)
    return changed
