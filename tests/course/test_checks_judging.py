"""Exercises of notebooks 05 and 07: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from checked import assert_enough, assert_right, assert_told


def min_max(raw):
    return (raw - raw.min()) / (raw.max() - raw.min())


def of_raw(raw):
    return min_max(raw) * len(raw) / min_max(raw).sum()


def four(d):
    return of_raw(d.sum(axis=1) / (len(d) - 1))


def shares(d):
    return four(d) / len(d)


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
    holds = (
        to_shuffled.mean > 0,
        to_dpo.mean > 0,
        min(usable_to_shuffled.low, usable_to_dpo.low) > -margin,
    )
    return all(holds), [name for name, met in zip(NAMES, holds, strict=True) if not met]


def one_control_is_enough(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    _, why = judged(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin)
    kept = min(usable_to_shuffled.low, usable_to_dpo.low) > -margin
    effect = (to_shuffled.low > 0 or to_dpo.low > 0) and kept
    return effect, [] if effect else why


def usable_by_mean(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    holds = (
        to_shuffled.low > 0,
        to_dpo.low > 0,
        min(usable_to_shuffled.mean, usable_to_dpo.mean) > -margin,
    )
    return all(holds), [name for name, met in zip(NAMES, holds, strict=True) if not met]


def not_fewer_at_all(to_shuffled, to_dpo, usable_to_shuffled, usable_to_dpo, margin):
    holds = (
        to_shuffled.low > 0,
        to_dpo.low > 0,
        min(usable_to_shuffled.low, usable_to_dpo.low) > 0,
    )
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

    return [
        name
        for name, own in points.items()
        if not any(beats(other, own) for other in points.values())
    ]


def best_sum(points):
    top = max(sum(p) for p in points.values())
    return [name for name, p in points.items() if sum(p) == top]


def best_on_an_axis(points):
    tops = [max(p[axis] for p in points.values()) for axis in (0, 1)]
    return [name for name, p in points.items() if p[0] == tops[0] or p[1] == tops[1]]


def beaten_on_both(points):
    return [
        n
        for n, own in points.items()
        if not any(p[0] > own[0] and p[1] > own[1] for p in points.values())
    ]


def beats_itself(points):
    values = list(points.items())
    return [
        n
        for n, own in values
        if not any(m != n and p[0] >= own[0] and p[1] >= own[1] for m, p in values)
    ]


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
    "share_ordered": ordered,
    "nearest_control": nearest,
    "justified_verdict": judged,
    "entropy_of_modes": entropy,
    "frontier": unbeaten,
    "decide": decided,
}
WRONG = [
    ("share_ordered", all_pairs, "pair stories of one prompt alone"),
    ("share_ordered", ties_count_as_right, r"has ordered no pair; yours gets 1\.00"),
    ("share_ordered", equal_scores_count, "leave such a pair out"),
    ("share_ordered", pooled_pairs, "take the share prompt by prompt first"),
    ("share_ordered", correlation, r"turned round must get 0; yours gets -1\.00"),
    ("nearest_control", nearest_of_all, "must be a checkpoint of DPO; yours is one of shuffled"),
    (
        "nearest_control",
        last_of_dpo,
        r"has a KL of 6\.0 and yours 9\.0; another checkpoint of DPO is nearer",
    ),
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
    (
        "entropy_of_modes",
        lambda modes: len(set(modes)),
        r"one plot have no entropy; yours is 1\.00",
    ),
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
]


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert_right(name, RIGHT[name], lambda: capsys.readouterr().out)


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    assert_told(name, answer, says)


def test_every_exercise_has_three_wrong_answers():
    assert_enough(RIGHT, WRONG)
