"""Intervals against scipy, the smallest detectable difference, and every branch of the verdict rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ddpo_utils.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    crossed_interval,
    detectable,
    difference,
    mean_interval,
    verdict,
)


def test_the_interval_of_a_mean_is_scipy_s():
    rng = np.random.default_rng(0)
    for n in (2, 3, 24, 200):
        values = rng.normal(0.6, 0.1, n)
        got = mean_interval(values)
        low, high = scipy_stats.t.interval(
            0.95, n - 1, loc=values.mean(), scale=scipy_stats.sem(values)
        )
        assert (got.mean, got.low, got.high, got.n) == (
            pytest.approx(values.mean()),
            pytest.approx(low),
            pytest.approx(high),
            n,
        )


def test_prompts_without_a_value_are_left_out():
    assert mean_interval([1.0, np.nan, 3.0, 2.0]) == mean_interval([1.0, 3.0, 2.0])
    assert difference([1.0, 2.0, np.nan, 4.0], [0.0, np.nan, 1.0, 1.0]) == mean_interval([1.0, 3.0])
    for values in ([], [1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="at least two prompts"):
            mean_interval(values)


def test_a_difference_is_paired_by_prompt():
    rng = np.random.default_rng(1)
    prompts = rng.normal(0.6, 0.3, 30)  # prompts differ far more than the arms
    a, b = prompts + 0.05 + rng.normal(0, 0.01, 30), prompts + rng.normal(0, 0.01, 30)
    paired = difference(a, b)
    test = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (paired.low, paired.high) == (pytest.approx(test.low), pytest.approx(test.high))
    assert paired.above_zero and not difference(b, a).above_zero and not difference(a, a).above_zero
    with pytest.raises(ValueError, match="same prompts"):
        difference(a, b[:-1])


def test_an_interval_holds_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(2)
    hits = [
        abs((i := mean_interval(rng.normal(1, 2, 8))).mean - 1) <= i.high - i.mean
        for _ in range(2000)
    ]
    assert 0.93 < np.mean(hits) < 0.97


def test_a_detectable_difference_is_found_four_times_in_five():
    """By its own definition: data with that true difference exclude 0 in about 80% of trials."""
    rng, n, spread = np.random.default_rng(3), 40, 0.2
    standard = Interval(
        0.0, -(half := scipy_stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)), half, n
    )
    smallest = detectable(standard)
    assert smallest == pytest.approx((2.0227 + 0.8512) * spread / np.sqrt(n), rel=1e-3)
    found = [mean_interval(rng.normal(smallest, spread, n)).above_zero for _ in range(2000)]
    assert 0.77 < np.mean(found) < 0.83
    assert detectable(standard, power=0.9) > smallest > detectable(standard, power=0.5)


def test_a_bootstrap_resamples_whole_clusters():
    rng = np.random.default_rng(4)
    values = np.repeat(
        rng.normal(0, 1, 40), 10
    )  # ten copies of each cluster's value tell nothing new
    clusters = np.repeat(np.arange(40), 10)
    got = bootstrap_interval(
        lambda drawn: np.mean([values[clusters == c].mean() for c in drawn]), 40, draws=400
    )
    exact = mean_interval(values[::10])
    assert got.mean == pytest.approx(exact.mean) and got.n == 40
    assert got.high - got.low == pytest.approx(exact.high - exact.low, rel=0.2)
    again = bootstrap_interval(lambda drawn: float(drawn.mean()), 12, draws=50, seed=3)
    assert again == bootstrap_interval(lambda drawn: float(drawn.mean()), 12, draws=50, seed=3)
    assert again != bootstrap_interval(lambda drawn: float(drawn.mean()), 12, draws=50, seed=4)


def test_an_interval_prints_itself():
    assert str(Interval(0.12345, -0.1, 0.35, 9)) == "0.123 [-0.100, 0.350]"


def arms(
    to_shuffled: float, to_dpo: float, noise: float = 0.01, n: int = 40
) -> dict[str, np.ndarray]:
    """One value a prompt for each arm, with these mean differences of DDPO to its controls."""
    rng = np.random.default_rng(5)
    base, wobble = rng.normal(0.6, 0.1, n), rng.normal(0, noise, (2, n))
    wobble -= wobble.mean(axis=1, keepdims=True)
    return {
        "ddpo": base,
        "shuffled": base - to_shuffled + wobble[0],
        "dpo": base - to_dpo + wobble[1],
    }


def test_an_effect_needs_both_controls_beaten_and_the_stories_usable():
    same = arms(0.0, 0.0, 0.001)
    effect = verdict(arms(0.05, 0.05), same, margin=0.05)
    assert effect["verdict"] == "effect of deviation; quality not measured"
    assert effect["to_shuffled"].mean == pytest.approx(0.05) and effect["to_shuffled"].above_zero
    assert (
        verdict(arms(0.05, 0.05), same, 0.05, "at equal quality")["verdict"]
        == "effect of deviation; at equal quality"
    )
    # more usable stories do not hurt
    assert verdict(arms(0.05, 0.05), arms(0.3, 0.3), 0.05)["verdict"].startswith("effect")


@pytest.mark.parametrize(
    ("diversity", "usable"),
    [
        ((0.0, 0.05), (0.0, 0.0)),  # shuffled weights do as well
        ((0.05, 0.0), (0.0, 0.0)),  # DPO at the same KL does as well
        ((-0.05, 0.05), (0.0, 0.0)),  # worse than shuffled weights
        ((0.05, 0.05), (-0.06, 0.0)),  # paid for with failures, against shuffled weights
        ((0.05, 0.05), (0.0, -0.06)),  # and against DPO
        ((0.05, 0.05), (-0.049, 0.0)),  # within the margin on average, but not for certain
    ],
)
def test_anything_else_is_no_effect_shown(diversity, usable):
    got = verdict(arms(*diversity), arms(*usable, 0.02), margin=0.05, quality="at equal quality")
    assert got["verdict"].startswith("no effect shown") and "quality" not in got["verdict"]
    assert f"{got['detectable']:.3f}" in got["verdict"]


def test_a_large_but_uncertain_difference_is_no_effect():
    noisy = arms(0.05, 0.05, noise=0.5)
    got = verdict(noisy, arms(0.0, 0.0, 0.001), margin=0.05)
    assert got["verdict"].startswith("no effect shown")
    assert (
        got["detectable"] == max(detectable(got["to_shuffled"]), detectable(got["to_dpo"])) > 0.05
    )


def test_the_verdict_hands_out_what_it_rests_on():
    got = verdict(arms(0.04, 0.03), arms(0.01, -0.01), margin=0.05)
    assert set(got) == {
        "verdict",
        "to_shuffled",
        "to_dpo",
        "usable_to_shuffled",
        "usable_to_dpo",
        "detectable",
    }
    means = [got[k].mean for k in ("to_shuffled", "to_dpo", "usable_to_shuffled", "usable_to_dpo")]
    assert means == pytest.approx([0.04, 0.03, 0.01, -0.01])


def crossed(
    rng: np.random.Generator, seeds: int, prompts: int, sizes: tuple[float, float, float]
) -> np.ndarray:
    """(seeds, prompts) draws with mean 0 and these standard deviations of seeds, prompts and the rest."""
    by_seed, by_prompt, rest = sizes
    return (
        by_seed * rng.normal(size=(seeds, 1))
        + by_prompt * rng.normal(size=(1, prompts))
        + rest * rng.normal(size=(seeds, prompts))
    )


def test_a_crossed_interval_by_hand():
    got = crossed_interval([[1.0, 2.0, 6.0], [3.0, 4.0, 2.0]])
    # seed means 3, 3; prompt means 2, 3, 4; residuals -1, -1, 2 and their mirror: MS 0, 2 and 6
    assert (got.mean, got.n) == (3.0, 3)
    df = 2**2 / (0 / 1 + 2**2 / 2 + 6**2 / 2)  # 0 + 2 - 6 is below 2, which takes its place
    assert got.df == pytest.approx(df)
    assert got.high - 3 == pytest.approx(scipy_stats.t.ppf(0.975, df) * np.sqrt(2 / 6))
    got = crossed_interval([[1.0, 2.0, 3.0], [5.0, 6.0, 10.0]])
    # seed means 2, 7; prompt means 3, 4, 6.5; residuals 0.5, 0.5, -1 and their mirror: MS 37.5, 6.5 and 1.5
    assert got.df == pytest.approx(42.5**2 / (37.5**2 / 1 + 6.5**2 / 2 + 1.5**2 / 2))
    assert got.mean - got.low == pytest.approx(scipy_stats.t.ppf(0.975, got.df) * np.sqrt(42.5 / 6))


@pytest.mark.parametrize("seeds", [4, 10])
@pytest.mark.parametrize("sizes", [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1), (0.1, 0.3, 1)])
def test_a_crossed_interval_holds_the_truth_nineteen_times_in_twenty(seeds, sizes):
    rng = np.random.default_rng(6)
    hits = [
        (i := crossed_interval(crossed(rng, seeds, 40, sizes))).low <= 0 <= i.high
        for _ in range(1000)
    ]
    assert 0.92 < np.mean(hits) < 0.99


def test_prompts_alone_would_promise_too_much_where_seeds_differ():
    rng = np.random.default_rng(7)
    data = [crossed(rng, 4, 40, (0.5, 0.5, 0.5)) for _ in range(300)]
    alone = [mean_interval(d.mean(axis=0)) for d in data]
    assert np.mean([i.low <= 0 <= i.high for i in alone]) < 0.7
    assert np.mean([(i := crossed_interval(d)).low <= 0 <= i.high for d in data]) > 0.9


def test_where_seeds_do_not_matter_seeds_cost_nothing():
    """The same series from every seed is known as well as from one: what prompts tell is all there is."""
    series = np.random.default_rng(8).normal(size=30)
    both, one = crossed_interval(np.tile(series, (5, 1))), mean_interval(series)
    assert (both.mean, both.low, both.high, both.df) == pytest.approx(
        (one.mean, one.low, one.high, 29)
    )
    assert crossed_interval(np.ones((3, 4))) == Interval(1.0, 1.0, 1.0, 4, 2.0)


def test_a_prompt_without_a_value_for_some_seed_is_left_out():
    values = crossed(np.random.default_rng(9), 3, 6, (1, 1, 1))
    gap = values.copy()
    gap[1, 4] = np.nan
    assert crossed_interval(gap) == crossed_interval(np.delete(values, 4, axis=1))
    for few in (values[:1], values[:, :1], np.where(np.arange(6) < 1, values, np.nan)):
        with pytest.raises(ValueError, match="two seeds and two prompts"):
            crossed_interval(few)


def test_a_detectable_difference_counts_seeds_too():
    """Four seeds that differ, and hardly anything else: three degrees of freedom, however many prompts."""
    wide = crossed_interval(np.array([[-1.0], [0.0], [0.5], [1.5]]) + np.zeros(40))
    assert wide.df == pytest.approx(3) and wide.n == 40
    error = np.std([-1.0, 0.0, 0.5, 1.5], ddof=1) / 2
    assert detectable(wide) == pytest.approx((3.1824 + 0.9785) * error, rel=1e-4)


def test_the_verdict_takes_seeds_as_it_takes_one():
    """An effect in every seed is one; the same mean effect that seeds disagree about is none."""
    same = {name: np.tile(series, (4, 1)) for name, series in arms(0.0, 0.0, 0.001).items()}
    steady = {name: np.tile(series, (4, 1)) for name, series in arms(0.05, 0.05).items()}
    got = verdict(steady, same, margin=0.05)
    assert got["verdict"].startswith("effect of deviation") and got["to_dpo"].mean == pytest.approx(
        0.05
    )
    unsteady = {**steady, "ddpo": steady["ddpo"] + np.array([[-0.2], [0.2], [-0.1], [0.1]])}
    got = verdict(unsteady, same, margin=0.05)
    assert got["to_shuffled"].mean == pytest.approx(0.05) and got["verdict"].startswith(
        "no effect shown"
    )
    assert mean_interval(
        (unsteady["ddpo"] - unsteady["dpo"]).mean(axis=0)
    ).above_zero  # prompts alone would say yes
    with pytest.raises(ValueError, match="same prompts"):
        difference(steady["ddpo"], steady["dpo"][:2])
