"""Intervals, paired differences, non-inferiority and the verdict rule: the statistics that the notebooks share.

The unit is the prompt: stories of one prompt are not independent, so every function takes one value a prompt. Where
training was repeated with several seeds, a matrix (seeds, prompts) takes the place of the series, and the interval
counts both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "Interval",
    "bootstrap_interval",
    "crossed_interval",
    "detectable",
    "difference",
    "mean_interval",
    "verdict",
]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval, in the unit of the values; n prompts (or other clusters)."""

    mean: float
    low: float
    high: float
    n: int
    df: float | None = None  # degrees of freedom of a t interval; None: n - 1

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def above_zero(self) -> bool:
        return self.low > 0


def mean_interval(values: Any) -> Interval:
    """Mean and 95% Student t interval of one value a prompt.

    Args:
        values: (G,) numbers; NaN marks a prompt on which the measure is not defined and is left out.

    Raises:
        ValueError: fewer than two prompts are left.
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        raise ValueError(f"An interval needs the values of at least two prompts; got {n}.")
    half = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(
        float(values.mean()), float(values.mean() - half), float(values.mean() + half), n
    )


def crossed_interval(values: Any) -> Interval:
    """Mean and 95% t interval of a (seeds, prompts) matrix in which both seeds and prompts are samples of many.

    With the mean squares of the two-way layout without repetition (seeds, prompts, residual) the variance of the mean
    is estimated by (MS_seed + MS_prompt - MS_residual) / (S P), and not below MS_seed / (S P) or MS_prompt / (S P):
    each of these alone expects no more than the truth, so a smaller estimate has a negative component of variance
    in it. Degrees of freedom after Satterthwaite, from all three mean squares.

    Args:
        values: (S, P) numbers, usually paired differences of two arms, one row a seed; prompts on which a seed has no
            value (NaN) are left out.

    Returns:
        An Interval whose n is the number of prompts that are left.

    Raises:
        ValueError: fewer than two seeds, or than two prompts with a value for every seed.

    Source: Satterthwaite, Biometrics Bulletin 2 (1946); the three-term variance is that of two-way clustering in
    Cameron, Gelbach and Miller, Journal of Business & Economic Statistics 29 (2011).
    """
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    values = values[:, ~np.isnan(values).any(axis=0)]
    seeds, prompts = values.shape
    if seeds < 2 or prompts < 2:
        raise ValueError(
            f"An interval over seeds needs two seeds and two prompts; got {seeds} and {prompts}."
        )
    mean = values.mean()
    by_seed, by_prompt = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_seed[:, None] - by_prompt
    free = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)])
    squares = (
        np.array([prompts * (by_seed**2).sum(), seeds * (by_prompt**2).sum(), (rest**2).sum()])
        / free
    )
    total = max(squares @ [1, 1, -1], squares[0], squares[1])
    df = total**2 / (squares**2 / free).sum() if total else seeds - 1.0
    half = t.ppf(0.975, df) * np.sqrt(total / values.size)
    return Interval(float(mean), float(mean - half), float(mean + half), prompts, float(df))


def difference(a: Any, b: Any) -> Interval:
    """Mean of a - b over the same prompts in the same order, with its 95% t interval (paired by prompt).

    Args:
        a, b: (G,) one value a prompt, or (S, G) one row a seed, in the same order in both.

    Raises:
        ValueError: the shapes differ, or fewer than two prompts (or seeds) have both values.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(
            f"A paired difference needs the same prompts in both; got {a.shape} and {b.shape} values."
        )
    return crossed_interval(a - b) if a.ndim == 2 else mean_interval(a - b)


def detectable(interval: Interval, power: float = 0.8) -> float:
    """Smallest true difference that a comparison with this interval's spread would find with the given power.

    (t_0.975 + t_power) standard errors, two-sided at 5%; in the unit of the values.
    """
    from scipy.stats import t

    df = interval.n - 1 if interval.df is None else interval.df
    error = (interval.high - interval.mean) / t.ppf(0.975, df)
    return float((t.ppf(0.975, df) + t.ppf(power, df)) * error)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], clusters: int, draws: int = 1000, seed: int = 0
) -> Interval:
    """95% percentile interval of a statistic under resampling of whole clusters.

    Args:
        statistic: takes (clusters,) drawn cluster numbers, with repetition, and gives one number.
        clusters: how many clusters there are.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, clusters, clusters)) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(statistic(np.arange(clusters))), float(low), float(high), clusters)


def verdict(
    diversity: Mapping[str, Any],
    usable: Mapping[str, Any],
    margin: float,
    quality: str = "quality not measured",
) -> dict[str, Any]:
    """The course's rule for "did deviation do it?", for one diversity measure.

    "Effect of deviation" needs all of: DDPO minus shuffled weights above 0, DDPO minus DPO at matched KL above 0
    (both by their 95% intervals), and the share of usable stories not lower than either control's by more than
    `margin` (by the lower end of the 95% interval). Anything else is "no effect shown".

    Args:
        diversity, usable: one value a prompt, same order, for the keys "ddpo", "shuffled" and "dpo" (the DPO
            checkpoint nearest in KL); or matrices (seeds, prompts), and the verdict is one over seeds and prompts.
        margin: largest tolerated loss of usable stories, as a share.
        quality: what may be said of quality, decided beforehand by the reward's own test.

    Returns:
        A dict: verdict (text), to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo (Intervals), detectable (the
        larger of the two diversity differences that would have been found with a power of 0.8, taken alone; the
        whole rule, which needs both and the usable stories, finds less).
    """
    to = {name: difference(diversity["ddpo"], diversity[name]) for name in ("shuffled", "dpo")}
    kept = {name: difference(usable["ddpo"], usable[name]) for name in ("shuffled", "dpo")}
    effect = all(d.above_zero for d in to.values()) and all(k.low > -margin for k in kept.values())
    smallest = max(detectable(d) for d in to.values())
    if effect:
        text = f"effect of deviation; {quality}"
    else:
        text = f"no effect shown (either difference alone: {smallest:.3f} would have been found four times in five)"
    return {
        "verdict": text,
        "to_shuffled": to["shuffled"],
        "to_dpo": to["dpo"],
        "usable_to_shuffled": kept["shuffled"],
        "usable_to_dpo": kept["dpo"],
        "detectable": smallest,
    }
