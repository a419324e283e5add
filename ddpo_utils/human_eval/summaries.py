"""Plot summaries of long stories, for raters: what they are shown in place of what would take too long to read.

The raters of arXiv 2503.17126 saw summaries of plots. The instruction that its authors' code builds is never sent with
the story; the one below is (`summary_request`), in this project's own words.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.answers import LocalModel, get_answers
from ..models.calls import Endpoint
from ..settings import CourseError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["summarise", "summary_request"]

INSTRUCTION = (
    "Summarise the plot of the story below for someone who will not read it: who is in it, what happens, and how it "
    "ends. Take three or four sentences of your own and at most 100 words. Add nothing that the story does not "
    "say, and no opinion of it. If the story breaks off, say where. Write the summary and nothing else."
)


def summary_request(story: str) -> str:
    """What a model is asked for one summary: the instruction, then the story."""
    return f"{INSTRUCTION}\n\nThe story:\n\n{story}"


def _fault(summary: str, finished: bool, story: str) -> str:
    """What is wrong with a summary, "" if nothing is."""
    if not summary:
        return "empty"
    if not finished:
        return "cut"
    return "as long as the story" if len(summary.split()) >= len(story.split()) else ""


def summarise(
    samples: pd.DataFrame,
    path: str | Path,
    model: Endpoint | LocalModel,
    longer_than: int = 150,
    max_tokens: int = 300,
    progress: bool = True,
) -> pd.DataFrame:
    """The samples with the summary of its plot in place of each story of more than `longer_than` words.

    Stories compared with each other need summaries by one model: give both systems' samples, one after the other or
    together, the same `path` and `model`. A summary that failed is not shown: its story is kept whole, and how many
    did is printed. Words are what stands between spaces.

    Args:
        samples: a frame with `text`.
        path: JSONL file of the summaries; a call that was stopped, made again, goes on there (`get_answers`).
        model: an endpoint, or a local model.
        longer_than: words that a story may have without being summarised.
        max_tokens: longest summary in tokens; a reasoning model's reasoning counts, so it needs more.
        progress: show a progress bar.

    Returns:
        A copy with the columns text (what raters see), story (the whole one), summarised (bool: text is a summary;
        `comparisons.build_comparisons` tells raters) and summary_fault (of a summary that failed: "empty", "cut" or
        "as long as the story"; else "").

    Raises:
        CourseError: the frame has no texts, or is summarised already; as `get_answers`.
    """
    if "text" not in samples or "summarised" in samples or samples["text"].isna().any():
        raise CourseError("Summaries are made of samples with a text in each row, and only once.")
    found = samples.assign(story=samples["text"], summarised=False, summary_fault="")
    long = found["story"].str.split().str.len() > longer_than
    texts = found.loc[long, "story"].tolist()
    if texts:
        records = get_answers(
            [summary_request(text) for text in texts], path, model, max_tokens, progress
        )
        faults = [
            _fault(r["text"], r["finished"], story) for r, story in zip(records, texts, strict=True)
        ]
        shown = [
            story if fault else r["text"]
            for r, story, fault in zip(records, texts, faults, strict=True)
        ]
        found.loc[long, "text"], found.loc[long, "summary_fault"] = shown, faults
        found.loc[long, "summarised"] = [not fault for fault in faults]
        kinds = Counter(filter(None, faults))
        if kinds:
            said = ", ".join(f"{number} {fault}" for fault, number in kinds.items())
            print(
                f"{kinds.total()} of {len(texts)} summaries failed ({said}): these stories are shown whole. Another "
                "model or a larger max_tokens, with another path, may do better."
            )
    return found
