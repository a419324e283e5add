"""Intervals, paired differences, the verdict rule, and shares with the sign test.

The unit is the prompt: stories of one prompt are not independent, so every function takes one value
per prompt, or one count. With several training seeds, means also take a matrix (seeds, prompts).
NaN marks a prompt without a value. Other faulty values, or too few, raise ValueError, and faulty
counts, labels and rates CourseError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..settings import CourseError, course_errors

LOWER, UPPER = 0.025, 0.975  # the tails of a 95% interval
ALIKE = 0.25  # correlation of usable stories of a prompt; the recorded runs have -0.03 to 0.23
NEARER = 1 / 3  # of its distance to a bound a statistic keeps at least if one cluster is left out
POWER = 0.8  # chance of finding a true difference of the detectable size


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


def _floats(values: Any, dimensions: int) -> np.ndarray:
    """The values as floats, NaN included; ValueError for another shape, infinity or no numbers."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError("An interval needs numbers, one for each prompt.") from None
    if array.ndim != dimensions:
        raise ValueError(f"Values must have {dimensions} dimension(s); got shape {array.shape}.")
    if np.isinf(array).any():
        raise ValueError("An interval needs finite values: leave infinite ones out, as NaN.")
    return array


def mean_interval(values: Any) -> Interval:
    """Mean and 95% Student t interval of (G,) values, one per prompt, at least two."""
    from scipy.stats import t

    values = _floats(values, 1)
    values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        raise ValueError(f"An interval needs the values of at least two prompts; got {n}.")
    mean = float(values.mean())
    half = float(t.ppf(UPPER, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def crossed_interval(values: Any) -> Interval:
    """Mean and 95% t interval of a (seeds, prompts) matrix; both seeds and prompts are samples.

    The variance of the mean is (MS_seeds + MS_prompts - MS_residual) / (seeds * prompts), at least
    that of one factor alone (Cameron, Gelbach and Miller 2011); degrees of freedom are
    Satterthwaite's (1946). Prompts without a value for every seed are left out.
    """
    from scipy.stats import t

    values = _floats(values, 2)
    values = values[:, ~np.isnan(values).any(axis=0)]
    seeds, prompts = values.shape
    if seeds < 2 or prompts < 2:
        raise ValueError(f"An interval needs two seeds and two prompts; got {seeds} and {prompts}.")
    mean = float(values.mean())
    seed_effects = values.mean(axis=1) - mean
    prompt_effects = values.mean(axis=0) - mean
    residuals = values - mean - seed_effects[:, None] - prompt_effects
    df = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)])
    by_seed = prompts * (seed_effects**2).sum()
    by_prompt = seeds * (prompt_effects**2).sum()
    mean_squares = np.array([by_seed, by_prompt, (residuals**2).sum()]) / df
    total = max(mean_squares @ [1, 1, -1], mean_squares[0], mean_squares[1])
    df_total = seeds - 1.0  # where all values are equal
    if total:
        df_total = float(total**2 / (mean_squares**2 / df).sum())
    half = float(t.ppf(UPPER, df_total) * np.sqrt(total / values.size))
    return Interval(mean, mean - half, mean + half, prompts, df_total)


def difference(a: Any, b: Any) -> Interval:
    """Mean of a - b, (prompts,) or (seeds, prompts) in the same order, with its 95% t interval."""
    dimensions = 2 if np.ndim(a) == 2 else 1
    a = _floats(a, dimensions)
    b = _floats(b, dimensions)
    if a.shape != b.shape:
        raise ValueError(f"A paired difference needs the same prompts; got {a.shape}, {b.shape}.")
    return crossed_interval(a - b) if dimensions == 2 else mean_interval(a - b)


def detectable(interval: Interval) -> float:
    """Smallest true difference that a comparison with this spread finds with a power of 0.8."""
    from scipy.stats import t

    df = interval.n - 1 if interval.df is None else interval.df
    standard_error, quantile = _spread(interval)
    return float((quantile + t.ppf(POWER, df)) * standard_error)


def _spread(interval: Interval) -> tuple[float, float]:
    """Standard error of a t interval's mean, and the quantile that its half-width has of them."""
    from scipy.stats import t

    df = interval.n - 1 if interval.df is None else interval.df
    if not (df > 0 and 0 <= interval.high - interval.mean < np.inf):
        raise ValueError(f"{interval} of {interval.n} has no spread: give two prompts or more.")
    quantile = float(t.ppf(UPPER, df))
    return (interval.high - interval.mean) / quantile, quantile


def jackknife_interval(
    statistic: Callable[[np.ndarray], float],
    clusters: int,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """A statistic with its 95% interval from leaving out one whole cluster at a time.

    It is the t interval of Tukey's pseudo-values. A statistic between bounds, such as an AUC, is
    taken on the logit scale between them. Where it is at a bound, as many clusters have the exact
    interval of a share. With few clusters a percentile bootstrap is too narrow, and BCa hardly
    better: tests/slow/test_coverage.py measures how often each holds the true value.

    Args:
        statistic: maps cluster numbers, all or all but one, to a number.
        bounds: smallest and largest value that the statistic can have.

    Raises:
        ValueError: fewer than two clusters, or no finite number without one of them.

    Source: Tukey 1958, Annals of Mathematical Statistics 29; Miller 1974, Biometrika 61.
    """
    if clusters < 2:
        raise ValueError(f"An interval needs at least two clusters; got {clusters}.")
    everything = np.arange(clusters)
    value = float(statistic(everything))
    without = np.array([statistic(np.delete(everything, i)) for i in everything], dtype=float)
    if not np.isfinite([value, *without]).all():
        raise ValueError("The statistic is no finite number, or none without one of the clusters.")
    if bounds is None:
        return replace(mean_interval(clusters * value - (clusters - 1) * without), mean=value)
    low, width = bounds[0], bounds[1] - bounds[0]
    share = (value - low) / width
    nearest = min(share, 1 - share) * NEARER
    if nearest < 1e-12:
        ends = exact_limits(clusters * round(share), clusters)
    else:
        shares = np.clip((np.array([value, *without]) - low) / width, nearest, 1 - nearest)
        logits = np.log(shares / (1 - shares))
        pseudo_values = mean_interval(clusters * logits[0] - (clusters - 1) * logits[1:])
        ends = [1 / (1 + np.exp(-end)) for end in (pseudo_values.low, pseudo_values.high)]
    return Interval(value, *(float(low + width * end) for end in ends), clusters)


def verdict(
    diversity: Mapping[str, Any],
    usable: Mapping[str, Any],
    margin: float,
    quality: str = "quality not measured",
    stories: int = 1,
) -> dict[str, Any]:
    """The course's verdict on one measure of diversity: did the deviation weights raise it?

    "Effect of deviation" needs 95% intervals of DDPO minus shuffled weights, and of DDPO minus DPO
    at matched KL, that lie above 0 for diversity and above -`margin` for the share of usable
    stories. Else the verdict is "no effect shown".

    `diversity` and `usable` hold values per prompt, or (seeds, prompts), for "ddpo", "shuffled" and
    "dpo" (the DPO checkpoint nearest in KL); `quality` is added to the text of an effect; `stories`
    is the number behind each share of usable ones (see `share_difference`).

    Returns:
        verdict (text); to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo (Intervals);
        detectable: the larger of the two diversity differences that a power of 0.8 finds.
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is a share of stories, 0 to 1; got {margin!r}.")
    gaps, kept = {}, {}
    for control in ("shuffled", "dpo"):
        gaps[f"to_{control}"] = difference(diversity["ddpo"], diversity[control])
        kept[f"usable_to_{control}"] = share_difference(usable["ddpo"], usable[control], stories)
    smallest = max(detectable(gap) for gap in gaps.values())
    diverse = all(gap.low > 0 for gap in gaps.values())
    as_usable = all(gap.low > -margin for gap in kept.values())
    text = f"effect of deviation; {quality}"
    if not (diverse and as_usable):
        size = f"{smallest:.3f} would have been found four times in five"
        text = f"no effect shown (either difference alone: {size})"
    return {"verdict": text, **gaps, **kept, "detectable": smallest}


def exact_limits(hits: float, trials: float) -> tuple[float, float]:
    """Clopper and Pearson's 95% limits of a share (1934); the counts need not be whole."""
    from scipy.stats import beta

    low = beta.ppf(LOWER, hits, trials - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(UPPER, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def share_interval(hits: Any, labels: Any) -> Interval:
    """Share of hits among labels with a 95% interval that counts prompts, not labels.

    The exact interval at the effective number of labels (Korn and Graubard, Survey Methodology 24,
    1998): share (1 - share) over the variance clustered by prompt, reduced for that variance's few
    degrees of freedom. It is at most the number of labels, and at least that of labels alike within
    each prompt (this project's bound), which is also taken where the share is 0 or 1. hits and
    labels hold (G,) counts, one per prompt.
    """
    from scipy.stats import t

    with course_errors():
        hits = _floats(hits, 1)
        labels = _floats(labels, 1)
    if hits.shape != labels.shape or not ((hits >= 0) & (hits <= labels + 1e-6)).all():
        raise CourseError("A share needs, for each prompt, from 0 hits up to its number of labels.")
    total = labels.sum()
    prompts = int((labels > 0).sum())
    if not total:
        raise CourseError("A share needs at least one label: rate a comparison first.")
    share = hits.sum() / total
    alike = total**2 / (labels**2).sum()
    effective = alike
    if 0 < share < 1 and prompts > 1:
        residuals = hits - share * labels
        variance = prompts / (prompts - 1) * (residuals**2).sum() / total**2
        allowance = (t.ppf(UPPER, total - 1) / t.ppf(UPPER, prompts - 1)) ** 2
        with np.errstate(divide="ignore"):
            unbounded = share * (1 - share) / variance * allowance
        effective = np.clip(unbounded, alike, total)
    return Interval(float(share), *exact_limits(share * effective, effective), prompts)


def share_difference(a: Any, b: Any, stories: int = 1) -> Interval:
    """Mean of a - b with its 95% interval, where the values are shares, such as of usable stories.

    a and b are those of `difference`. A t interval of shares near 1 is too narrow, and [0, 0] where
    every story is usable. So this one is put together from intervals of either share, exact ones at
    its effective number of stories (see `share_interval`). Where all shares of one side are equal
    their spread says nothing, and stories of a prompt count as correlated by ALIKE.

    Args:
        stories: number of stories behind each share.

    Source: Zou and Donner 2008, Statistics in Medicine 27 (intervals of differences from those of
    the parts, with their correlation).
    """
    from scipy.stats import norm

    gap = difference(a, b)
    shares = np.array([a, b], dtype=float)
    if np.nanmin(shares) < 0 or np.nanmax(shares) > 1:
        raise ValueError("A share lies between 0 and 1.")
    known = ~np.isnan(shares).any(axis=tuple(range(shares.ndim - 1)))
    below, above, errors = [], [], []
    for side in shares[..., known]:
        own = crossed_interval(side) if side.ndim == 2 else mean_interval(side)
        error, quantile = _spread(own)
        total = stories * side.size
        effective = total / (1 + (total / own.n - 1) * ALIKE)
        if error > 1e-9:
            effective = own.mean * (1 - own.mean) * (norm.ppf(UPPER) / (quantile * error)) ** 2
        low, high = exact_limits(own.mean * effective, effective)
        below.append(own.mean - low)
        above.append(high - own.mean)
        errors.append(error)
    together = 0.0
    if min(errors) > 1e-9:
        joint = errors[0] ** 2 + errors[1] ** 2 - _spread(gap)[0] ** 2
        together = float(np.clip(joint / (2 * errors[0] * errors[1]), -1, 1))

    def reach(x: float, y: float) -> float:
        return float(np.sqrt(max(x**2 + y**2 - 2 * together * x * y, 0.0)))

    low, high = gap.mean - reach(below[0], above[1]), gap.mean + reach(above[0], below[1])
    return replace(gap, low=low, high=high)


@dataclass(frozen=True)
class SignTest:
    """Items won, lost and tied; exact two-sided p without the ties, and with the ties split."""

    wins: int
    losses: int
    ties: int
    p: float
    p_split: float

    def __str__(self) -> str:
        score = f"{self.wins} : {self.losses}, {self.ties} tied"
        return f"{score}, p = {self.p:.2g} (ties split: {self.p_split:.2g})"


def sign_test(wins: int, losses: int, ties: int = 0) -> SignTest:
    """Exact two-sided binomial test of wins against losses, counts of independent items.

    `p` drops the ties. `p_split` gives half of them to either side, an odd one to the side behind.
    """
    from scipy.stats import binomtest

    wins, losses, ties = (whole_number(number) for number in (wins, losses, ties))

    def p_value(a: int, b: int) -> float:
        return float(binomtest(a, a + b).pvalue) if a + b else 1.0

    behind, ahead = sorted((wins, losses))
    split = p_value(behind + ties - ties // 2, ahead + ties // 2)
    return SignTest(wins, losses, ties, p_value(wins, losses), split)


def whole_number(value: Any, least: int = 0) -> int:
    """The value as a whole number from `least` to a million, beyond which exact sums take hours."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number != value or not least <= number <= 1_000_000:
        raise CourseError(f"A count is a whole number from {least} to 1,000,000; got {value!r}.")
    return number
