"""Intervals, paired differences, the verdict rule, and shares with the sign test.

The unit is the prompt: stories of one prompt are not independent, so every function takes one value
per prompt, or one count. With several training seeds, means also take a matrix (seeds, prompts).
NaN marks a prompt without a value. Other faulty values, or too few, raise ValueError, and faulty
counts, labels and rates CourseError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..settings import CourseError, course_errors

LOWER, UPPER = 0.025, 0.975  # the tails of a 95% interval
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
    if not (df > 0 and 0 <= interval.high - interval.mean < np.inf):
        raise ValueError(f"{interval} of {interval.n} has no spread: give two prompts or more.")
    quantile = t.ppf(UPPER, df)
    standard_error = (interval.high - interval.mean) / quantile
    return float((quantile + t.ppf(POWER, df)) * standard_error)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], clusters: int, draws: int = 1000, seed: int = 0
) -> Interval:
    """A statistic with its 95% percentile interval when whole clusters are resampled.

    `statistic` maps (clusters,) drawn cluster numbers, with repetition, to one number or NaN.
    """
    if clusters < 2 or draws < 1:
        raise ValueError(f"A bootstrap needs two clusters and a draw; got {clusters} and {draws}.")
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, clusters, clusters)) for _ in range(draws)]
    if not np.isfinite(values).any():
        raise ValueError("The statistic is no finite number in any draw.")
    low, high = np.nanpercentile(values, [100 * LOWER, 100 * UPPER])
    return Interval(float(statistic(np.arange(clusters))), float(low), float(high), clusters)


def verdict(
    diversity: Mapping[str, Any],
    usable: Mapping[str, Any],
    margin: float,
    quality: str = "quality not measured",
) -> dict[str, Any]:
    """The course's verdict on one measure of diversity: did the deviation weights raise it?

    "Effect of deviation" needs 95% intervals of DDPO minus shuffled weights, and of DDPO minus DPO
    at matched KL, that lie above 0 for diversity and above -`margin` for the share of usable
    stories. Else the verdict is "no effect shown".

    `diversity` and `usable` hold values per prompt, or (seeds, prompts), for "ddpo", "shuffled" and
    "dpo" (the DPO checkpoint nearest in KL); `quality` is added to the text of an effect.

    Returns:
        verdict (text); to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo (Intervals);
        detectable: the larger of the two diversity differences that a power of 0.8 finds.
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is a share of stories, 0 to 1; got {margin!r}.")
    gaps, kept = {}, {}
    for control in ("shuffled", "dpo"):
        gaps[f"to_{control}"] = difference(diversity["ddpo"], diversity[control])
        kept[f"usable_to_{control}"] = difference(usable["ddpo"], usable[control])
    smallest = max(detectable(gap) for gap in gaps.values())
    diverse = all(gap.low > 0 for gap in gaps.values())
    as_usable = all(gap.low > -margin for gap in kept.values())
    text = f"effect of deviation; {quality}"
    if not (diverse and as_usable):
        size = f"{smallest:.3f} would have been found four times in five"
        text = f"no effect shown (either difference alone: {size})"
    return {"verdict": text, **gaps, **kept, "detectable": smallest}


def _exact_limits(hits: float, trials: float) -> tuple[float, float]:
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
    return Interval(float(share), *_exact_limits(share * effective, effective), prompts)


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

    wins, losses, ties = (_count(number) for number in (wins, losses, ties))

    def p_value(a: int, b: int) -> float:
        return float(binomtest(a, a + b).pvalue) if a + b else 1.0

    behind, ahead = sorted((wins, losses))
    split = p_value(behind + ties - ties // 2, ahead + ties // 2)
    return SignTest(wins, losses, ties, p_value(wins, losses), split)


def _count(value: Any, least: int = 0) -> int:
    """The value as a whole number from `least` to a million, beyond which exact sums take hours."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number != value or not least <= number <= 1_000_000:
        raise CourseError(f"A count is a whole number from {least} to 1,000,000; got {value!r}.")
    return number


def _check_rates(win: float, loss: float) -> None:
    if not (win >= 0 and loss >= 0 and win + loss <= 1 + 1e-9):
        raise CourseError(f"Win rates are shares that add up to 1 at most; got {win} and {loss}.")


def _power_given_decided(n: int, win: float, loss: float) -> np.ndarray:
    """(n + 1,) probability that the test finds p <= 0.05, given 0 to n decided items."""
    from scipy.stats import binom

    decided = np.arange(n + 1)
    # the largest count of the smaller side with 2 P(X <= count) <= 0.05, or -1
    bound = binom.ppf(LOWER, decided, 0.5)
    bound -= binom.cdf(bound, decided, 0.5) > LOWER
    few_wins = binom.cdf(bound, decided, win / (win + loss))
    few_losses = binom.cdf(bound, decided, loss / (win + loss))
    return few_wins + few_losses


def _power(n: int, given_decided: np.ndarray, decided_share: float) -> float:
    from scipy.stats import binom

    chances = binom.pmf(np.arange(n + 1), n, min(decided_share, 1.0))
    return float(chances @ given_decided[: n + 1])


def sign_power(n: int, win: float, loss: float) -> float:
    """Exact power of the sign test of n items at p <= 0.05; win, loss: true shares, ties apart."""
    _check_rates(win, loss)
    n = _count(n)
    if not win + loss:
        return 0.0
    return _power(n, _power_given_decided(n, win, loss), win + loss)


def comparisons_needed(win: float, loss: float) -> int:
    """Smallest number of comparisons, below 5,000, from which on `sign_power` is 0.8 or more."""
    from scipy.stats import norm

    _check_rates(win, loss)
    squared_gap = (win - loss) ** 2
    scale = (norm.ppf(UPPER) + norm.ppf(POWER)) ** 2 * (win + loss)
    if scale >= 5000 * squared_gap:
        raise CourseError(f"Telling {win} from {loss} needs about 5,000 comparisons or more.")
    # more than the normal approximation, since the exact power falls back here and there
    n = 40 + int(1.3 * scale / squared_gap)
    given_decided = _power_given_decided(n, win, loss)
    while _power(n - 1, given_decided, win + loss) >= POWER:
        n -= 1
    return n


def _score_limit(wins: float, losses: float, n: int, side: int) -> float:
    """One end (side -1 or 1) of Tango's score interval of a difference of paired shares."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    critical = norm.ppf(UPPER) ** 2
    lead = wins - losses
    estimate = lead / n

    def excess(gap: float) -> float:
        # the likeliest share of losses, given the gap, solves 2 n x^2 + b x + c = 0
        b = (2 * n - lead) * gap - wins - losses
        c = -losses * gap * (1 - gap)
        discriminant = max(b * b - 8 * n * c, 0.0)
        loss_share = (np.sqrt(discriminant) - b) / (4 * n)
        variance = max(2 * loss_share + gap * (1 - gap), 0.0)
        return (lead - n * gap) ** 2 - critical * n * variance

    if abs(estimate - side) < 1e-9:
        return float(side)
    # the excess is below 0 next to the estimate and above 0 at the far end
    return float(brentq(excess, estimate + side * 1e-9, side))


def what_rates_mean(win: float, loss: float, n: int) -> dict[str, Interval]:
    """95% intervals that published win rates would have if they had been measured on n items.

    "win" and "loss" are exact, "difference" (win - loss) is Tango's score interval (Statistics in
    Medicine 17, 1998).
    """
    _check_rates(win, loss)
    n = _count(n, least=1)
    wins = win * n
    losses = loss * n
    limits = [_score_limit(wins, losses, n, side) for side in (-1, 1)]
    return {
        "win": Interval(win, *_exact_limits(wins, n), n),
        "loss": Interval(loss, *_exact_limits(losses, n), n),
        "difference": Interval(win - loss, *limits, n),
    }
