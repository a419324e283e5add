"""Intervals of win rates against scipy and by simulation; the sign test and its power; rates at n items."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ddpo_utils.evaluation.rates import (
    clustered_share,
    comparisons_needed,
    share_interval,
    sign_power,
    sign_test,
    what_rates_mean,
)
from ddpo_utils.settings import CourseError


@pytest.mark.parametrize(("hits", "trials"), [(31, 50), (13, 50), (50, 50), (0, 50), (1, 3)])
def test_one_label_a_prompt_gives_the_exact_interval_less_what_few_prompts_cost(
    hits: int, trials: int
) -> None:
    """The variance is that of a binomial but for n / (n - 1), which takes away no more than one label."""
    got = share_interval(np.arange(trials) < hits, np.ones(trials))
    exact = scipy_stats.binomtest(hits, trials).proportion_ci(0.95, "exact")
    assert (got.mean, got.low, got.high, got.n) == pytest.approx(
        (hits / trials, exact.low, exact.high, trials)
    )


def test_labels_that_are_alike_within_a_prompt_count_once() -> None:
    once = share_interval(np.arange(40) < 25, np.ones(40))
    thrice = share_interval(3 * (np.arange(40) < 25), np.full(40, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    spread = share_interval(
        np.tile([2, 2, 2, 2, 1], 8), np.full(40, 3)
    )  # labels that never are: more than 120 in worth
    exact = scipy_stats.binomtest(72, 120).proportion_ci(0.95, "exact")
    assert (spread.low, spread.high) == pytest.approx((exact.low, exact.high)), (
        "but they count as 120"
    )


def test_an_effective_number_of_labels_by_hand() -> None:
    """Four prompts of 6 labels with 5, 3, 1 and 3 hits: variance 4/3 * (4 + 0 + 4 + 0) / 24^2."""
    got = share_interval([5, 3, 1, 3], [6, 6, 6, 6])
    independent = (
        0.25
        / (4 / 3 * 8 / 24**2)
        * (scipy_stats.t.ppf(0.975, 23) / scipy_stats.t.ppf(0.975, 3)) ** 2
    )
    assert 4 < independent < 24
    half = scipy_stats.beta.ppf(0.975, independent / 2 + 1, independent / 2)
    assert (got.mean, got.low, got.high, got.n) == pytest.approx((0.5, 1 - half, half, 4))


def test_a_share_of_nought_or_one_counts_prompts_and_has_a_width() -> None:
    none, every = (
        share_interval(np.zeros(20), np.full(20, 3)),
        share_interval(np.full(20, 3), np.full(20, 3)),
    )
    assert (none.mean, none.low, every.mean, every.high) == (0, 0, 1, 1)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20)) and every.low == pytest.approx(
        0.025 ** (1 / 20)
    )
    # one prompt with most of the labels: fewer than 11 prompts' worth
    lopsided = share_interval(np.zeros(11), [30] + [1] * 10)
    assert lopsided.high == pytest.approx(1 - 0.025 ** (1 / (40**2 / 910)))
    assert share_interval([0, 2], [0, 3]).n == 1  # a prompt without labels is none
    assert (
        share_interval([2], [3]).low < 0.02 and share_interval([2], [3]).high > 0.98
    )  # one prompt tells nothing
    with pytest.raises(CourseError, match="at least one label"):
        share_interval([0, 0], [0, 0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_intervals_hold_their_share_and_mirror(pairs: list[tuple[int, int]]) -> None:
    hits, misses = np.array(pairs).T
    labels = hits + misses
    if labels.sum():
        one, other = share_interval(hits, labels), share_interval(misses, labels)
        assert 0 <= one.low <= one.mean <= one.high <= 1 and one.high - one.low > 0.03
        assert (other.mean, other.low, other.high) == pytest.approx(
            (1 - one.mean, 1 - one.high, 1 - one.low)
        )


def draws(
    rng: np.random.Generator, share: float, alike: float, prompts: int, labels: int, size: int
) -> np.ndarray:
    """(size, prompts) hits among `labels` labels of a prompt, whose correlation within prompts is `alike`."""
    own = rng.random((size, prompts)) < share if alike == 1 else np.full((size, prompts), share)
    if 0 < alike < 1:
        own = rng.beta(
            share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, (size, prompts)
        )
    return rng.binomial(labels, own)


@pytest.mark.parametrize("prompts", [10, 50])
@pytest.mark.parametrize("alike", [0, 0.3, 1])
def test_a_clustered_interval_holds_the_truth_nineteen_times_in_twenty(
    prompts: int, alike: float
) -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.26, 0.62, 0.95):
        _, low, high = clustered_share(draws(rng, share, alike, prompts, 3, 4000), 3)
        assert (
            np.mean((low <= share) & (high >= share)) > 0.94
        )  # three standard errors of 4,000 draws


def test_an_interval_that_counts_labels_would_promise_too_much() -> None:
    hits = draws(np.random.default_rng(1), 0.62, 1, 50, 3, 2000)
    _, low, high = clustered_share(hits, 3)
    _, as_labels, as_labels_high = clustered_share(
        hits.sum(axis=1)[:, None] / 150 * np.ones(150), 1
    )
    assert (
        np.mean((as_labels <= 0.62) & (as_labels_high >= 0.62))
        < 0.85
        < np.mean((low <= 0.62) & (high >= 0.62))
    )


def test_a_sign_test_by_hand() -> None:
    got = sign_test(5, 0, 3)
    assert (got.wins, got.losses, got.ties, got.p) == (5, 0, 3, 2 / 32)
    assert got.p_split == pytest.approx(
        2 * (1 + 8 + 28) / 256
    )  # 6 : 2, the odd tie goes to the side behind
    assert str(got) == "5 : 0, 3 tied, p = 0.062 (ties split: 0.29)"
    assert (
        sign_test(0, 0, 4).p
        == sign_test(0, 0).p
        == sign_test(0, 0, 4).p_split
        == sign_test(7, 7, 1).p
        == 1
    )
    assert sign_test(31, 13, 6).p == pytest.approx(scipy_stats.binomtest(31, 44).pvalue)
    assert sign_test(31, 13, 6).p_split == pytest.approx(scipy_stats.binomtest(34, 50).pvalue)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
def test_a_sign_test_knows_no_side_and_splitting_ties_is_more_careful(
    wins: int, losses: int, ties: int
) -> None:
    one, other = sign_test(wins, losses, ties), sign_test(losses, wins, ties)
    assert (one.p, one.p_split) == (other.p, other.p_split)
    assert one.p - 1e-12 <= one.p_split <= 1 and (ties or one.p == one.p_split)


@pytest.mark.parametrize(
    ("n", "win", "loss"), [(12, 0.62, 0.26), (9, 0.5, 0.5), (20, 0.3, 0.3), (15, 1.0, 0.0)]
)
def test_power_sums_over_every_outcome(n: int, win: float, loss: float) -> None:
    slow = sum(
        scipy_stats.multinomial.pmf([w, lost, n - w - lost], n, [win, loss, 1 - win - loss])
        for w in range(n + 1)
        for lost in range(n + 1 - w)
        if sign_test(w, lost).p <= 0.05
    )
    assert (
        sign_power(n, win, loss) == pytest.approx(slow) == pytest.approx(sign_power(n, loss, win))
    )


def test_power_is_how_often_a_simulation_finds_it() -> None:
    counts = np.random.default_rng(2).multinomial(50, [0.62, 0.26, 0.12], 3000)
    p = {pair: sign_test(*pair).p for pair in {(int(w), int(lost)) for w, lost, _ in counts}}
    found = np.mean([p[int(w), int(lost)] <= 0.05 for w, lost, _ in counts])
    assert sign_power(50, 0.62, 0.26) == pytest.approx(found, abs=0.03)
    for n in range(0, 60, 7):
        assert sign_power(n, 0.44, 0.44) <= 0.05  # equal systems: the size of the test
    assert sign_power(100, 0.0, 0.0) == 0


@pytest.mark.parametrize(
    ("win", "loss"), [(0.62, 0.26), (0.26, 0.62), (1.0, 0.0), (0.7, 0.3), (0.4, 0.2)]
)
def test_as_many_comparisons_as_needed_and_no_more(win: float, loss: float) -> None:
    needed = comparisons_needed(win, loss)
    assert sign_power(needed - 1, win, loss) < 0.8
    assert all(sign_power(n, win, loss) >= 0.8 for n in range(needed, 2 * needed + 20))
    assert comparisons_needed(win, loss, power=0.9) > needed or win == 1
    assert comparisons_needed(1, 0) == 6  # five wins of five have p = 1/16


def test_what_no_panel_can_tell_and_what_are_no_shares_is_refused() -> None:
    for pair in ((0.5, 0.5), (0.5, 0.47), (0, 0)):
        with pytest.raises(CourseError, match="5,000"):
            comparisons_needed(*pair)
    for pair in ((62, 26), (0.7, 0.4), (-0.1, 0.5)):
        for call in (comparisons_needed, partial(sign_power, 10), partial(what_rates_mean, n=10)):
            with pytest.raises(CourseError, match="add up to 1"):
                call(*pair)
    with pytest.raises(CourseError, match="one item"):
        what_rates_mean(0.6, 0.3, 0)


def likeliest(wins: float, losses: float, n: int, gap: float) -> float:
    """Tango's statistic with the constrained likelihood searched on a grid: the slow way."""
    lost = np.linspace(max(0.0, -gap), (1 - gap) / 2, 40001)[1:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [
            np.where(count > 0, count * np.log(share), 0.0)
            for count, share in (
                (wins, lost + gap),
                (losses, lost),
                (n - wins - losses, 1 - 2 * lost - gap),
            )
        ]
    best = lost[np.argmax(sum(parts))]
    return (wins - losses - n * gap) / np.sqrt(n * (2 * best + gap - gap**2))


@pytest.mark.parametrize(
    ("wins", "losses", "n"), [(31, 13, 50), (34, 12, 50), (3, 9, 20), (10, 10, 40), (62, 26, 100)]
)
def test_rates_at_n_items_are_exact_shares_and_a_score_interval(
    wins: int, losses: int, n: int
) -> None:
    got = what_rates_mean(wins / n, losses / n, n)
    for name, count in (("win", wins), ("loss", losses)):
        exact = scipy_stats.binomtest(count, n).proportion_ci(0.95, "exact")
        assert (got[name].mean, got[name].low, got[name].high) == pytest.approx(
            (count / n, exact.low, exact.high)
        )
    gap = got["difference"]
    assert gap.mean == pytest.approx((wins - losses) / n) and gap.n == n
    assert likeliest(wins, losses, n, gap.low) == pytest.approx(1.96, abs=2e-3)
    assert likeliest(wins, losses, n, gap.high) == pytest.approx(-1.96, abs=2e-3)
    mirrored = what_rates_mean(losses / n, wins / n, n)["difference"]
    assert (mirrored.low, mirrored.high) == pytest.approx((-gap.high, -gap.low))


@pytest.mark.parametrize("n", [50, 100])
def test_a_clean_sweep_is_no_certainty(n: int) -> None:
    sweep, z2 = what_rates_mean(1, 0, n), scipy_stats.norm.ppf(0.975) ** 2
    assert (sweep["win"].low, sweep["loss"].high) == pytest.approx(
        (0.025 ** (1 / n), 1 - 0.025 ** (1 / n))
    )
    # n^2 (1 - gap)^2 = z^2 n (1 - gap^2): what is not won is likeliest lost
    assert (sweep["difference"].low, sweep["difference"].high) == pytest.approx(
        ((n - z2) / (n + z2), 1)
    )
    silent = what_rates_mean(0, 0, n)["difference"]
    assert (silent.low, silent.high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)))


def test_the_difference_holds_the_truth_nineteen_times_in_twenty() -> None:
    """Coverage at 20 items, summed over every outcome."""
    n, win, loss = 20, 0.62, 0.26
    covered = 0.0
    for w in range(n + 1):
        for lost in range(n + 1 - w):
            chance = scipy_stats.multinomial.pmf(
                [w, lost, n - w - lost], n, [win, loss, 1 - win - loss]
            )
            if chance > 1e-5:
                gap = what_rates_mean(w / n, lost / n, n)["difference"]
                covered += chance * (gap.low <= win - loss <= gap.high)
    assert 0.93 < covered < 0.98
