"""Win rates as numbers: intervals of shares, the sign test, its power, and what a pair of rates means at n items.

Every interval counts prompts, not labels: labels of one prompt are not independent. None of them says anything about
raters other than those who rated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..settings import CourseError
from .statistics import Interval

__all__ = [
    "SignTest",
    "comparisons_needed",
    "share_interval",
    "sign_power",
    "sign_test",
    "what_rates_mean",
]


def clopper_pearson(hits: Any, trials: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the exact 95% interval of a share; neither number need be whole (beta quantiles).

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    from scipy.stats import beta

    hits, trials = np.asarray(hits, dtype=float), np.asarray(trials, dtype=float)
    low = np.where(hits > 0, beta.ppf(0.025, np.maximum(hits, 1e-12), trials - hits + 1), 0.0)
    high = np.where(hits < trials, beta.ppf(0.975, hits + 1, np.maximum(trials - hits, 1e-12)), 1.0)
    return low, high


def clustered_share(hits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of hits among labels with its 95% interval, clustered by prompt: see `share_interval`.

    Args:
        hits, labels: (..., G) counts, one a prompt.

    Returns:
        Share, low, high: arrays (...).
    """
    from scipy.stats import t

    hits, labels = np.broadcast_arrays(
        np.asarray(hits, dtype=float), np.asarray(labels, dtype=float)
    )
    prompts, total = (labels > 0).sum(axis=-1), labels.sum(axis=-1)
    share = hits.sum(axis=-1) / total
    # as many independent labels as there would be if those of a prompt were all alike: nothing is worse than that
    alike = total**2 / (labels**2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = hits - share[..., None] * labels
        variance = prompts / (prompts - 1) * (gaps**2).sum(axis=-1) / total**2
        counted = (
            share
            * (1 - share)
            / variance
            * (t.ppf(0.975, total - 1) / t.ppf(0.975, prompts - 1)) ** 2
        )
    # at 0 and 1 the variance is 0 for want of variation, and so it says nothing
    known = (share > 0) & (share < 1) & (prompts > 1)
    effective = np.where(known, np.clip(counted, alike, total), alike)
    return share, *clopper_pearson(share * effective, effective)


def share_interval(hits: Any, labels: Any) -> Interval:
    """Share of hits among labels with a 95% interval that counts prompts, and has a width at 0% and 100% as well.

    Clopper and Pearson's exact interval at the effective number of labels: share (1 - share) over the variance
    clustered by prompt, less an allowance for the few degrees of freedom of that variance; at most the number of
    labels, and at least as many as if the labels of a prompt were all alike (with as many labels for every prompt,
    the number of prompts). Where the share is 0 or 1 its variance is 0 and tells nothing: then the latter is taken.

    Args:
        hits, labels: (G,) counts, one a prompt; prompts without labels are left out.

    Raises:
        CourseError: there is no label at all.

    Source: Korn and Graubard, Survey Methodology 24 (1998), pages 193 to 201. The lower bound of the effective number
    is this project's: no correlation within prompts can be above 1.
    """
    hits, labels = np.asarray(hits, dtype=float), np.asarray(labels, dtype=float)
    if not labels.sum():
        raise CourseError("A share needs at least one label: rate a comparison first.")
    share, low, high = clustered_share(hits, labels)
    return Interval(float(share), float(low), float(high), int((labels > 0).sum()))


@dataclass(frozen=True)
class SignTest:
    """Items won, lost and tied; two-sided exact p of wins against losses without the ties, and with the ties split."""

    wins: int
    losses: int
    ties: int
    p: float
    p_split: float

    def __str__(self) -> str:
        return f"{self.wins} : {self.losses}, {self.ties} tied, p = {self.p:.2g} (ties split: {self.p_split:.2g})"


def sign_test(wins: int, losses: int, ties: int = 0) -> SignTest:
    """Are wins as likely as losses? Exact binomial test, two-sided; one count an item, items independent.

    `p` drops the ties, as is usual, and as the paper's win rates leave "hard to decide" apart. `p_split` gives half of
    the ties to either side, an odd one to the side behind: it is the more careful of the two.
    """
    from scipy.stats import binomtest

    def p(a: int, b: int) -> float:
        return float(binomtest(a, a + b).pvalue) if a + b else 1.0

    few, many = sorted((wins, losses))
    return SignTest(
        wins, losses, ties, p(wins, losses), p(few + ties - ties // 2, many + ties // 2)
    )


def _checked(win: float, loss: float) -> None:
    if not (win >= 0 and loss >= 0 and win + loss <= 1 + 1e-9):
        raise CourseError(
            f"Win rates are shares that add up to 1 at most, as 0.62 and 0.26; got {win} and {loss}."
        )


def _found(n: int, win: float, loss: float) -> np.ndarray:
    """(n + 1,) probability that the test finds p <= 0.05, given 0 to n decided items."""
    from scipy.stats import binom

    decided = np.arange(n + 1)
    # the largest count of the smaller side that is too small: 2 P(X <= k) <= 0.05, else -1
    bound = binom.ppf(0.025, decided, 0.5)
    bound -= binom.cdf(bound, decided, 0.5) > 0.025
    return sum(binom.cdf(bound, decided, rate / (win + loss)) for rate in (win, loss))


def _power(n: int, found: np.ndarray, decides: float) -> float:
    from scipy.stats import binom

    return float(binom.pmf(np.arange(n + 1), n, min(decides, 1.0)) @ found[: n + 1])


def sign_power(n: int, win: float, loss: float) -> float:
    """Probability that the two-sided sign test of n independent items finds p <= 0.05, without the ties.

    Exact: the sum over how many items are decided, and how many of them are won.

    Args:
        n: items, each of another prompt.
        win, loss: true shares of items won and lost (0 to 1); the rest are ties.

    Raises:
        CourseError: these are no shares.
    """
    _checked(win, loss)
    return _power(n, _found(n, win, loss), win + loss) if win + loss else 0.0


def comparisons_needed(win: float, loss: float, power: float = 0.8) -> int:
    """How many comparisons tell these rates apart: the smallest n from which on `sign_power` is at least `power`.

    (The power of an exact test falls back a little here and there as n grows; the answer lies beyond the last such n.)

    Raises:
        CourseError: these are no shares, or about 5,000 comparisons or more would be needed.
    """
    from scipy.stats import norm

    _checked(win, loss)
    needed = (norm.ppf(0.975) + norm.ppf(power)) ** 2 * (
        win + loss
    )  # over the squared gap: n, roughly
    if needed >= 5000 * (win - loss) ** 2:
        raise CourseError(
            f"To tell {win} from {loss}, about 5,000 comparisons or more would be needed."
        )
    limit = 40 + 2 * int(needed / (win - loss) ** 2)
    found = _found(limit, win, loss)
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, found, win + loss) >= power else (middle, high)
    # where the power falls back, it does so for fewer items than about the square root of their number
    n = min(high + 2 * int(np.sqrt(high)) + 10, limit)
    while _power(n - 1, found, win + loss) >= power:
        n -= 1
    return n


def _score_end(wins: float, losses: float, n: int, side: int) -> float:
    """One end (side -1 or 1) of the score interval of a difference of paired shares: Tango 1998."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z2, estimate = norm.ppf(0.975) ** 2, (wins - losses) / n

    def excess(gap: float) -> float:
        b, c = (2 * n - wins + losses) * gap - wins - losses, -losses * gap * (1 - gap)
        lost = (np.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (
            4 * n
        )  # likeliest share of losses, given the gap
        return (wins - losses - n * gap) ** 2 - z2 * n * max(2 * lost + gap * (1 - gap), 0.0)

    if abs(estimate - side) < 1e-9:
        return float(side)
    # the excess is below 0 next to the estimate, and above 0 at the far end
    return float(brentq(excess, estimate + side * 1e-9, side))


def what_rates_mean(win: float, loss: float, n: int) -> dict[str, Interval]:
    """95% intervals that published win rates would have if they had been measured on n items, each of another prompt.

    For rates whose counts are not known: what they would mean at 50 or at 100 items. Labels of one item count as one,
    which is the careful reading: three raters of each item tell more than one and less than three items would. No p is
    computed, for the counts that it would need are not known.

    Args:
        win, loss: shares (0 to 1); the rest is undecided.
        n: items.

    Returns:
        Intervals "win" and "loss" (exact), "difference" (win - loss, by the score).

    Raises:
        CourseError: these are no shares, or there is no item.

    Source: Clopper and Pearson, Biometrika 26 (1934); Tango, Statistics in Medicine 17 (1998), pages 891 to 908.
    """
    _checked(win, loss)
    if n < 1:
        raise CourseError("Win rates need at least one item.")
    one = {
        name: Interval(r, *map(float, clopper_pearson(r * n, n)), n)
        for name, r in (("win", win), ("loss", loss))
    }
    ends = (_score_end(win * n, loss * n, n, side) for side in (-1, 1))
    return {**one, "difference": Interval(win - loss, *ends, n)}
