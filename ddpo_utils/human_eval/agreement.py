"""Do the raters agree? Krippendorff's alpha with an interval over prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.statistics import Interval, bootstrap_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["agreement"]


def agreement(labels: pd.DataFrame, question: str, draws: int = 1000) -> Interval | None:
    """Krippendorff's alpha of the raters (nominal; 1: always agree, 0: as by chance), bootstrap interval over prompts.

    Items with one label count for nothing, as Krippendorff has it. The interval is a percentile one: with few prompts
    it is too narrow, and where all agree it has no width.

    Returns:
        None where alpha is not defined: no item has two labels, all such labels are the same one (nltk says 1 there;
        without variation nothing shows that raters can tell the systems apart), or there is one prompt.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), by nltk.metrics.agreement. nltk's `alpha`
    walks every label again, which for a thousand draws takes minutes; observed disagreement and counts of labels are
    sums over items, so draws add those of their prompts.
    """
    from nltk.metrics.agreement import AnnotationTask

    labels = labels.dropna(subset=[question])
    paired = labels[labels.groupby("item")["rater"].transform("size") > 1]
    if paired[question].nunique() < 2 or paired["prompt_id"].nunique() < 2:
        return None
    task = AnnotationTask(
        list(paired[["rater", "item", question]].itertuples(index=False, name=None))
    )
    counts = paired.groupby(["prompt_id", "item"])[question].value_counts().unstack(fill_value=0)
    observed = counts.apply(lambda row: task.Disagreement(row.to_dict()) * row.sum(), axis=1)
    disagreed, named = (frame.groupby("prompt_id").sum().to_numpy() for frame in (observed, counts))

    def alpha(drawn: np.ndarray) -> float:
        total = named[drawn].sum(axis=0)
        expected = task.Disagreement(dict(enumerate(total)))
        return 1 - disagreed[drawn].sum() / total.sum() / expected if expected else np.nan

    return replace(bootstrap_interval(alpha, len(named), draws), mean=float(task.alpha()))
