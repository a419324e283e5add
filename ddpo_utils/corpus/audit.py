"""The audit of your data before training: what can be counted, and what the weights go with.

A weight cannot tell a rare idea from a rare fault. So the audit counts copies, lengths, ties and
pairs, and measures how much of the weights writer, length or score would explain alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .text import words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["audit_prompts", "copies", "explained", "most_pairs"]


def copies(stories: pd.DataFrame) -> pd.Series:
    """(rows,) bool, whether an earlier response of the prompt has the same words."""
    bare = stories["text"].map(lambda text: " ".join(words(text)) or text.strip())
    return stories.assign(bare=bare).duplicated(["prompt_id", "bare"])


def most_pairs(scores: Any) -> int:
    """The most pairs that one prompt can give, each response used once, equal scores never paired.

    Only a score that more than half of the responses have leaves responses without a partner.
    """
    scores = np.asarray(scores)
    if not len(scores):
        return 0
    commonest = np.unique(scores, return_counts=True)[1].max()
    return int(min(len(scores) // 2, len(scores) - commonest))


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
    groups = frame.groupby("prompt_id", sort=False)
    table = groups.agg(
        responses=("text", "size"),
        writers=("writer", "nunique"),
        copies=("copy", "sum"),
        shortest=("words", "min"),
        longest=("words", "max"),
        tied=("tied", "sum"),
        unscored=("unscored", "sum"),
    )
    return table.assign(pairs=groups["score"].agg(lambda scores: most_pairs(scores.dropna())))


def _share(weights: np.ndarray, values: np.ndarray) -> float:
    """Share of the variance that group means explain; for numbers the squared correlation."""
    if not weights.std():
        return 0.0
    if values.dtype.kind in "biuf":
        return float(np.corrcoef(weights, values)[0, 1] ** 2) if values.std() else 0.0
    _, group = np.unique(values.astype(str), return_inverse=True)
    means = np.bincount(group, weights) / np.bincount(group)
    return float(means[group].var() / weights.var())


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
    weights, values, prompts = np.asarray(weight, dtype=float), np.asarray(by), np.asarray(groups)
    if not len(weights) == len(values) == len(prompts):
        sizes = f"{len(weights)} weights, {len(values)} values and {len(prompts)} groups"
        raise ValueError(f"There are {sizes}: give one each.")
    known = ~np.isnan(weights)
    weights, values, prompts = weights[known], values[known], prompts[known]
    rng, shares = np.random.default_rng(seed), []
    rows_of = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    dealt = weights.copy()
    for _ in range(draws):
        for rows in rows_of:
            dealt[rows] = weights[rng.permutation(rows)]
        shares.append(_share(dealt, values))
    return _share(weights, values), float(np.quantile(shares, 0.95))
