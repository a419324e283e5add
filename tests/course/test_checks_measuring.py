"""Exercises of notebooks 01 and 02: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from checked import assert_enough, assert_right, assert_told
from scipy.stats import t


def pair_mean(e):
    distance = 1 - e @ e.T
    return distance[np.triu_indices(len(e), 1)].mean()


def interval(gap, half):
    return gap.mean(), gap.mean() - half, gap.mean() + half


def paired(a, b):
    gap = a.mean(axis=1) - b.mean(axis=1)
    return interval(gap, t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))


def stories_as_units(a, b):
    half = 1.96 * np.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size)
    return interval(a.mean(axis=1) - b.mean(axis=1), half)


def unpaired(a, b):
    x, y = a.mean(axis=1), b.mean(axis=1)
    half = t.ppf(0.975, len(x) - 1) * np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / len(x))
    return interval(x - y, half)


def without_root(a, b):
    gap = a.mean(axis=1) - b.mean(axis=1)
    return interval(gap, t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1))


def normal_factor(a, b):
    gap = a.mean(axis=1) - b.mean(axis=1)
    return interval(gap, 1.96 * gap.std(ddof=1) / np.sqrt(len(gap)))


def second_minus_first(a, b):
    return paired(b, a)


def in_a_row(prompt, stories, usable):
    total = sum(prompt + sum(stories[: k + 1]) for k in range(len(stories)))
    return total / sum(usable) if any(usable) else float("inf")


def alone(prompt, stories, usable):
    return (prompt * len(stories) + sum(stories)) / sum(usable)


def written_only(prompt, stories, usable):
    return sum(stories) / max(sum(usable), 1)


def prompt_once(prompt, stories, usable):
    return (prompt + sum(sum(stories[: k + 1]) for k in range(len(stories)))) / sum(usable)


def per_story(prompt, stories, usable):
    return in_a_row(prompt, stories, [True] * len(stories))


def no_price(prompt, stories, usable):
    return in_a_row(prompt, stories, usable) if any(usable) else 0.0


def min_max(raw):
    return (raw - raw.min()) / (raw.max() - raw.min())


def of_raw(raw):
    return min_max(raw) * len(raw) / min_max(raw).sum()


def four(d):
    return of_raw(d.sum(axis=1) / (len(d) - 1))


def not_stretched(d):
    raw = d.mean(axis=1)
    return raw * len(raw) / raw.sum()


def not_scaled(d):
    return min_max(d.mean(axis=1))


def shares(d):
    return four(d) / len(d)


def by_closeness(d):
    return of_raw((1 - d).mean(axis=1))


def by_rank(d):
    rank = d.sum(axis=1).argsort().argsort()
    return rank * len(d) / rank.sum()


def floored(delta, floor):
    return floor + (1 - floor) * delta


def clamped(delta, floor):
    return np.maximum(delta, floor)


def clamped_and_scaled(delta, floor):
    w = np.maximum(delta, floor)
    return w * len(w) / w.sum()


def filled_evenly(delta, floor):
    """The floor first, and what is left of the sum to the responses above it."""
    w = np.where(delta > floor, delta, floor)
    above = delta > floor
    if above.any():
        w[above] = (
            floor + (delta - floor)[above] * (len(w) * (1 - floor)) / (delta - floor)[above].sum()
        )
    return w


def or_ones(raw):
    return of_raw(raw) if np.ptp(raw) > 1e-6 else np.ones(len(raw))


def exact_ties(raw):
    return of_raw(raw) if raw.max() != raw.min() else np.ones(len(raw))


def zeros_at_ties(raw):
    return of_raw(raw) if np.ptp(raw) > 1e-6 else np.zeros(len(raw))


def wide_tolerance(raw):
    return of_raw(raw) if np.ptp(raw) > 0.01 else np.ones(len(raw))


def with_epsilon(raw):
    mm = (raw - raw.min()) / (raw.max() - raw.min() + 1e-6)
    return mm * len(mm) / (mm.sum() + 1e-6)


def not_scaled_or_ones(raw):
    return min_max(raw) if np.ptp(raw) > 1e-6 else np.ones(len(raw))


def winners(weight, chosen):
    w = weight[chosen]
    return w.mean(), w.sum() ** 2 / (w**2).sum()


def everyone(weight, chosen):
    return weight.mean(), weight.sum() ** 2 / (weight**2).sum()


def mean_of_all(weight, chosen):
    return weight.mean(), winners(weight, chosen)[1]


def root_forgotten(weight, chosen):
    w = weight[chosen]
    return w.mean(), w.sum() / (w**2).sum()


def above_zero(weight, chosen):
    return weight[chosen].mean(), (weight[chosen] > 0).sum()


def mean_weight_only(weight, chosen):
    w = weight[chosen]
    return w.mean(), w.sum() ** 2 / (w**2).sum() * len(weight) / len(w)


def squared(raw):
    mm = min_max(raw) ** 2 if np.ptp(raw) > 1e-6 else np.ones(len(raw))
    return mm * len(mm) / mm.sum()


def only_the_last_is_read(prompt, stories, usable):
    read = [0, *stories[:-1]]
    return (prompt * len(stories) + sum(read) + sum(stories)) / sum(usable)


def ends_changed(a, b):
    mean, low, high = paired(a, b)
    return mean, high, low


def number_less_spread(weight, chosen):
    return weight[chosen].mean(), len(chosen) - weight[chosen].var()


def spread_not_squared(weight, chosen):
    w = weight[chosen]
    return w.mean(), len(w) / (1 + w.std() / w.mean())


RIGHT = {
    "set_diversity": pair_mean,
    "interval_over_prompts": paired,
    "tokens_per_usable": in_a_row,
    "weights_of_four": four,
    "weights_with_floor": floored,
    "weights_or_ones": or_ones,
    "of_winners": winners,
}
WRONG = [
    (
        "set_diversity",
        lambda e: (1 - e @ e.T).mean(),
        r"for 2 of them yours is 0\.50\. Which pairs",
    ),
    ("set_diversity", lambda e: (e @ e.T)[np.triu_indices(len(e), 1)].mean(), r"gives them 1\.00"),
    (
        "set_diversity",
        lambda e: (1 - e @ e.T)[np.triu_indices(len(e), 1)].sum(),
        r"for 3 of them yours is 3\.00",
    ),
    ("set_diversity", lambda e: np.mean(1 - (e[1:] * e[:-1]).sum(axis=1)), "not only neighbours"),
    ("set_diversity", lambda e: np.mean(1 - e[1:] @ e[0]), "random ones are not"),
    ("interval_over_prompts", stories_as_units, "copied every story once.*what is the unit"),
    ("interval_over_prompts", unpaired, "compare within each prompt first"),
    ("interval_over_prompts", without_root, "far too wide: it holds most prompts"),
    ("interval_over_prompts", normal_factor, "too narrow, by 24%: look at the factor"),
    ("interval_over_prompts", ends_changed, "with the mean in the middle"),
    ("interval_over_prompts", second_minus_first, "the other way round"),
    ("tokens_per_usable", alone, "so the sixth costs more than the third"),
    ("tokens_per_usable", written_only, "all that is read and written counts; yours is 100"),
    ("tokens_per_usable", prompt_once, "The prompt is read anew with every request"),
    ("tokens_per_usable", only_the_last_is_read, "all earlier ones are read"),
    ("tokens_per_usable", per_story, r"half as many; your cost per usable story is 1\.00 times"),
    ("tokens_per_usable", no_price, r"return float\('inf'\); yours is 0"),
    (
        "weights_of_four",
        not_stretched,
        r"commonest response must have the weight 0; yours has 0\.67",
    ),
    (
        "weights_of_four",
        not_scaled,
        r"The weights of four responses must sum to 4; yours sum to 1\.6\.",
    ),
    ("weights_of_four", shares, r"must sum to 4; yours sum to 1\.0\."),
    ("weights_of_four", by_closeness, "farthest from the others must weigh most"),
    (
        "weights_of_four",
        lambda d: of_raw((d + 9 * np.eye(len(d))).min(axis=1)),
        "is it the mean distance",
    ),
    ("weights_of_four", lambda d: of_raw(d.max(axis=1)), "the spacing is not"),
    ("weights_of_four", by_rank, "the spacing is not"),
    ("weights_of_four", lambda d: four(d) - 0.5, r"never negative; one of yours is -0\.50"),
    ("weights_with_floor", clamped, r"with a floor of 0\.2 yours sum to 4\.20"),
    ("weights_with_floor", clamped_and_scaled, r"must be the floor itself, 0\.2; yours is 0\.19"),
    ("weights_with_floor", lambda delta, floor: delta + floor, r"yours sum to 4\.80"),
    ("weights_with_floor", filled_evenly, "all gaps shrunk by one factor"),
    ("weights_or_ones", of_raw, "two responses with the same raw value your weights are NaN"),
    ("weights_or_ones", exact_ties, r"differ by rounding alone nothing is known.*\[0\.0, 2\.0\]"),
    (
        "weights_or_ones",
        zeros_at_ties,
        r"all must count alike, with the sum 2; yours are \[0\.0, 0\.0\]",
    ),
    ("weights_or_ones", squared, "must be those of section 1"),
    ("weights_or_ones", wide_tolerance, r"from 0\.5 to 0\.501 have a real range"),
    ("weights_or_ones", with_epsilon, r"all must count alike"),
    ("weights_or_ones", not_scaled_or_ones, r"must sum to 3; yours sum to 1\.40"),
    ("of_winners", everyone, r"worth four pairs; yours are worth 10\.00"),
    ("of_winners", mean_of_all, "won no pair, and your result changed"),
    ("of_winners", root_forgotten, r"worth four pairs; yours are worth 1\.43"),
    ("of_winners", number_less_spread, "Doubling all weights changes no pair's share"),
    ("of_winners", spread_not_squared, r"one pair is effective; yours are 1\.46"),
    ("of_winners", above_zero, "random weights are not: compare your line with the formula"),
    ("of_winners", mean_weight_only, r"yours are worth 10\.00"),
    (
        "of_winners",
        lambda w, c: (w[c].sum(), winners(w, c)[1]),
        "must be the mean weight of the 4 winners",
    ),
]


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert_right(name, RIGHT[name], lambda: capsys.readouterr().out)


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    assert_told(name, answer, says)


def test_every_exercise_has_three_wrong_answers():
    assert_enough(RIGHT, WRONG)
