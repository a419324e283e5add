"""Intervals against scipy, the smallest detectable difference, and every branch of the verdict rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ddpo_utils.stats import Interval, bootstrap_interval, detectable, difference, mean_interval, verdict


def test_the_interval_of_a_mean_is_scipy_s():
    rng = np.random.default_rng(0)
    for n in (2, 3, 24, 200):
        values = rng.normal(0.6, 0.1, n)
        got = mean_interval(values)
        low, high = scipy_stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy_stats.sem(values))
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
    hits = [abs((i := mean_interval(rng.normal(1, 2, 8))).mean - 1) <= i.high - i.mean for _ in range(2000)]
    assert 0.93 < np.mean(hits) < 0.97


def test_a_detectable_difference_is_found_four_times_in_five():
    """By its own definition: data with that true difference exclude 0 in about 80% of trials."""
    rng, n, spread = np.random.default_rng(3), 40, 0.2
    standard = Interval(0.0, -(half := scipy_stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n)), half, n)
    smallest = detectable(standard)
    assert smallest == pytest.approx((2.0227 + 0.8512) * spread / np.sqrt(n), rel=1e-3)
    found = [mean_interval(rng.normal(smallest, spread, n)).above_zero for _ in range(2000)]
    assert 0.77 < np.mean(found) < 0.83
    assert detectable(standard, power=0.9) > smallest > detectable(standard, power=0.5)


def test_a_bootstrap_resamples_whole_clusters():
    rng = np.random.default_rng(4)
    values = np.repeat(rng.normal(0, 1, 40), 10)  # ten copies of each cluster's value tell nothing new
    clusters = np.repeat(np.arange(40), 10)
    got = bootstrap_interval(lambda drawn: np.mean([values[clusters == c].mean() for c in drawn]), 40, draws=400)
    exact = mean_interval(values[::10])
    assert got.mean == pytest.approx(exact.mean) and got.n == 40
    assert got.high - got.low == pytest.approx(exact.high - exact.low, rel=0.2)
    again = bootstrap_interval(lambda drawn: float(drawn.mean()), 12, draws=50, seed=3)
    assert again == bootstrap_interval(lambda drawn: float(drawn.mean()), 12, draws=50, seed=3)
    assert again != bootstrap_interval(lambda drawn: float(drawn.mean()), 12, draws=50, seed=4)


def test_an_interval_prints_itself():
    assert str(Interval(0.12345, -0.1, 0.35, 9)) == "0.123 [-0.100, 0.350]"


def arms(to_shuffled: float, to_dpo: float, noise: float = 0.01, n: int = 40) -> dict[str, np.ndarray]:
    """One value a prompt for each arm, with these mean differences of DDPO to its controls."""
    rng = np.random.default_rng(5)
    base, wobble = rng.normal(0.6, 0.1, n), rng.normal(0, noise, (2, n))
    wobble -= wobble.mean(axis=1, keepdims=True)
    return {"ddpo": base, "shuffled": base - to_shuffled + wobble[0], "dpo": base - to_dpo + wobble[1]}


def test_an_effect_needs_both_controls_beaten_and_the_stories_usable():
    same = arms(0.0, 0.0, 0.001)
    effect = verdict(arms(0.05, 0.05), same, margin=0.05)
    assert effect["verdict"] == "effect of deviation; quality not measured"
    assert effect["to_shuffled"].mean == pytest.approx(0.05) and effect["to_shuffled"].above_zero
    assert (
        verdict(arms(0.05, 0.05), same, 0.05, "at equal quality")["verdict"] == "effect of deviation; at equal quality"
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
    assert got["detectable"] == max(detectable(got["to_shuffled"]), detectable(got["to_dpo"])) > 0.05


def test_the_verdict_hands_out_what_it_rests_on():
    got = verdict(arms(0.04, 0.03), arms(0.01, -0.01), margin=0.05)
    assert set(got) == {"verdict", "to_shuffled", "to_dpo", "usable_to_shuffled", "usable_to_dpo", "detectable"}
    means = [got[k].mean for k in ("to_shuffled", "to_dpo", "usable_to_shuffled", "usable_to_dpo")]
    assert means == pytest.approx([0.04, 0.03, 0.01, -0.01])
