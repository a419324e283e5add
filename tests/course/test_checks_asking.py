"""The exercises of notebook 08: right answers pass, and each plausible wrong one is told what is wrong."""

from __future__ import annotations

import random
from collections import Counter
from math import comb

import numpy as np
import pytest
from checked import assert_enough, assert_right, assert_told


def dealt(prompts, systems, seed):
    rng = np.random.default_rng(seed)
    order = [prompts[i] for i in rng.permutation(len(prompts))]
    sides = rng.permutation([systems[i % 2] for i in range(len(prompts))])
    return order, dict(zip(order, sides, strict=True))


def dealt_by_drawing_half(prompts, systems, seed):
    draws = random.Random(seed)
    first = set(draws.sample(prompts, len(prompts) // 2))
    return draws.sample(prompts, len(prompts)), {p: systems[p not in first] for p in prompts}


def a_coin_each(prompts, systems, seed):
    rng = np.random.default_rng(seed)
    order = list(rng.permutation(prompts))
    return order, {p: systems[rng.integers(2)] for p in order}


def in_turn(prompts, systems, seed):
    rng = np.random.default_rng(seed)
    order, start = list(rng.permutation(prompts)), rng.integers(2)
    return order, {p: systems[(start + i) % 2] for i, p in enumerate(order)}


def first_half(prompts, systems, seed):
    order = list(np.random.default_rng(seed).permutation(prompts))
    return order, {p: systems[2 * i >= len(order)] for i, p in enumerate(order)}


def one_permutation_for_both(prompts, systems, seed):
    order = list(np.random.default_rng(seed).permutation(prompts))
    sides = np.random.default_rng(seed).permutation([systems[i % 2] for i in range(len(prompts))])
    return order, dict(zip(order, sides, strict=True))


def without_a_seed(prompts, systems, seed):
    return dealt(prompts, systems, None)


def one_seed_for_all(prompts, systems, seed):
    return dealt(prompts, systems, 0)


def in_the_order_given(prompts, systems, seed):
    return prompts, dealt(prompts, systems, seed)[1]


def drawn_with_replacement(prompts, systems, seed):
    order = list(np.random.default_rng(seed).choice(prompts, len(prompts)))
    return order, dealt(prompts, systems, seed)[1]


def key_in_the_order(prompts, systems, seed):
    order, key = dealt(prompts, systems, seed)
    return [(p, key[p]) for p in order], key


def key_by_side(prompts, systems, seed):
    order, key = dealt(prompts, systems, seed)
    return order, {p: "A" if name == systems[0] else "B" for p, name in key.items()}


def key_alone(prompts, systems, seed):
    return dealt(prompts, systems, seed)[1]


def worth(hits, labels):
    share, prompts = hits.sum() / labels.sum(), len(hits)
    variance = prompts / (prompts - 1) * ((hits - share * labels) ** 2).sum() / labels.sum() ** 2
    return share, share * (1 - share) / variance


def every_label(hits, labels):
    return hits.sum() / labels.sum(), labels.sum() - 1


def no_small_factor(hits, labels):
    share, effective = worth(hits, labels)
    return share, effective * len(hits) / (len(hits) - 1)


def mean_of_shares(hits, labels):
    share = (hits / labels).mean()
    return share, share * (1 - share) / ((hits / labels).var(ddof=1) / len(hits))


def spread_of_shares(hits, labels):
    share = hits.sum() / labels.sum()
    return share, share * (1 - share) / ((hits / labels - share).var(ddof=1) / len(hits))


def by_the_standard_error(hits, labels):
    share, effective = worth(hits, labels)
    return share, np.sqrt(share * (1 - share) * effective)


def the_variance(hits, labels):
    share, effective = worth(hits, labels)
    return share, share * (1 - share) / effective


def effective_first(hits, labels):
    return worth(hits, labels)[::-1]


def named(labels):
    name, count = Counter(labels).most_common(1)[0]
    return name if 2 * count > len(labels) else "undecided"


def sign_tested(items, systems, name=named, p=None):
    names = [name(labels) for labels in items]
    wins, losses = (names.count(system) for system in systems)
    ties = len(names) - wins - losses
    return wins, losses, ties, (p or exact)(wins, losses, ties)


def exact(wins, losses, ties):
    n = wins + losses
    return min(1, 2 * sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)


def by(**how):
    return lambda items, systems: sign_tested(items, systems, **how)


def most_frequent(labels):
    return Counter(labels).most_common(1)[0][0]


def of_the_decided(labels):
    left = [label for label in labels if label != "undecided"]
    return named(left) if left else "undecided"


def half_is_enough(labels):
    name, count = Counter(labels).most_common(1)[0]
    return name if 2 * count >= len(labels) else "undecided"


def labels_in_one_pot(items, systems):
    return sign_tested([[label] for labels in items for label in labels], systems)


def one_sided(wins, losses, ties):
    n = wins + losses
    return sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n


def beyond_one(wins, losses, ties):
    return 2 * one_sided(wins, losses, ties)


def more_uneven_only(wins, losses, ties):
    n = wins + losses
    return 2 * sum(comb(n, k) for k in range(min(wins, losses))) / 2**n


def this_count_alone(wins, losses, ties):
    return 2 * comb(wins + losses, wins) / 2 ** (wins + losses)


def ties_in_the_number(wins, losses, ties):
    n = wins + losses + ties
    return min(1, 2 * sum(comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)


def ties_split(wins, losses, ties):
    return exact(wins + ties // 2, losses + ties // 2, 0)


def nothing_decided(wins, losses, ties):
    return exact(wins, losses, ties) if wins + losses else 0.0


def best(scores, k):
    return sum(comb(r, k - 1) * x for r, x in enumerate(sorted(scores))) / comb(len(scores), k)


def best_by_drawing(scores, k):
    rng = np.random.default_rng(0)
    return np.mean([rng.choice(scores, k, replace=False).max() for _ in range(4000)])


def with_replacement(scores, k):
    n = len(scores)
    return sum(((r + 1) ** k - r**k) / n**k * x for r, x in enumerate(sorted(scores)))


def one_off(scores, k):
    return sum(comb(r + 1, k) * x for r, x in enumerate(sorted(scores))) / comb(
        len(scores) + 1, k + 1
    )


def not_sorted(scores, k):
    return sum(comb(r, k - 1) * x for r, x in enumerate(scores)) / comb(len(scores), k)


def straight_line(scores, k):
    """Right for one and for all, and in between a line."""
    low, high = np.mean(scores), np.max(scores)
    return low + (high - low) * (k - 1) / (len(scores) - 1)


def mean_or_all(scores, k):
    return np.max(scores) if k == len(scores) else np.mean(scores)


RIGHT = {
    "deal_sides": dealt,
    "effective_labels": worth,
    "sign_by_item": sign_tested,
    "best_of": best,
}
WRONG = [
    ("deal_sides", a_coin_each, r"on side A in \d with seed \d+\. It must be half"),
    ("deal_sides", in_turn, "by a pattern: in the order in which raters see them"),
    ("deal_sides", first_half, "by a pattern: in the order in which raters see them"),
    ("deal_sides", one_permutation_for_both, "by a pattern: in the order of the list"),
    ("deal_sides", without_a_seed, "The same seed must deal the same twice"),
    ("deal_sides", one_seed_for_all, "Every seed deals the same"),
    ("deal_sides", in_the_order_given, "in hardly more than one order"),
    ("deal_sides", drawn_with_replacement, "yours lacks one or has one twice"),
    ("deal_sides", key_in_the_order, "yours names a system: systems stand in the key alone"),
    ("deal_sides", key_by_side, "the name of the system on side A, one of the two"),
    ("deal_sides", key_alone, "Return two things: the order"),
    ("effective_labels", every_label, r"given three times over, .* went from 19\.0 to 59\.0"),
    ("effective_labels", no_small_factor, "a factor for the small number of prompts"),
    ("effective_labels", mean_of_shares, "the share is that of all labels"),
    ("effective_labels", spread_of_shares, "unequal ones are not"),
    ("effective_labels", by_the_standard_error, r"yours for 2\.14\. What is divided by what"),
    ("effective_labels", the_variance, r"yours for 0\.01\. What is divided by what"),
    ("effective_labels", effective_first, r"yours comes first and is 19\.00"),
    (
        "sign_by_item",
        by(name=most_frequent),
        r"no answer has more than half of the labels; you count 1 : 0 : 0",
    ),
    ("sign_by_item", by(name=of_the_decided), "most readers are undecided; you count 1 : 0 : 0"),
    (
        "sign_by_item",
        by(name=half_is_enough),
        r"two labels of four are not more than half; you count 0 : 1 : 0",
    ),
    ("sign_by_item", labels_in_one_pot, r"you count 18 : 0 : 0 .*The comparison is the unit"),
    (
        "sign_by_item",
        by(p=one_sided),
        r"At 6 wins and 0 losses your p is 0\.0156: that asks about one side",
    ),
    ("sign_by_item", by(p=more_uneven_only), "the count that was found has a chance as well"),
    (
        "sign_by_item",
        by(p=this_count_alone),
        "At 9 wins and 3 losses .*of those that are more uneven",
    ),
    ("sign_by_item", by(p=beyond_one), r"Five wins and five losses .* your p is 1\.25"),
    ("sign_by_item", by(p=ties_in_the_number), "this test leaves ties out"),
    ("sign_by_item", by(p=ties_split), "this test leaves ties out"),
    ("sign_by_item", by(p=nothing_decided), "Where all comparisons are ties"),
    ("best_of", lambda scores, k: np.mean(scores), "Six drawn of six are all of them"),
    ("best_of", lambda scores, k: np.max(scores), "One story drawn by chance has the mean score"),
    ("best_of", lambda scores, k: np.max(scores[:k]), "whichever stand first or rank highest"),
    (
        "best_of",
        lambda scores, k: np.sort(scores)[-k:].mean(),
        "whichever stand first or rank highest",
    ),
    ("best_of", lambda scores, k: np.sum(scores), "Where all stories score 6, so does the best"),
    ("best_of", with_replacement, "Six drawn of six are all of them, none twice"),
    ("best_of", straight_line, "four of nine are not"),
    ("best_of", mean_or_all, r"whenever that story is among them\. Your mean is 0\.20"),
    ("best_of", one_off, "drawn by chance has the mean score"),
    ("best_of", not_sorted, "all of them, none twice"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_the_solution_passes(name, capsys):
    assert_right(name, RIGHT[name], lambda: capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "answer"), [("deal_sides", dealt_by_drawing_half), ("best_of", best_by_drawing)]
)
def test_another_right_way_passes_as_well(name, answer, capsys):
    assert_right(name, answer, lambda: capsys.readouterr().out)


@pytest.mark.parametrize(("name", "answer", "says"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(name, answer, says):
    assert_told(name, answer, says)


@pytest.mark.parametrize("name", RIGHT)
def test_dots_are_asked_to_be_replaced(name):
    def starter(*inputs):
        """What it returns."""
        ...

    assert_told(name, starter, "^Not yet: Replace the dots")


def test_every_exercise_has_three_wrong_answers():
    assert_enough(RIGHT, WRONG)
