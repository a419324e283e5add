"""DivPO's pairs, a rival of the weights: deviation chooses pairs, which plain DPO is trained on.

Source: Lanchantin et al., arXiv 2501.18101, in the form that arXiv 2503.17126 compares with. The
script released with the latter chooses the same responses where scores and deviations are distinct,
but shuffles the chosen ones of both sides, without a seed, before it pairs them, and does not ask
that the winner scored higher. Here they are paired in the order of deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pairs import pair_frame, prompt_positions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["divpo_pairs"]

# of a prompt's responses on each side this share, and at least so many; pairs of a prompt at most
SHARE, MIN_RESPONSES, MAX_PAIRS = 0.25, 2, 2


def divpo_pairs(
    stories: pd.DataFrame, deviation: Callable[[pd.DataFrame, np.ndarray], Any], seed: int = 42
) -> tuple[pd.DataFrame, int]:
    """DivPO's pairs, and the number of responses that are in no pair.

    Of a prompt's K responses the n = max(2, K/4) best are good and the n worst are bad. The most
    deviant good response is paired with the least deviant bad one, then the next; two pairs at
    most. With n = 2 deviation decides nothing: two responses are equally far from each other.

    Args:
        stories: scored responses; the index must be unique.
        deviation: maps rows of `stories` and their groups (N,), one for each side of each prompt,
            to (N,) deviations within the groups, such as `deviation_weights` of the embeddings.
        seed: decides which of several equal scores count as the better ones.

    Raises:
        ValueError: as `make_pairs`.
    """
    rng = np.random.default_rng(seed)
    scores = stories["score"].to_numpy(dtype=float)
    sides = []  # the good and the bad responses of each prompt, one after the other
    for positions in prompt_positions(stories):
        k = len(positions)
        n = min(max(MIN_RESPONSES, int(SHARE * k)), k // 2)
        order = rng.permutation(positions)
        best_first = np.argsort(-scores[order], kind="stable")
        order = order[best_first]
        best, worst = scores[order[0]], scores[order[-1]]
        if n and best > worst:
            worst_first = order[::-1]
            sides += [order[:n], worst_first[:n]]
    if not sides:
        return pair_frame(stories, []), len(stories)
    lengths = [len(side) for side in sides]
    groups = np.repeat(np.arange(len(sides)), lengths)
    rows = stories.iloc[np.concatenate(sides)]
    values = np.asarray(deviation(rows, groups), dtype=float)
    ends = np.cumsum(lengths)
    deviations = np.split(values, ends[:-1])
    pairs: list[tuple[int, int]] = []
    for i in range(0, len(sides), 2):
        most_deviant_first = np.argsort(-deviations[i], kind="stable")
        least_deviant_first = np.argsort(deviations[i + 1], kind="stable")
        good = sides[i][most_deviant_first].tolist()
        bad = sides[i + 1][least_deviant_first].tolist()
        pairs += _pair_sides(good, bad, scores)
    return pair_frame(stories, pairs), len(stories) - 2 * len(pairs)


def _pair_sides(good: list[int], bad: list[int], scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of each good response, in turn, with the first bad one of a lower score."""
    pairs: list[tuple[int, int]] = []
    for i in good:
        partners = [j for j in bad if scores[j] < scores[i]]
        if partners and len(pairs) < MAX_PAIRS:
            bad.remove(partners[0])
            pairs.append((i, partners[0]))
    return pairs
