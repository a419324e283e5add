"""Preference pairs from scored responses, and the control of shuffled weights.

`stories` is a pandas frame, one response a row: prompt_id, prompt, text, score (higher is better).
A frame of pairs has one pair a row: prompt_id, prompt, chosen, rejected (texts), chosen_row,
rejected_row (index labels in `stories`), gap (difference of the scores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .deviation import LARGEST, brief, check_numbers, is_number

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["prompt_id", "prompt", "text", "score"]

__all__ = ["make_pairs", "pair_frame", "prompt_positions", "shuffled_weights"]


def make_pairs(stories: pd.DataFrame, min_gap: float = 0.0, seed: int = 42) -> pd.DataFrame:
    """Pairs within each prompt: random partners, each response used once.

    Pairs whose scores differ by `min_gap` come first, then pairs with any difference. Equal scores
    and equal texts are never paired. A prompt of two responses has weights of 1: DDPO is then DPO.

    Raises:
        ValueError: `min_gap` is no number from 0, a column, score or id is missing or faulty, the
            index repeats, or no pair can be made.

    Source: arXiv 2503.17126, section 4 (which takes a gap of 5 votes).
    """
    if not is_number(min_gap):
        raise ValueError(f"min_gap is {brief(min_gap)}: give a difference of scores, 0 at least.")
    prompts = prompt_positions(stories)
    scores, texts = stories["score"].tolist(), stories["text"].tolist()
    rng = np.random.default_rng(seed)
    pairs = []
    for positions in prompts:
        free = positions[rng.permutation(len(positions))].tolist()
        for gap in dict.fromkeys((min_gap, 0.0)):
            unpaired = []
            while free:
                i = free.pop()
                partners = []
                for j in free:
                    distance = abs(scores[i] - scores[j])
                    if distance > 0 and distance >= gap and texts[i] != texts[j]:
                        partners.append(j)
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
    shuffled = np.array(check_numbers(weight, "weight"), dtype=float)
    if len(shuffled) != len(pairs):
        raise ValueError(f"weight must hold {len(pairs)} numbers; got {len(shuffled)}.")
    by_prompt = pairs.reset_index(drop=True).groupby("prompt_id", sort=True)
    for positions in by_prompt.indices.values():
        shuffled[positions] = shuffled[rng.permutation(positions)]
    return shuffled


def prompt_positions(stories: pd.DataFrame) -> list[np.ndarray]:
    """Row positions of each prompt (a frame for each of 95,000 prompts would take long).

    ValueError: a column is missing, a score is no number, an id is missing, or the index repeats.
    """
    columns = list(getattr(stories, "columns", []))
    for name in COLUMNS:
        if columns.count(name) != 1:
            raise ValueError(f"Give a frame with one column {name!r}; got {brief(columns)}.")
    if not stories.index.is_unique:
        raise ValueError("The frame's index repeats: call reset_index(drop=True) on it first.")
    scored = np.array([is_number(score, -LARGEST) for score in stories["score"].tolist()], bool)
    faulty = stories["prompt_id"].isna().to_numpy() | ~scored
    if faulty.any():
        label = stories.index[faulty][0]
        raise ValueError(f"The response with index {label} has no finite score or no prompt_id.")
    number = stories.groupby("prompt_id", sort=True).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def pair_frame(stories: pd.DataFrame, pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """The frame of pairs from positions of (chosen, rejected)."""
    import pandas as pd

    if not pairs:
        raise ValueError("No pair can be made: give some prompt two responses of different scores.")
    winners, losers = np.array(pairs).T
    columns = stories[COLUMNS]
    chosen, rejected = (columns.iloc[rows].reset_index(drop=True) for rows in (winners, losers))
    frame = {"prompt_id": chosen["prompt_id"], "prompt": chosen["prompt"]}
    frame |= {"chosen_row": stories.index[winners], "rejected_row": stories.index[losers]}
    frame |= {"gap": chosen["score"] - rejected["score"]}
    frame |= {"chosen": chosen["text"], "rejected": rejected["text"]}
    return pd.DataFrame(frame, copy=False)
