"""The statistics of a reward's trial: held-out folds, accuracy, calibration, and the rule that lets a reward speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .reward import Target
from .statistics import Interval, bootstrap_interval, mean_interval
from .usability import ordered_pairs, reward_splits

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "calibration",
    "choose_reward",
    "fold_pairs",
    "reward_accuracy",
    "reward_calibration",
    "trial_splits",
]

PARTS = 3  # of prompts and of writers: nine fits a reward, each on about four ninths of the stories
BINS = 5
Splits = Sequence[tuple[np.ndarray, np.ndarray]]
Scores = Sequence[
    Sequence[float]
]  # for each split the scores of the stories of its held-out prompts, in their order


def trial_splits(stories: pd.DataFrame, seed: int) -> Splits:
    """The folds of a trial: prompts in 3 parts crossed with writers in 3; where writers are not known (or too few to
    leave pairs), one fold that holds out a tenth of the prompts."""
    writers = stories["writer"].fillna("").astype(str)
    if (writers != "").all() and writers.nunique() >= 2 * PARTS:
        return reward_splits(stories, PARTS, PARTS, seed)
    return reward_splits(stories, 10, 0, seed)[:1]


def fold_pairs(
    stories: pd.DataFrame, splits: Splits, scores: Scores, unseen_writers: bool
) -> pd.DataFrame:
    """The held-out pairs of all folds, as `metrics.ordered_pairs` gives them: of two held-out writers each, or of two
    writers that the reward knows (or that nobody knows)."""
    import pandas as pd

    frames = []
    for (in_prompt, in_writer), row in zip(splits, scores, strict=True):
        guess = np.full(len(stories), np.nan)
        guess[in_prompt] = row
        held = in_prompt & (in_writer if unseen_writers else ~in_writer)
        frames.append(ordered_pairs(stories[held], guess[held]))
    return pd.concat(frames, ignore_index=True)


def reward_accuracy(
    stories: pd.DataFrame, splits: Splits, scores: Scores
) -> dict[str, Interval | None]:
    """Share of held-out pairs that a reward orders rightly, mean over prompts with its 95% interval by prompt.

    Returns:
        "unseen prompts", and "unseen prompts and writers": None where no writer is known. The intervals say nothing
        about other writers than these: twelve are few.
    """
    out: dict[str, Interval | None] = {}
    for name, unseen_writers in (("unseen prompts", False), ("unseen prompts and writers", True)):
        by_prompt = (
            fold_pairs(stories, splits, scores, unseen_writers).groupby("prompt_id")["right"].mean()
        )
        out[name] = mean_interval(by_prompt) if len(by_prompt) > 1 else None
    return out


def calibration(predicted: Any, observed: Any, prompts: Any, bins: int = BINS) -> dict[str, Any]:
    """Do predictions mean what they say? Equal-count bins of the predictions, and the expected calibration error.

    The error is sum_b n_b / N * |mean predicted - mean observed|, in the predictions' unit; its interval resamples
    whole prompts over fixed bins. Noise alone makes it larger than 0, the more so the fewer predictions a bin has.

    Args:
        predicted, observed: (N,) numbers, such as the probability that the better-scored story of a pair wins and
            whether it won, or predicted and actual scores. prompts: (N,) their prompts.

    Returns:
        A dict: bins (a list of n, predicted, observed: means of the bin), error (Interval).

    Source: the error is that of Naeini, Cooper and Hauskrecht, AAAI 2015.
    """
    predicted, observed = np.asarray(predicted, dtype=float), np.asarray(observed, dtype=float)
    cuts = np.unique(np.quantile(predicted, np.arange(1, bins) / bins))
    place = np.searchsorted(cuts, predicted, side="right")
    _, prompt = np.unique(np.asarray(prompts), return_inverse=True)
    sums = np.zeros(
        (prompt.max() + 1, len(cuts) + 1, 3)
    )  # by prompt and bin: count, predicted, observed
    np.add.at(
        sums, (prompt, place), np.column_stack([np.ones_like(predicted), predicted, observed])
    )

    def error(drawn: np.ndarray) -> float:
        count, said, was = sums[drawn].sum(axis=0).T
        return float(np.abs(said - was).sum() / count.sum())

    table = [
        {"n": int(n), "predicted": said / n, "observed": was / n}
        for n, said, was in sums.sum(axis=0)
        if n
    ]
    return {"bins": table, "error": bootstrap_interval(error, len(sums))}


def reward_calibration(
    stories: pd.DataFrame, splits: Splits, scores: Scores, target: Target, of_pairs: bool
) -> dict[str, Any]:
    """Calibration on held-out stories, unseen writers where there are any: of the probability that the preferred
    story of a pair wins (Bradley-Terry), or of the score on the target's scale."""
    unseen = any(in_writer.any() for _, in_writer in splits)
    if of_pairs:
        pairs = fold_pairs(stories, splits, scores, unseen)
        return calibration(
            1 / (1 + np.exp(-pairs["margin"].abs())), pairs["right"], pairs["prompt_id"]
        )
    held = [in_prompt & (in_writer | (not unseen)) for in_prompt, in_writer in splits]
    said = [
        np.asarray(row)[h[in_prompt]]
        for h, (in_prompt, _), row in zip(held, splits, scores, strict=True)
    ]
    asked = np.concatenate([np.flatnonzero(h) for h in held])
    actual, prompts = target(stories["score"])[asked], stories["prompt_id"].to_numpy()[asked]
    return calibration(np.concatenate(said), actual, prompts)


def choose_reward(
    accuracy: Mapping[str, Mapping[str, Interval | None]], bound: float
) -> dict[str, Any]:
    """Which reward stands, and whether it may speak about quality.

    A reward passes if the lower end of its interval on unseen prompts and writers (on unseen prompts where no writer
    is known) is at least `bound`. One that passes goes before one that does not; then accuracy decides, and among
    equals the first named.

    Args:
        accuracy: reward -> figures of `reward_accuracy`, part 1's reward first.

    Returns:
        A dict: reward (name), passed (bool), quality (what may be said).
    """

    def figure(name: str) -> Interval:
        return accuracy[name]["unseen prompts and writers"] or accuracy[name]["unseen prompts"]

    best = max(accuracy, key=lambda name: (figure(name).low >= bound, figure(name).mean))
    passed = figure(best).low >= bound
    return {
        "reward": best,
        "passed": passed,
        "quality": "quality to be compared" if passed else "quality not measured",
    }
