"""Exercises of notebooks 01, 02, 05 and 07: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import t

from ddpo_utils.checks import check


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
        w[above] = floor + (delta - floor)[above] * (len(w) * (1 - floor)) / (delta - floor)[above].sum()
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


def ordered(score, guess, prompt_id):
    shares = []
    for prompt in np.unique(prompt_id):
        s, g = score[prompt_id == prompt], guess[prompt_id == prompt]
        i, j = np.triu_indices(len(s), 1)
        i, j = i[s[i] != s[j]], j[s[i] != s[j]]
        shares.append(((s[i] - s[j]) * (g[i] - g[j]) > 0).mean())
    return np.mean(shares)


def all_pairs(score, guess, prompt_id):
    return ordered(score, guess, np.zeros(len(score)))


def ties_count_as_right(score, guess, prompt_id):
    shares = []
    for prompt in np.unique(prompt_id):
        s, g = score[prompt_id == prompt], guess[prompt_id == prompt]
        i, j = np.triu_indices(len(s), 1)
        shares.append(((s[i] - s[j]) * (g[i] - g[j]) >= 0).mean())
    return np.mean(shares)


def equal_scores_count(score, guess, prompt_id):
    shares = []
    for prompt in np.unique(prompt_id):
        s, g = score[prompt_id == prompt], guess[prompt_id == prompt]
        i, j = np.triu_indices(len(s), 1)
        shares.append(((s[i] - s[j]) * (g[i] - g[j]) > 0).mean())
    return np.mean(shares)


def pooled_pairs(score, guess, prompt_id):
    i, j = np.triu_indices(len(score), 1)
    keep = (prompt_id[i] == prompt_id[j]) & (score[i] != score[j])
    return ((score[i] - score[j]) * (guess[i] - guess[j]) > 0)[keep].mean()


def correlation(score, guess, prompt_id):
    return np.corrcoef(score, guess)[0, 1]


def nearest(kl):
    target = kl["ddpo", max(step for arm, step in kl if arm == "ddpo")]
    return min((key for key in kl if key[0] == "dpo"), key=lambda key: abs(kl[key] - target))


def nearest_of_all(kl):
    target = kl["ddpo", max(step for arm, step in kl if arm == "ddpo")]
    return min((key for key in kl if key[0] != "ddpo"), key=lambda key: abs(kl[key] - target))


def last_of_dpo(kl):
    return max(key for key in kl if key[0] == "dpo")


def nearest_below(kl):
    target = kl["ddpo", max(step for arm, step in kl if arm == "ddpo")]
    below = [key for key in kl if key[0] == "dpo" and kl[key] <= target]
    return max(below, key=kl.get)


def to_the_first_met(kl):
    target = next(value for (arm, _), value in kl.items() if arm == "ddpo")
    return min((key for key in kl if key[0] == "dpo"), key=lambda key: abs(kl[key] - target))


def step_alone(kl):
    return nearest(kl)[1]


NAMES = ("shuffled weights", "DPO at matched KL", "usable stories")


def judged(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    holds = (
        to_shuffled.low > 0,
        to_dpo.low > 0,
        usable_to_shuffled.low > -margin and usable_to_dpo.low > -margin,
    )
    return all(holds), [name for name, met in zip(NAMES, holds, strict=True) if not met]


def by_means(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    holds = (to_shuffled.mean > 0, to_dpo.mean > 0, min(usable_to_shuffled.low, usable_to_dpo.low) > -margin)
    return all(holds), [name for name, met in zip(NAMES, holds, strict=True) if not met]


def one_control_is_enough(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    _, why = judged(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin)
    kept = min(usable_to_shuffled.low, usable_to_dpo.low) > -margin
    effect = (to_shuffled.low > 0 or to_dpo.low > 0) and kept
    return effect, [] if effect else why


def usable_by_mean(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    holds = (to_shuffled.low > 0, to_dpo.low > 0, min(usable_to_shuffled.mean, usable_to_dpo.mean) > -margin)
    return all(holds), [name for name, met in zip(NAMES, holds, strict=True) if not met]


def not_fewer_at_all(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    holds = (to_shuffled.low > 0, to_dpo.low > 0, min(usable_to_shuffled.low, usable_to_dpo.low) > 0)
    return all(holds), [name for name, met in zip(NAMES, holds, strict=True) if not met]


def first_reason_alone(*arguments):
    effect, why = judged(*arguments)
    return effect, why[:1]


def no_reasons(*arguments):
    return judged(*arguments)[0]


def all_reasons_always(*arguments):
    effect, _ = judged(*arguments)
    return effect, [] if effect else list(NAMES)


def entropy(modes):
    counts = np.array(list(Counter(m for m in modes if m is not None).values()))
    p = counts / counts.sum()
    return -(p * np.log(p)).sum()


def in_bits(modes):
    return entropy(modes) / math.log(2)


def unread_is_a_mode(modes):
    return entropy([str(m) for m in modes])


def distinct(modes):
    return math.log(len({m for m in modes if m is not None}))


def unread_in_the_total(modes):
    counts = np.array(list(Counter(m for m in modes if m is not None).values()))
    p = counts / len(modes)
    return -(p * np.log(p)).sum()


def plain_mean_of_logs(modes):
    counts = np.array(list(Counter(m for m in modes if m is not None).values()))
    return -np.log(counts / counts.sum()).mean()


def unbeaten(points):
    def beats(p, q):
        return p != q and p[0] >= q[0] and p[1] >= q[1]

    return [name for name, own in points.items() if not any(beats(other, own) for other in points.values())]


def best_sum(points):
    top = max(sum(p) for p in points.values())
    return [name for name, p in points.items() if sum(p) == top]


def best_on_an_axis(points):
    tops = [max(p[axis] for p in points.values()) for axis in (0, 1)]
    return [name for name, p in points.items() if p[0] == tops[0] or p[1] == tops[1]]


def beaten_on_both(points):
    return [n for n, own in points.items() if not any(p[0] > own[0] and p[1] > own[1] for p in points.values())]


def beats_itself(points):
    values = list(points.items())
    return [n for n, own in values if not any(m != n and p[0] >= own[0] and p[1] >= own[1] for m, p in values)]


def decided(low, high, test, margin):
    if test == "below":
        low, high, bound = -high, -low, 0.0
    else:
        bound = -margin if test == "not below" else 0.0
    return "holds" if low > bound else "fails" if high < bound else "open"


def by_the_middle(low, high, test, margin):
    return decided((low + high) / 2, (low + high) / 2, test, margin)


def no_margin(low, high, test, margin):
    return decided(low, high, test, 0.0)


def open_is_failed(low, high, test, margin):
    return "holds" if decided(low, high, test, margin) == "holds" else "fails"


def one_direction(low, high, test, margin):
    return decided(low, high, "above" if test == "below" else test, margin)


def true_or_false(low, high, test, margin):
    return decided(low, high, test, margin) == "holds"


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


def names_what_holds(*arguments):
    effect, why = judged(*arguments)
    return effect, [name for name in NAMES if name not in why]


def names_of_its_own(*arguments):
    effect, why = judged(*arguments)
    return effect, [f"no better than {name}" for name in why]


def of_squares(modes):
    counts = np.array(list(Counter(m for m in modes if m is not None).values()))
    return -math.log(((counts / counts.sum()) ** 2).sum())


RIGHT = {
    "set_diversity": pair_mean,
    "interval_over_prompts": paired,
    "tokens_per_usable": in_a_row,
    "weights_of_four": four,
    "weights_with_floor": floored,
    "weights_or_ones": or_ones,
    "of_winners": winners,
    "share_ordered": ordered,
    "nearest_control": nearest,
    "justified_verdict": judged,
    "entropy_of_modes": entropy,
    "frontier": unbeaten,
    "decide": decided,
}
WRONG = [
    ("set_diversity", lambda e: (1 - e @ e.T).mean(), r"for 2 of them yours is 0\.50\. Which pairs"),
    ("set_diversity", lambda e: (e @ e.T)[np.triu_indices(len(e), 1)].mean(), r"gives them 1\.00"),
    ("set_diversity", lambda e: (1 - e @ e.T)[np.triu_indices(len(e), 1)].sum(), r"for 3 of them yours is 3\.00"),
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
    ("weights_of_four", not_stretched, r"commonest response must have the weight 0; yours has 0\.67"),
    ("weights_of_four", not_scaled, r"The weights of four responses must sum to 4; yours sum to 1\.6\."),
    ("weights_of_four", shares, r"must sum to 4; yours sum to 1\.0\."),
    ("weights_of_four", by_closeness, "farthest from the others must weigh most"),
    ("weights_of_four", lambda d: of_raw((d + 9 * np.eye(len(d))).min(axis=1)), "is it the mean distance"),
    ("weights_of_four", lambda d: of_raw(d.max(axis=1)), "the spacing is not"),
    ("weights_of_four", by_rank, "the spacing is not"),
    ("weights_of_four", lambda d: four(d) - 0.5, r"never negative; one of yours is -0\.50"),
    ("weights_with_floor", clamped, r"with a floor of 0\.2 yours sum to 4\.20"),
    ("weights_with_floor", clamped_and_scaled, r"must be the floor itself, 0\.2; yours is 0\.19"),
    ("weights_with_floor", lambda delta, floor: delta + floor, r"yours sum to 4\.80"),
    ("weights_with_floor", filled_evenly, "all gaps shrunk by one factor"),
    ("weights_or_ones", of_raw, "two responses with the same raw value your weights are NaN"),
    ("weights_or_ones", exact_ties, r"differ by rounding alone nothing is known.*\[0\.0, 2\.0\]"),
    ("weights_or_ones", zeros_at_ties, r"all must count alike, with the sum 2; yours are \[0\.0, 0\.0\]"),
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
    ("of_winners", lambda w, c: (w[c].sum(), winners(w, c)[1]), "must be the mean weight of the 4 winners"),
    ("share_ordered", all_pairs, "pair stories of one prompt alone"),
    ("share_ordered", ties_count_as_right, r"has ordered no pair; yours gets 1\.00"),
    ("share_ordered", equal_scores_count, "leave such a pair out"),
    ("share_ordered", pooled_pairs, "take the share prompt by prompt first"),
    ("share_ordered", correlation, r"turned round must get 0; yours gets -1\.00"),
    ("nearest_control", nearest_of_all, "must be a checkpoint of DPO; yours is one of shuffled"),
    ("nearest_control", last_of_dpo, r"has a KL of 6\.0 and yours 9\.0; another checkpoint of DPO is nearer"),
    ("nearest_control", nearest_below, r"has a KL of 7\.0 and yours 6\.2"),
    ("nearest_control", to_the_first_met, "another checkpoint of DPO is nearer"),
    ("nearest_control", step_alone, "Return a key of kl"),
    ("justified_verdict", by_means, "although its interval includes 0: the lower end decides"),
    ("justified_verdict", one_control_is_enough, "is one control enough"),
    ("justified_verdict", usable_by_mean, "ask how low the interval reaches"),
    ("justified_verdict", not_fewer_at_all, "they may be a little fewer"),
    ("justified_verdict", first_reason_alone, "not justified: .* leaves some out"),
    ("justified_verdict", all_reasons_always, "not justified: .* names some that are met"),
    ("justified_verdict", names_what_holds, "there is no reason against it"),
    ("justified_verdict", names_of_its_own, "The reasons are names out of this list"),
    ("justified_verdict", no_reasons, "Return two things"),
    ("entropy_of_modes", lambda modes: len(set(modes)), r"one plot have no entropy; yours is 1\.00"),
    ("entropy_of_modes", of_squares, "what weighs each logarithm"),
    ("entropy_of_modes", in_bits, r"2 plots told equally often .* yours is 1\.44 times"),
    ("entropy_of_modes", unread_is_a_mode, "it must change nothing, and it changed your entropy"),
    ("entropy_of_modes", unread_in_the_total, "it must change nothing"),
    ("entropy_of_modes", distinct, "less varied than three told equally often"),
    ("entropy_of_modes", plain_mean_of_logs, "less varied than three told equally often"),
    ("frontier", best_sum, "lacks 'dpo'"),
    ("frontier", best_on_an_axis, "lacks 'b'"),
    ("frontier", beaten_on_both, "has 'b', and another method is as good or better"),
    ("frontier", beats_itself, "lacks 'a', and no method"),
    ("frontier", len, "Return a list of names"),
    ("decide", by_the_middle, r"from -0\.2 to 0\.3 .*both sides of the bound"),
    ("decide", no_margin, "'not below' .* the bound of this test is not 0"),
    ("decide", open_is_failed, "is 'fails': the interval has values on both sides"),
    ("decide", one_direction, "'below' .* the test says which side it wants"),
    ("decide", true_or_false, 'Return "holds", "fails" or "open"'),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert check(name, RIGHT[name])
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    outcome = check(name, answer)
    assert not outcome
    assert re.search(says, outcome.says), outcome.says


def test_every_exercise_here_has_three_wrong_answers():
    counts = Counter(name for name, _, _ in WRONG)
    assert set(counts) == set(RIGHT) and min(counts.values()) >= 3
