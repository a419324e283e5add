"""Before training: what is in your data, and what a deviation weight really goes with.

A weight cannot tell a rare idea from a rare fault. So the audit asks of the data what can be counted (copies, lengths,
ties, pairs) and of the weights how much of them the writer, the length or the score would explain by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .text import words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["audit_prompts", "copies", "explained", "most_pairs"]


def copies(stories: pd.DataFrame) -> pd.Series:
    """Whether a response of the same prompt further up has the same words, whatever its case, spaces and marks (bool).

    Args:
        stories: a frame of `corpus.load_stories`.
    """
    bare = stories["text"].map(lambda text: " ".join(words(text)) or text.strip())
    return stories.assign(bare=bare).duplicated(["prompt_id", "bare"])


def most_pairs(scores: Any) -> int:
    """How many pairs one prompt can give at most, each response used once and equal scores never paired.

    Only a score that more than half of the responses share is in the way: its surplus finds no partner.
    """
    scores = np.asarray(scores)
    if not len(scores):
        return 0
    commonest = np.unique(scores, return_counts=True)[1].max()
    return int(min(len(scores) // 2, len(scores) - commonest))


def audit_prompts(stories: pd.DataFrame) -> pd.DataFrame:
    """What each prompt brings: one row a prompt, in order of appearance.

    Args:
        stories: a frame of `corpus.load_stories`.

    Returns:
        A frame with responses, writers (distinct names), copies, shortest and longest (words), tied (responses whose
        score another one shares), unscored, pairs (that its scores allow at most).
    """
    frame = stories.assign(
        words=stories["text"].map(lambda text: len(words(text))),
        copy=copies(stories),
        tied=stories.duplicated(["prompt_id", "score"], keep=False) & stories["score"].notna(),
    )
    groups = frame.groupby("prompt_id", sort=False)
    table = groups.agg(
        responses=("text", "size"),
        writers=("writer", "nunique"),
        copies=("copy", "sum"),
        shortest=("words", "min"),
        longest=("words", "max"),
        tied=("tied", "sum"),
        unscored=("score", lambda scores: int(scores.isna().sum())),
    )
    return table.assign(pairs=groups["score"].agg(lambda scores: most_pairs(scores.dropna())))


def _share(weight: np.ndarray, by: np.ndarray) -> float:
    """Share of the variance that the means of groups explain, or for numbers the squared correlation."""
    if not weight.std():
        return 0.0
    if by.dtype.kind in "biuf":
        return float(np.corrcoef(weight, by)[0, 1] ** 2) if by.std() else 0.0
    _, group = np.unique(by.astype(str), return_inverse=True)
    means = np.bincount(group, weight) / np.bincount(group)
    return float(means[group].var() / weight.var())


def explained(
    weight: Any, by: Any, groups: Any, draws: int = 400, seed: int = 0
) -> tuple[float, float]:
    """How much of the weights' variance something else explains, and how much chance would.

    Args:
        weight: (N,) weights; a response without one (NaN) is left out.
        by: (N,) numbers (length, score: the squared correlation) or names (writer: the variance between their means).
        groups: (N,) prompt ids; for the level of chance the weights are dealt anew within each prompt.
        draws, seed: of the dealing.

    Returns:
        The share, 0 to 1, and the share that 95 of 100 random deals stay below. Many names explain much by chance.

    Raises:
        ValueError: the three differ in length.
    """
    weight, by, groups = np.asarray(weight, dtype=float), np.asarray(by), np.asarray(groups)
    if not len(weight) == len(by) == len(groups):
        raise ValueError(
            f"There are {len(weight)} weights, {len(by)} values and {len(groups)} groups: give one each."
        )
    known = ~np.isnan(weight)
    weight, by, groups = weight[known], by[known], groups[known]
    rng, own = (
        np.random.default_rng(seed),
        [np.flatnonzero(groups == name) for name in np.unique(groups)],
    )
    dealt, shares = weight.copy(), []
    for _ in range(draws):
        for places in own:
            dealt[places] = weight[rng.permutation(places)]
        shares.append(_share(dealt, by))
    return _share(weight, by), float(np.quantile(shares, 0.95))
