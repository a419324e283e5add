"""Preference pairs from scored responses, and the control of shuffled weights.

`stories` is a pandas frame, one response a row: prompt_id, prompt, text, score (higher is better).
A frame of pairs has one pair a row: prompt_id, prompt, chosen, rejected (texts), chosen_row,
rejected_row (index labels in `stories`), gap (difference of the scores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["make_pairs", "pair_frame", "prompt_positions", "shuffled_weights"]


def make_pairs(stories: pd.DataFrame, min_gap: float = 0.0, seed: int = 42) -> pd.DataFrame:
    """Pairs within each prompt: random partners, each response used once, ties never paired.

    Pairs whose scores differ by `min_gap` come first, then pairs with any difference.

    Raises:
        ValueError: a score is missing, the index repeats, or no pair can be made.

    Source: arXiv 2503.17126, section 4 (which takes a gap of 5 votes).
    """
    rng = np.random.default_rng(seed)
    scores = stories["score"].tolist()
    pairs = []
    for positions in prompt_positions(stories):
        free = positions[rng.permutation(len(positions))].tolist()
        for gap in dict.fromkeys((min_gap, 0.0)):
            unpaired = []
            while free:
                i = free.pop()
                partners = [
                    j for j in free if scores[i] != scores[j] and abs(scores[i] - scores[j]) >= gap
                ]
                if not partners:
                    unpaired.append(i)
                    continue
                j = partners[rng.integers(len(partners))]
                free.remove(j)
                pairs.append((i, j) if scores[i] > scores[j] else (j, i))
            free = unpaired
    return pair_frame(stories, pairs)


def shuffled_weights(pairs: pd.DataFrame, weight: Sequence[float], seed: int) -> np.ndarray:
    """The control: the pairs' weights (N,), permuted at random among the pairs of each prompt."""
    rng = np.random.default_rng(seed)
    shuffled = np.array(weight, dtype=float)
    by_prompt = pairs.reset_index(drop=True).groupby("prompt_id", sort=True)
    for positions in by_prompt.indices.values():
        shuffled[positions] = shuffled[rng.permutation(positions)]
    return shuffled


def prompt_positions(stories: pd.DataFrame) -> list[np.ndarray]:
    """Row positions of each prompt (a frame for each of 95,000 prompts would take long)."""
    missing = stories["score"].isna()
    if missing.any():
        label = stories.index[missing][0]
        raise ValueError(f"The response with index {label} has no score: pairs need one for each.")
    if not stories.index.is_unique:
        raise ValueError("The frame's index repeats: call reset_index(drop=True) on it first.")
    number = stories.groupby("prompt_id", sort=True).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def pair_frame(stories: pd.DataFrame, pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """The frame of pairs from positions of (chosen, rejected)."""
    import pandas as pd

    if not pairs:
        raise ValueError("No pair can be made: give some prompt two responses of different scores.")
    winners, losers = np.array(pairs).T
    columns = stories[["prompt_id", "prompt", "text", "score"]]
    chosen, rejected = (columns.iloc[rows].reset_index(drop=True) for rows in (winners, losers))
    frame = {"prompt_id": chosen["prompt_id"], "prompt": chosen["prompt"]}
    frame |= {"chosen_row": stories.index[winners], "rejected_row": stories.index[losers]}
    frame |= {"gap": chosen["score"] - rejected["score"]}
    frame |= {"chosen": chosen["text"], "rejected": rejected["text"]}
    return pd.DataFrame(frame, copy=False)
