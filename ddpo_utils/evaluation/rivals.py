"""Why not just prompt? The table of all rivals at inference time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..settings import CourseError
from .usability import check_stories, prompt_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["rival_table"]

ENCODERS = {"semantic": "minilm", "style": "stylometric"}


def rival_table(
    samples: pd.DataFrame,
    encoders: Mapping[str, str] = ENCODERS,
    logprob_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """One row a source: diversity, quality's proxy, failures, and tokens paid per usable story.

    Args:
        samples: stories of any number of sources, of `read_samples`; each prompt of a source needs two stories.
        encoders: measure name -> encoder name.
        logprob_range: for `check_stories`, where the samples have a column `logp`.

    Returns:
        A frame indexed by source, in the order of the samples: stories; of each measure the mean over prompts, over
        all stories (empty ones are alike) and "(usable)" ones; usable (the share: the course's proxy of quality); the
        failures of `check_stories` as shares, and unreadable (share of stories that a verbalised answer did not hold
        in the form asked for; these are short as well); calls; prompt tokens and completion tokens per usable story
        (inf without one; prompt tokens NaN for samples of `sample_stories`, which does not record them).

    Raises:
        CourseError: a prompt of a source has fewer than two stories.
    """
    import pandas as pd

    sizes = samples.groupby(["source", "prompt_id"]).size()
    if not len(samples) or sizes.min() < 2:
        raise CourseError(
            "Diversity needs at least two stories of each source to every prompt: sample more."
        )
    checks = check_stories(samples, logprob_range=logprob_range)
    known = samples.reindex(columns=["calls", "prompt_tokens", "completion_tokens", "tokens"])
    completion = known["completion_tokens"].fillna(
        known["tokens"]
    )  # what sample_stories itself records
    rows = {}
    for source, frame in samples.groupby("source", sort=False):
        own = checks.loc[frame.index]
        table = prompt_table(frame, own, encoders)
        usable, index = int(own["usable"].sum()), frame.index
        faults = own[["short", "cut", "repeating", "off_topic", "implausible"]].mean()
        unreadable = (
            frame["unreadable"].fillna(False).astype(bool).mean() if "unreadable" in frame else 0.0
        )
        paid = {
            "prompt tokens": known["prompt_tokens"][index],
            "completion tokens": completion[index],
        }
        rows[source] = {
            "stories": len(frame),
            **table[[c for name in encoders for c in (name, f"{name} (usable)")]].mean(),
            "usable": own["usable"].mean(),
            **faults,
            "unreadable": unreadable,
            "calls": int(known["calls"][index].fillna(1).sum()),
            **{
                f"{name} per usable": float(v.sum(min_count=len(v))) / usable
                if usable
                else float("inf")
                for name, v in paid.items()
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
