"""Intervals against scipy, and by hand; the verdict; shares and the sign test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special as scipy_special
from scipy import stats as scipy_stats

from ddpo_utils import CourseError
from ddpo_utils.evaluation.statistics import (
    Interval,
    crossed_interval,
    detectable,
    difference,
    jackknife_interval,
    mean_interval,
    share_difference,
    share_interval,
    sign_test,
    verdict,
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


def test_a_jackknife_leaves_out_whole_clusters():
    values = np.random.default_rng(4).normal(0, 1, 12)
    of_mean = jackknife_interval(lambda clusters: values[clusters].mean(), 12)
    exact_ = mean_interval(values)
    assert (of_mean.mean, *limits(of_mean), of_mean.n) == pytest.approx(
        (exact_.mean, *limits(exact_), 12)
    )
    # a share on the logit scale, by hand: 4 clusters with 1, 1, 2, 2 of 2
    hits = np.array([0.5, 0.5, 1, 1])
    logits = scipy_special.logit(np.array([0.75, 5 / 6, 5 / 6, 2 / 3, 2 / 3]))
    expected = scipy_special.expit(limits(mean_interval(4 * logits[0] - 3 * logits[1:])))
    got = jackknife_interval(lambda clusters: hits[clusters].mean(), 4, (0, 1))
    assert limits(got) == pytest.approx(tuple(expected)) and got.mean == 0.75
    stretched = jackknife_interval(lambda clusters: 2 * hits[clusters].mean() - 1, 4, (-1, 1))
    assert limits(stretched) == pytest.approx(tuple(2 * expected - 1))


def test_a_statistic_at_its_bound_has_the_exact_interval_of_its_clusters():
    got = jackknife_interval(lambda clusters: 1.0, 9, (-1, 1))
    assert limits(got) == pytest.approx((2 * 0.025 ** (1 / 9) - 1, 1))
    one_case = np.array([0.8, *np.ones(9)])  # without it the statistic is at its bound
    got = jackknife_interval(lambda clusters: one_case[clusters].mean(), 10, (0, 1))
    assert 0.6 < got.low < 0.8 and 0.98 < got.high < 1


def test_a_difference_of_shares_has_a_width_and_mirrors():
    every = np.ones(40)
    got = share_difference(every, every, stories=4)
    effective = 160 / (1 + 3 * 0.25)
    assert limits(got) == pytest.approx(
        (0.025 ** (1 / effective) - 1, 1 - 0.025 ** (1 / effective))
    )
    seeds = np.ones((3, 40))
    assert share_difference(seeds, seeds).high == pytest.approx(1 - 0.025 ** (1 / 80))
    rng = np.random.default_rng(8)
    a, b = rng.binomial(4, 0.6, (2, 40)) / 4
    got, back = share_difference([*a, np.nan], [*b, 1.0]), share_difference(b, a)
    assert limits(got) == pytest.approx((-back.high, -back.low))
    assert limits(got) == pytest.approx(limits(difference(a, b)), abs=0.01)  # far from 0 and 1
    seeds = rng.binomial(4, 0.6, (2, 4, 40)) / 4
    assert limits(share_difference(*seeds)) == pytest.approx(limits(difference(*seeds)), abs=0.01)


def test_all_stories_usable_is_no_proof_with_few_prompts():
    few, many = arms(0.05, 0.05, 0.001, 6), arms(0.05, 0.05, 0.001, 40)
    usable = {arm: np.ones(6) for arm in few}
    assert verdict(few, usable, 0.05, stories=4)["verdict"].startswith("no effect shown")
    usable = {arm: np.ones(40) for arm in many}
    assert verdict(many, usable, 0.05, stories=4)["verdict"].startswith("effect of deviation")


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
        (ValueError, jackknife_interval, [np.mean, 1]),
        (ValueError, jackknife_interval, [lambda clusters: float(4 in clusters) or np.nan, 5]),
        (ValueError, share_difference, [ONE, ONE]),  # no shares
        (ValueError, share_difference, [[0.5, -0.1], [0.5, 0.5]]),
        (ValueError, verdict, [BY_ARM, BY_ARM, np.nan]),
        (CourseError, share_interval, [[0, 0], [0, 0]]),
        (CourseError, share_interval, [[3, 1], [2, 2]]),  # more hits than labels
        (CourseError, share_interval, [[-1, 1], [2, 2]]),
        (CourseError, share_interval, [[1, np.nan], [2, 2]]),
        (CourseError, share_interval, [[1, 1, 1], [2, 2]]),
        (CourseError, sign_test, [-1, 3]),
        (CourseError, sign_test, [3, 2, -1]),
        (CourseError, sign_test, [2.5, 3]),
    ],
)
def test_faulty_values_shares_and_counts_are_refused(error, call, arguments):
    with pytest.raises(error):
        call(*arguments)
