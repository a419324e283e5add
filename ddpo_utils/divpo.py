"""DivPO's preference pairs: the most deviant of a prompt's good responses over the least deviant of its bad ones.

Deviation chooses pairs here, where DDPO weights them; the pairs are then trained on by plain DPO. Source: Lanchantin et
al., "Diverse Preference Optimization", arXiv 2501.18101, in the form that arXiv 2503.17126 compares with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .corpus import pair_frame, score_groups

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["divpo_pairs"]

SHARE, LEAST, PAIRS = 0.25, 2, 2  # of a prompt's responses on each side, and responses at least; pairs at most


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
        CourseError: a score is missing, or not a single pair can be made.
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
    value = np.asarray(deviation(stories.iloc[places], groups), dtype=float) if sides else np.empty(0)
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
