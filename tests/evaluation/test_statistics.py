"""Intervals against scipy, and by hand; the verdict; shares and the sign test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ddpo_utils import CourseError
from ddpo_utils.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    comparisons_needed,
    crossed_interval,
    detectable,
    difference,
    mean_interval,
    share_interval,
    sign_power,
    sign_test,
    verdict,
    what_rates_mean,
)


def limits(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


@pytest.mark.parametrize("n", [2, 24])
def test_mean_and_difference_intervals_are_scipys(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.6, 0.1, (2, n))
    low, high = scipy_stats.t.interval(0.95, n - 1, loc=a.mean(), scale=scipy_stats.sem(a))
    got = mean_interval([*a, np.nan])  # a prompt without a value is left out
    assert (got.mean, got.low, got.high) == pytest.approx((a.mean(), low, high)) and got.n == n
    paired = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert limits(difference([*a, 1.0], [*b, np.nan])) == pytest.approx(tuple(paired))


def test_a_bootstrap_resamples_whole_clusters():
    values = np.random.default_rng(4).normal(0, 1, 40)
    got = bootstrap_interval(lambda drawn: float(values[drawn].mean()), 40, draws=400)
    exact = mean_interval(values)
    assert got.mean == pytest.approx(exact.mean) and got.n == 40
    assert got.high - got.low == pytest.approx(exact.high - exact.low, rel=0.2)


def test_a_detectable_difference_is_that_of_two_quantiles_and_the_degrees_of_freedom():
    n, spread = 40, 0.2
    half = scipy_stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)
    smallest = detectable(Interval(0.0, -half, half, n))
    assert smallest == pytest.approx((2.0227 + 0.8512) * spread / np.sqrt(n), rel=1e-3)
    # four seeds that differ, and hardly anything else: three degrees of freedom
    wide = crossed_interval(np.array([[-1.0], [0.0], [0.5], [1.5]]) + np.zeros(40))
    error = np.std([-1.0, 0.0, 0.5, 1.5], ddof=1) / 2
    assert detectable(wide) == pytest.approx((3.1824 + 0.9785) * error, rel=1e-4)


def test_a_crossed_interval_by_hand():
    # prompt means 2, 3, 4; residuals -1, -1, 2 and mirrored: mean squares 0, 2 and 6
    got = crossed_interval([[1.0, 2.0, 6.0], [3.0, 4.0, 2.0]])
    df = 2**2 / (0 / 1 + 2**2 / 2 + 6**2 / 2)  # 0 + 2 - 6 is below 2, which takes its place
    assert (got.mean, got.n) == (3.0, 3) and got.df == pytest.approx(df)
    assert got.high - 3 == pytest.approx(scipy_stats.t.ppf(0.975, df) * np.sqrt(2 / 6))
    # seed means 2, 7; prompt means 3, 4, 6.5: mean squares 37.5, 6.5 and 1.5; a gap drops out
    got = crossed_interval([[1.0, 2.0, np.nan, 3.0], [5.0, 6.0, 9.0, 10.0]])
    assert got.df == pytest.approx(42.5**2 / (37.5**2 / 1 + 6.5**2 / 2 + 1.5**2 / 2))
    assert got.mean - got.low == pytest.approx(scipy_stats.t.ppf(0.975, got.df) * np.sqrt(42.5 / 6))
    assert crossed_interval(np.ones((3, 4))) == Interval(1.0, 1.0, 1.0, 4, 2.0)


def arms(to_shuffled, to_dpo, noise=0.01, n=40):
    """One value per prompt for each arm, with these mean differences of DDPO to its controls."""
    rng = np.random.default_rng(5)
    base, wobble = rng.normal(0.6, 0.1, n), rng.normal(0, noise, (2, n))
    wobble -= wobble.mean(axis=1, keepdims=True)
    shuffled, dpo = base - to_shuffled + wobble[0], base - to_dpo + wobble[1]
    return {"ddpo": base, "shuffled": shuffled, "dpo": dpo}


@pytest.mark.parametrize(
    ("diversity", "usable", "noise", "effect"),
    [
        ((0.05, 0.05), (0.0, 0.0), 0.001, True),
        ((0.0, 0.05), (0.0, 0.0), 0.001, False),  # shuffled weights do as well
        ((0.05, 0.0), (0.0, 0.0), 0.001, False),  # DPO at the same KL does as well
        ((0.05, 0.05), (0.0, -0.06), 0.02, False),  # paid for with failures
        ((0.05, 0.05), (-0.049, 0.0), 0.02, False),  # within the margin, but not for certain
    ],
)
def test_an_effect_needs_both_controls_beaten_and_the_stories_usable(
    diversity, usable, noise, effect
):
    got = verdict(arms(*diversity), arms(*usable, noise), 0.05, "at equal quality")
    assert got["verdict"].startswith("effect of deviation; at equal quality") == effect
    assert got["verdict"].startswith("no effect shown") == (not effect)
    means = [got[k].mean for k in ("to_shuffled", "to_dpo", "usable_to_shuffled", "usable_to_dpo")]
    assert means == pytest.approx([*diversity, *usable])
    smallest = max(detectable(got["to_shuffled"]), detectable(got["to_dpo"]))
    assert got["detectable"] == smallest
    assert effect or f"{smallest:.3f}" in got["verdict"]


def test_seeds_that_disagree_show_no_effect():
    noise = arms(0.0, 0.0, 0.001)
    steady = {name: np.tile(values, (4, 1)) for name, values in arms(0.05, 0.05).items()}
    usable = {name: np.tile(values, (4, 1)) for name, values in noise.items()}
    assert verdict(steady, usable, 0.05)["verdict"].startswith("effect of deviation")
    unsteady = steady["ddpo"] + np.array([[-0.2], [0.2], [-0.1], [0.1]])
    got = verdict({**steady, "ddpo": unsteady}, usable, 0.05)
    assert got["verdict"].startswith("no effect shown")  # prompts alone would say otherwise
    assert got["to_shuffled"].mean == pytest.approx(0.05)


def exact(hits: int, trials: int) -> tuple[float, float]:
    return tuple(scipy_stats.binomtest(hits, trials).proportion_ci(0.95, "exact"))


@pytest.mark.parametrize(("hits", "trials"), [(31, 50), (50, 50), (0, 50), (1, 3)])
def test_one_label_per_prompt_gives_the_exact_interval(hits, trials):
    once = share_interval(np.arange(trials) < hits, np.ones(trials))
    assert (once.mean, once.n) == (pytest.approx(hits / trials), trials)
    assert limits(once) == pytest.approx(exact(hits, trials))
    alike = share_interval(3 * (np.arange(trials) < hits), np.full(trials, 3))
    assert limits(alike) == pytest.approx(limits(once))  # labels alike within a prompt count once


def test_an_effective_number_of_labels_by_hand():
    """Four prompts of 6 labels with 5, 3, 1 and 3 hits: variance 4/3 * (4 + 0 + 4 + 0) / 24^2."""
    got = share_interval([5, 3, 1, 3], [6, 6, 6, 6])
    allowance = (scipy_stats.t.ppf(0.975, 23) / scipy_stats.t.ppf(0.975, 3)) ** 2
    effective = 0.25 / (4 / 3 * 8 / 24**2) * allowance
    high = scipy_stats.beta.ppf(0.975, effective / 2 + 1, effective / 2)
    assert 4 < effective < 24 and limits(got) == pytest.approx((1 - high, high))
    # hits spread more evenly than chance does still count as 120 labels
    even = share_interval(np.tile([2, 2, 2, 2, 1], 8), np.full(40, 3))
    assert limits(even) == pytest.approx(exact(72, 120))


def test_a_share_of_0_or_1_counts_prompts_and_has_a_width():
    none = share_interval(np.zeros(20), np.full(20, 3))
    every = share_interval(np.full(20, 3), np.full(20, 3))
    assert limits(none) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert limits(every) == pytest.approx((0.025 ** (1 / 20), 1))
    # one prompt has most of the labels
    lopsided = share_interval(np.zeros(11), [30] + [1] * 10)
    assert lopsided.high == pytest.approx(1 - 0.025 ** (1 / (40**2 / 910)))
    assert share_interval([0, 2], [0, 3]).n == 1  # a prompt without labels is left out
    assert share_interval([2], [3]).high - share_interval([2], [3]).low > 0.96


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_share_intervals_hold_their_share_and_mirror(pairs):
    hits, misses = np.array(pairs).T
    labels = hits + misses
    if labels.sum():
        one, other = share_interval(hits, labels), share_interval(misses, labels)
        assert 0 <= one.low <= one.mean <= one.high <= 1 and one.high - one.low > 0.03
        assert limits(other) == pytest.approx((1 - one.high, 1 - one.low))


def test_a_sign_test_by_hand():
    got = sign_test(5, 0, 3)
    assert got.p == 2 / 32
    assert got.p_split == pytest.approx(2 * (1 + 8 + 28) / 256)  # 6 : 2
    assert str(got) == "5 : 0, 3 tied, p = 0.062 (ties split: 0.29)"
    assert sign_test(0, 0, 4).p == sign_test(0, 0).p == sign_test(7, 7, 1).p == 1
    odd, mirrored = sign_test(9, 2, 3), sign_test(2, 9, 3)  # the odd tie goes to the side behind
    assert (odd.p, odd.p_split) == (mirrored.p, mirrored.p_split)
    assert odd.p_split == pytest.approx(scipy_stats.binomtest(4, 14).pvalue)


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


ONE = [1.0, 2.0]
BY_ARM = {"ddpo": ONE, "shuffled": ONE, "dpo": ONE}


@pytest.mark.parametrize(
    ("error", "call", "arguments"),
    [
        (ValueError, mean_interval, [[1.0, np.nan]]),
        (ValueError, mean_interval, [[1.0, np.inf, 2.0]]),
        (ValueError, mean_interval, [np.ones((3, 4))]),  # seeds are no prompts
        (ValueError, mean_interval, [["many", "few"]]),
        (ValueError, crossed_interval, [np.ones((1, 6))]),
        (ValueError, crossed_interval, [np.ones((3, 1))]),
        (ValueError, crossed_interval, [[[1.0, -np.inf], ONE]]),
        (ValueError, difference, [ONE, [1.0, 2.0, 3.0]]),
        (ValueError, difference, [np.ones((2, 2)), ONE]),
        (ValueError, detectable, [Interval(0.1, 0.0, 0.2, 1)]),
        (ValueError, detectable, [Interval(0.1, np.nan, np.nan, 9)]),
        (ValueError, bootstrap_interval, [np.mean, 0]),
        (ValueError, bootstrap_interval, [lambda drawn: np.nan, 5, 9]),
        (ValueError, verdict, [BY_ARM, BY_ARM, np.nan]),
        (CourseError, share_interval, [[0, 0], [0, 0]]),
        (CourseError, share_interval, [[3, 1], [2, 2]]),  # more hits than labels
        (CourseError, share_interval, [[-1, 1], [2, 2]]),
        (CourseError, share_interval, [[1, np.nan], [2, 2]]),
        (CourseError, share_interval, [[1, 1, 1], [2, 2]]),
        (CourseError, sign_test, [-1, 3]),
        (CourseError, sign_test, [3, 2, -1]),
        (CourseError, sign_test, [2.5, 3]),
        (CourseError, comparisons_needed, [0.5, 0.47]),  # needs too many
        (CourseError, comparisons_needed, [np.nan, 0.2]),
        (CourseError, sign_power, [-3, 0.6, 0.3]),
        (CourseError, sign_power, [10**12, 0.6, 0.3]),
        (CourseError, what_rates_mean, [-0.1, 0.5, 10]),
        (CourseError, what_rates_mean, [0.6, 0.3, 0]),
    ],
)
def test_faulty_values_shares_and_counts_are_refused(error, call, arguments):
    with pytest.raises(error):
        call(*arguments)
