"""Plot summaries, which raters are shown in place of long stories, as in arXiv 2503.17126."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation.usability import require_texts
from ..models.answers import LocalModel, get_answers
from ..models.endpoint import Endpoint
from ..settings import CourseError

# In this project's words: the instruction in the paper's code is never sent with a story.
INSTRUCTION = (
    "Summarise the plot of the story below for someone who will not read it: who is in it, what "
    "happens, and how it ends. Take three or four sentences of your own and at most 100 words. Add "
    "nothing that the story does not say, and no opinion of it. If the story breaks off, say "
    "where. Write the summary and nothing else."
)


def _fault(summary: dict[str, Any], story: str) -> str:
    """What is wrong with a summary, "" if nothing is."""
    if not summary["text"]:
        return "empty"
    if not summary["finished"]:
        return "cut"
    if len(summary["text"].split()) >= len(story.split()):
        return "as long as the story"
    return ""


def summarise(
    samples: pd.DataFrame,
    path: str | Path,
    model: Endpoint | LocalModel,
    longer_than: int = 150,
    max_tokens: int = 300,
) -> pd.DataFrame:
    """The samples with a summary of the plot in place of each text above `longer_than` words.

    Stories that are compared need summaries by one model: give both systems' samples the same
    `path` and `model`. Where a summary fails, the story stays whole; how many did is printed.

    Args:
        path: JSONL file of the summaries, in which a stopped call goes on (`get_answers`).
        max_tokens: longest summary in tokens; a reasoning model's reasoning counts.

    Returns:
        A copy with text (what raters see), story (the whole one), summarised (bool) and
        summary_fault ("empty", "cut" or "as long as the story" where a summary failed, else "").
    """
    require_texts(samples, ["text"])
    if "summarised" in samples:
        raise CourseError("Summaries are made only once of the same samples.")
    result = samples.assign(story=samples["text"], summarised=False, summary_fault="")
    long = result["story"].str.split().str.len() > longer_than
    stories = result.loc[long, "story"].tolist()
    if not stories:
        return result
    requests = [f"{INSTRUCTION}\n\nThe story:\n\n{story}" for story in stories]
    records = get_answers(requests, path, model, max_tokens)
    faults = [_fault(record, story) for record, story in zip(records, stories, strict=True)]
    result.loc[long, "summary_fault"] = faults
    result.loc[long, "summarised"] = [not fault for fault in faults]
    result.loc[long, "text"] = [record["text"] for record in records]
    failed = result["summary_fault"] != ""
    result.loc[failed, "text"] = result["story"]
    if failed.any():
        kinds = ", ".join(result["summary_fault"][failed].unique())
        print(
            f"{failed.sum()} of {len(stories)} summaries failed ({kinds}): these stories are shown "
            "whole. Another model or a larger max_tokens, with another path, may do better."
        )
    return result
