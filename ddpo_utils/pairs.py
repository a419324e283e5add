"""DivPO's preference pairs: the most deviant of a prompt's good responses over the least deviant of its bad ones.

Deviation chooses pairs here, where DDPO weights them; the pairs are then trained on by plain DPO. Source: Lanchantin et
al., "Diverse Preference Optimization", arXiv 2501.18101, in the form that arXiv 2503.17126 compares with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["divpo_pairs", "make_pairs", "shuffled_weights"]

SHARE, LEAST, PAIRS = (
    0.25,
    2,
    2,
)  # of a prompt's responses on each side, and responses at least; pairs at most


def divpo_pairs(
    stories: pd.DataFrame, deviation: Callable[[pd.DataFrame, np.ndarray], Any], seed: int = 42
) -> tuple[pd.DataFrame, int]:
    """DivPO's pairs, and the number of responses that are in none.

    Of a prompt's K responses the n best are good and the n worst are bad, n = max(2, K/4) rounded down, and K/2 at
    most. The most deviant good one is paired with the least deviant bad one, and then the next two; a good one goes to
    the least deviant free bad one with a lower score, or to none. With n = 2 (K below 12) two responses are equally
    far from each other, so deviation has no say: the better goes first, and so does the worse.

    Args:
        stories: a frame of `load_stories` with a score in every row; its index must be unique.
        deviation: takes rows of `stories`, the good and bad ones of all prompts, and their groups (N,), one number for
            each side of each prompt; returns (N,) deviations within the groups. For example
            `lambda rows, groups: deviation_weights(embedder.encode(rows["text"].tolist()), groups=groups)`.
        seed: which of several responses with the same score count as the better ones.

    Returns:
        (a frame as `make_pairs` gives it, the number of responses left unused).

    Raises:
        ValueError: a score is missing, or not a single pair can be made.
    """
    score, sides = stories["score"].to_numpy(dtype=float), []
    rng = np.random.default_rng(seed)
    for group in score_groups(stories):
        n = min(max(LEAST, int(SHARE * len(group))), len(group) // 2)
        order = rng.permutation(group)
        order = order[np.argsort(-score[order], kind="stable")]
        if n and score[order[0]] > score[order[-1]]:
            sides += [order[:n], order[::-1][:n]]  # the best first, the worst first
    rows, start = [], 0
    places = np.concatenate([*sides, np.empty(0, dtype=np.intp)]).astype(np.intp)
    groups = np.repeat(np.arange(len(sides)), [len(side) for side in sides])
    value = (
        np.asarray(deviation(stories.iloc[places], groups), dtype=float) if sides else np.empty(0)
    )
    for good, bad in zip(sides[::2], sides[1::2], strict=True):
        n, own = len(good), value[start : start + 2 * len(good)]
        start += 2 * n
        free = bad[np.argsort(own[n:], kind="stable")].tolist()
        made = 0
        for i in good[np.argsort(-own[:n], kind="stable")].tolist():
            j = next((j for j in free if score[j] < score[i]), None)
            if j is not None and made < PAIRS:
                free.remove(j)
                rows.append((i, j))
                made += 1
    return pair_frame(stories, rows), len(stories) - 2 * len(rows)


def make_pairs(stories: pd.DataFrame, min_gap: float = 0.0, seed: int = 42) -> pd.DataFrame:
    """Preference pairs within each prompt: random partners, each response used once, ties never paired.

    First pairs whose scores differ by at least `min_gap` are drawn until none is left, then pairs with any
    difference above 0 from what remains. (For r/writingPrompts votes the paper's authors use a gap of 5.)

    Args:
        stories: a frame of `load_stories` with a score in every row; its index must be unique.
        min_gap: wanted difference of the scores, in the score's own unit.
        seed: of the drawing; the same frame and seed give the same pairs.

    Returns:
        A frame, one pair a row: prompt_id, prompt, chosen, rejected (texts), chosen_row, rejected_row (index
        labels in `stories`), gap (score units).

    Raises:
        ValueError: a score is missing, or not a single pair can be made.

    Source: arXiv 2503.17126, section 4 (pairs of the training data).
    """
    rng = np.random.default_rng(seed)
    score, rows = stories["score"].tolist(), []
    for group in score_groups(stories):
        free = group[rng.permutation(len(group))].tolist()
        for gap in dict.fromkeys((min_gap, 0.0)):
            left = []
            while free:
                i = free.pop()
                fits = [j for j in free if score[i] != score[j] and abs(score[i] - score[j]) >= gap]
                if not fits:
                    left.append(i)
                    continue
                j = fits[rng.integers(len(fits))]
                free.remove(j)
                rows.append((i, j) if score[i] > score[j] else (j, i))
            free = left
    return pair_frame(stories, rows)


def score_groups(stories: pd.DataFrame) -> list[np.ndarray]:
    """Positions of each prompt's rows, the prompts in order of their ids; ValueError where pairs cannot be made.

    Positions, since a frame for each of 95,000 prompts would take most of the time.
    """
    if stories["score"].isna().any():
        first = stories[stories["score"].isna()].iloc[0]
        raise ValueError(
            f"The response with index {first.name} (prompt {first['prompt_id']}) has no score: pairs need one for each."
        )
    if not stories.index.is_unique:
        raise ValueError(
            "The frame's index repeats: call reset_index(drop=True) on it before making pairs."
        )
    number = stories.groupby("prompt_id", sort=True).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def pair_frame(stories: pd.DataFrame, rows: list[tuple[int, int]]) -> pd.DataFrame:
    """The frame of `make_pairs` from positions of (chosen, rejected); ValueError where there are none."""
    import pandas as pd

    if not rows:
        raise ValueError(
            "No preference pair can be made: at least one prompt needs two responses whose scores differ."
        )
    chosen, rejected = (np.array(side) for side in zip(*rows, strict=True))

    def of(
        column: str, side: np.ndarray
    ) -> pd.Series:  # a Series throughout: as Python strings texts take far more
        return stories[column].iloc[side].reset_index(drop=True)

    columns = {
        "prompt_id": of("prompt_id", chosen),
        "prompt": of("prompt", chosen),
        "chosen_row": stories.index[chosen],
        "rejected_row": stories.index[rejected],
        "gap": of("score", chosen) - of("score", rejected),
        "chosen": of("text", chosen),
        "rejected": of("text", rejected),
    }
    return pd.DataFrame(columns, copy=False)


def shuffled_weights(pairs: pd.DataFrame, weight: Sequence[float], seed: int) -> np.ndarray:
    """The control: the winners' weights dealt anew among the winners of the same prompt, at random."""
    rng, out = np.random.default_rng(seed), np.array(weight, dtype=float)
    for index in pairs.reset_index(drop=True).groupby("prompt_id", sort=True).indices.values():
        out[index] = out[rng.permutation(index)]
    return out
