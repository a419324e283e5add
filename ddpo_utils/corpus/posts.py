"""Posts of r/writingPrompts: read in batches, and cleaned by rules that are counted.

The rules follow arXiv 2503.17126, its data section; those for removed posts, empty comments and
comments posted twice are added here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..settings import WRITING_PROMPTS, CourseError, progress_bar
from .text import plain_text

TWICE = "comment posted twice (best-voted copy stays)"
RULES = (  # in the order in which they apply: a comment is counted under the first that removes it
    "faulty row (no title, lists missing or unequal)",
    "post removed or deleted",
    "post without title and text",
    "comment by moderators",
    "comment removed or deleted",
    "comment empty",
    "comment without votes",
    TWICE,
    "post without response left",
    "post not drawn",
    "response too long with its prompt",
    "post without response short enough",
)
MODERATORS = re.compile(
    r"\*\*welcome to the prompt!\*\*|this submission has been removed|\*\*off-topic discussion\*\*",
    re.IGNORECASE,
)
REMOVED = re.compile(r"\[\s*(removed|deleted)(\s+by\s[^\]]*)?\]", re.IGNORECASE)
TAG = re.compile(r"\A\[[^\]]*\]\s*")
COLUMNS = ("post_title", "post_text", "comment_texts", "comment_scores")
BATCH = 1000  # posts read at a time, and conversations tokenised at a time

Counts = dict[str, np.ndarray]  # [posts, responses] that were read, and that each rule removed


def parquet_files(source: str | Path) -> list[Path]:
    """The parquet files of a local source in order of path; none where `source` is the Hub's."""
    files = sorted(Path(source).rglob("*.parquet")) or [Path(source)]
    if str(source) != WRITING_PROMPTS and not files[0].is_file():
        raise CourseError(f"There is no parquet file at {source}: check the path.")
    return [file for file in files if file.is_file()]


def _read_batches(source: str | Path) -> Iterator[list[dict[str, Any]]]:
    """The source's rows in order, in lists of at most 1,000; one list is in memory at a time."""
    from pyarrow.parquet import ParquetFile

    name, columns = str(source), list(COLUMNS)
    files = parquet_files(source)
    try:
        if files:  # not by `datasets`, which fills in columns that one of the files lacks
            parts = [ParquetFile(path) for path in files]
            found = [part.schema_arrow.names for part in parts]
            tables = chain(*(part.iter_batches(BATCH, columns=columns) for part in parts))
        else:
            from datasets import load_dataset

            data = load_dataset(name, split="train").with_format("arrow")
            found = [data.column_names]
            tables = data.iter(BATCH)
        for names in found:
            if not set(COLUMNS) <= set(names):
                raise CourseError(f"{name} lacks one of the columns {', '.join(COLUMNS)}.")
        for table in progress_bar(tables, desc="posts", unit=" posts", unit_scale=BATCH):
            yield table.select(columns).to_pylist()
    except CourseError:
        raise
    except Exception as error:  # each library has its own
        advice = "check the file" if files else "connect to a network, or give a parquet file"
        raise CourseError(f"{name} cannot be read ({type(error).__name__}): {advice}.") from None


def _comment_rule(text: str, score: Any, kept: dict[str, float]) -> str:
    """The rule that removes a comment; empty for a response."""
    if MODERATORS.search(text):
        return "comment by moderators"
    if REMOVED.fullmatch(text):
        return "comment removed or deleted"
    if not text:
        return "comment empty"
    if score is None or not math.isfinite(score):
        return "comment without votes"
    return TWICE if text in kept else ""  # two copies have distance 0, and could become a pair


def _clean_post(row: dict[str, Any], counts: Counts) -> list[tuple[str, str, str, float]]:
    """(title, prompt, text, votes) of each response of a post; none where a rule removes the post.

    The prompt is the title without its leading [tag], a line end, and the text if there is one.
    """
    texts, scores = row["comment_texts"], row["comment_scores"]
    size = np.array([1, len(texts or [])])
    counts["read"] += size
    tagged, body = plain_text(row["post_title"]), plain_text(row["post_text"])
    title = TAG.sub("", tagged)
    rule = ""
    if None in (row["post_title"], texts, scores) or len(texts) != len(scores):
        rule = "faulty row (no title, lists missing or unequal)"
    elif any(REMOVED.fullmatch(part) for part in (tagged, title, body)):
        rule = "post removed or deleted"
    elif not title and not body:
        rule = "post without title and text"
    if rule:
        counts[rule] += size
        return []
    kept: dict[str, float] = {}
    for text, score in zip(map(plain_text, texts), scores, strict=True):
        rule = _comment_rule(text, score, kept)
        if rule:
            counts[rule] += (0, 1)
        if rule in ("", TWICE):
            kept[text] = max(float(score), kept.get(text, -math.inf))
    counts["post without response left"] += (not kept, 0)
    return [(title, f"{title}\n{body}".strip(), text, votes) for text, votes in kept.items()]


def clean_posts(source: str | Path, counts: Counts) -> pd.DataFrame:
    """All responses that the rules leave: prompt_id, title, prompt, text, score."""
    columns = ["prompt_id", "title", "prompt", "text", "score"]
    # a frame for each batch: pandas 3 keeps texts as UTF-8, in half the memory of Python's strings
    frames = [pd.DataFrame(columns=columns)]
    place = 0
    for rows in _read_batches(source):
        cleaned = []
        for row in rows:
            try:
                responses = _clean_post(row, counts)
            except (AttributeError, TypeError):
                raise CourseError(f"Post {place} of {source} has a column of wrong type.") from None
            cleaned += [(f"wp{place:06d}", *response) for response in responses]
            place += 1
        frames.append(pd.DataFrame(cleaned, columns=columns))
    return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
