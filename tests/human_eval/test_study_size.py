"""How many comparisons a study needs, and what published win rates would mean: slow ways agree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ddpo_utils import CourseError
from ddpo_utils.evaluation.statistics import Interval, sign_test
from ddpo_utils.human_eval.win_rates import comparisons_needed, sign_power, what_rates_mean


def limits(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def exact(hits: int, trials: int) -> tuple[float, float]:
    return tuple(scipy_stats.binomtest(hits, trials).proportion_ci(0.95, "exact"))


@pytest.mark.parametrize(("n", "win", "loss"), [(12, 0.62, 0.26), (9, 0.5, 0.5), (15, 1.0, 0.0)])
def test_power_sums_over_every_outcome(n, win, loss):
    slow = sum(
        scipy_stats.multinomial.pmf([w, lost, n - w - lost], n, [win, loss, 1 - win - loss])
        for w in range(n + 1)
        for lost in range(n + 1 - w)
        if sign_test(w, lost).p <= 0.05
    )
    assert sign_power(n, win, loss) == pytest.approx(slow)
    assert sign_power(n, loss, win) == pytest.approx(slow) and sign_power(n, 0.0, 0.0) == 0


@pytest.mark.parametrize(("win", "loss"), [(0.62, 0.26), (0.26, 0.62), (1.0, 0.0)])
def test_as_many_comparisons_as_needed_and_no_more(win, loss):
    needed = comparisons_needed(win, loss)
    assert sign_power(needed - 1, win, loss) < 0.8
    assert all(sign_power(n, win, loss) >= 0.8 for n in range(needed, 2 * needed + 20))
    assert comparisons_needed(1, 0) == 6  # five wins of five have p = 1/16


def likeliest(wins, losses, n, gap):
    """Tango's statistic with the constrained likelihood searched on a grid: the slow way."""
    lost = np.linspace(max(0.0, -gap), (1 - gap) / 2, 40001)[1:-1]
    counts, shares = (wins, losses, n - wins - losses), (lost + gap, lost, 1 - 2 * lost - gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [count * np.log(share) for count, share in zip(counts, shares, strict=True)]
    best = lost[np.argmax(sum(logs))]
    return (wins - losses - n * gap) / np.sqrt(n * (2 * best + gap - gap**2))


@pytest.mark.parametrize(("wins", "losses", "n"), [(31, 13, 50), (3, 9, 20)])
def test_rates_at_n_items_are_exact_shares_and_a_score_interval(wins, losses, n):
    got = what_rates_mean(wins / n, losses / n, n)
    assert limits(got["win"]) == pytest.approx(exact(wins, n))
    assert limits(got["loss"]) == pytest.approx(exact(losses, n))
    gap = got["difference"]
    assert gap.mean == pytest.approx((wins - losses) / n)
    assert likeliest(wins, losses, n, gap.low) == pytest.approx(1.96, abs=2e-3)
    assert likeliest(wins, losses, n, gap.high) == pytest.approx(-1.96, abs=2e-3)


def test_intervals_of_a_clean_sweep_have_a_width():
    n = 50
    sweep, z2 = what_rates_mean(1, 0, n), scipy_stats.norm.ppf(0.975) ** 2
    # n^2 (1 - gap)^2 = z^2 n (1 - gap^2)
    assert limits(sweep["difference"]) == pytest.approx(((n - z2) / (n + z2), 1))
    silent = what_rates_mean(0, 0, n)["difference"]
    assert limits(silent) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)))


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (comparisons_needed, [0.5, 0.47]),  # needs too many
        (comparisons_needed, [np.nan, 0.2]),
        (sign_power, [-3, 0.6, 0.3]),
        (sign_power, [10**12, 0.6, 0.3]),
        (what_rates_mean, [-0.1, 0.5, 10]),
        (what_rates_mean, [0.6, 0.3, 0]),
    ],
)
def test_faulty_rates_and_counts_are_refused(call, arguments):
    with pytest.raises(CourseError):
        call(*arguments)
