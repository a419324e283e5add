"""The audit of your data before training: what can be counted, and what the weights go with.

Rare ideas and rare faults both get large weights. So the audit counts copies, lengths, ties and
pairs, and measures how much of the weights writer, length or score would explain alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .text import words


def copies(stories: pd.DataFrame) -> pd.Series:
    """(rows,) bool, whether an earlier response of the prompt has the same words."""
    bare = [" ".join(words(text)) or text.strip() for text in stories["text"]]
    return stories.assign(bare=bare).duplicated(["prompt_id", "bare"])


def most_pairs(scores: Any) -> int:
    """The most pairs that one prompt can give, each response used once, equal scores never paired.

    Only a score that more than half of the responses have leaves responses without a partner.
    """
    _, counts = np.unique(np.asarray(scores), return_counts=True)
    total = counts.sum()
    return int(min(total // 2, total - counts.max(initial=0)))


def audit_prompts(stories: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt, in order of appearance, for a frame of `load_stories`.

    Columns: responses, writers (distinct names), copies, shortest and longest (words), tied
    (responses with a score that another one has), unscored, pairs (the most that scores allow).
    """
    scored = stories["score"].notna()
    frame = stories.assign(
        words=[len(words(text)) for text in stories["text"]],
        copy=copies(stories),
        tied=stories.duplicated(["prompt_id", "score"], keep=False) & scored,
        unscored=~scored,
    )

    def pairs(scores: pd.Series) -> int:
        return most_pairs(scores.dropna())

    return frame.groupby("prompt_id", sort=False).agg(
        responses=("text", "size"),
        writers=("writer", "nunique"),
        copies=("copy", "sum"),
        shortest=("words", "min"),
        longest=("words", "max"),
        tied=("tied", "sum"),
        unscored=("unscored", "sum"),
        pairs=("score", pairs),
    )


def _share(weights: np.ndarray, values: np.ndarray) -> float:
    """Share of the variance that group means explain; for numbers the squared correlation."""
    numbers = values.dtype.kind in "biuf"
    if not weights.std() or (numbers and not values.std()):
        return 0.0
    if numbers:
        return float(np.corrcoef(weights, values)[0, 1] ** 2)
    means = pd.Series(weights).groupby(values.astype(str)).transform("mean")
    return float(means.var() / weights.var(ddof=1))


def explained(
    weight: Any, by: Any, groups: Any, draws: int = 400, seed: int = 0
) -> tuple[float, float]:
    """Share of the weights' variance that something else explains, and the share by chance.

    Args:
        weight: (N,) weights; a response without one (NaN) is left out.
        by: (N,) numbers (length, score) or names (writer).
        groups: (N,) prompt ids. Chance: the weights dealt `draws` times within each prompt; 95 of
            100 deals stay below its share. Many names explain much by chance.
    """
    if not len(weight) == len(by) == len(groups):
        sizes = f"{len(weight)} weights, {len(by)} values and {len(groups)} groups"
        raise ValueError(f"There are {sizes}: give one each.")
    weights = np.asarray(weight, dtype=float)
    known = ~np.isnan(weights)
    weights, values, prompts = weights[known], np.asarray(by)[known], np.asarray(groups)[known]
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    shares = []
    dealt = weights.copy()
    for _ in range(draws):
        for rows in rows_of:
            dealt[rows] = weights[rng.permutation(rows)]
        shares.append(_share(dealt, values))
    return _share(weights, values), float(np.quantile(shares, 0.95))
