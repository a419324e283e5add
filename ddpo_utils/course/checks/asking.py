"""Checks of notebook 08: dealing the sides, the effective number of labels, the sign test by comparison, best of k."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .tools import Learner, exercise, near, need, numbers


def _deal(
    answer: Learner, prompts: list[str], systems: tuple[str, str], seed: int
) -> tuple[list[str], dict[str, str]]:
    """The learner's order and key, once they have the right form and are even."""
    told = answer(prompts, systems, seed)
    need(
        isinstance(told, (list, tuple)) and len(told) == 2 and isinstance(told[1], dict),
        "Return two things: the order, a list of prompts, and the key, a dict of prompt and system on side A.",
    )
    order, key = list(told[0]) if isinstance(told[0], Iterable) else [], told[1]
    need(
        not any(name in str(order) for name in systems),
        "The order goes to the raters, and yours names a system: systems stand in the key alone.",
    )
    need(
        len(order) == len(prompts) and all(prompt in order for prompt in prompts),
        "The order must hold each prompt once; yours lacks one or has one twice.",
    )
    need(
        set(key) == set(prompts) and all(name in systems for name in key.values()),
        "The key must give for each prompt the name of the system on side A, one of the two.",
    )
    need(
        abs(2 * sum(key[prompt] == systems[0] for prompt in prompts) - len(prompts)) <= 1,
        f"Of {len(prompts)} comparisons your key puts {systems[0]!r} on side A in "
        f"{sum(key[prompt] == systems[0] for prompt in prompts)} with seed {seed}. It must be half of them, with one "
        "more or less where their number is odd.",
    )
    return order, key


@exercise("deal_sides")
def deal_sides(answer: Learner) -> str:
    systems, seeds = ("harbour", "lantern"), 200
    prompts = [f"p{n}" for n in range(1, 7)]
    for n in (6, 7, 1):
        given = [f"p{i}" for i in range(1, n + 1)]
        first = _deal(answer, given, systems, 3)
        need(
            _deal(answer, given, systems, 3) == first,
            "The same seed must deal the same twice, or nobody can make the comparisons again.",
        )
    dealt = [_deal(answer, prompts, systems, seed) for seed in range(seeds)]
    need(
        any(deal != dealt[0] for deal in dealt),
        "Every seed deals the same: what does your function do with it?",
    )
    need(
        len({tuple(order) for order, _ in dealt}) > seeds // 10,
        "The prompts come in hardly more than one order, and whatever comes last meets a tired rater: shuffle them.",
    )
    for by, ways in (
        ("order of the list", [[key[prompt] for prompt in prompts] for _, key in dealt]),
        (
            "order in which raters see them",
            [[key[prompt] for prompt in order] for order, key in dealt],
        ),
    ):
        share = (np.array(ways) == systems[0]).mean(axis=0)
        need(
            np.abs(share - 0.5).max() < 0.2 and len({tuple(way) for way in ways}) >= 10,
            f"Half of the sides go to either system, but by a pattern: in the {by} they repeat over the seeds, so that "
            "whoever has guessed one side knows others. Deal the sides at random as well, by draws of their own.",
        )
    return "even and odd numbers of prompts, and no pattern in 200 seeds."


@exercise("effective_labels")
def effective_labels(answer: Learner) -> str:
    one = np.array([1.0] * 12 + [0.0] * 8)
    share, alone = numbers(answer(one, np.ones(20)), 2)
    need(
        near(share, 0.6),
        f"12 labels of 20 are a share of 0.6; yours comes first and is {share:.2f}.",
    )
    need(
        not near(alone, 20),
        "With one label for each prompt your number is that of the prompts exactly: the variance has a factor for the "
        "small number of prompts, and you have lost it.",
    )
    need(
        18.5 < alone < 20,
        f"One label for each of 20 prompts counts for nearly as many; yours for {alone:.2f}. What is divided by what?",
    )
    _, thrice = numbers(answer(3 * one, np.full(20, 3.0)), 2)
    need(
        near(thrice, alone),
        f"Now each label was given three times over, which tells nothing new, and your number went from {alone:.1f} to "
        f"{thrice:.1f}: add up the labels of a prompt before you square.",
    )
    hits, labels = np.array([3.0, 0, 1, 5, 2, 0, 4]), np.array([3.0, 1, 2, 9, 2, 3, 4])
    share, effective = numbers(answer(hits, labels), 2)
    need(
        near(share, hits.sum() / labels.sum()),
        "Prompts with more labels than others: the share is that of all labels, each of which counts once.",
    )
    gaps = hits - share * labels
    variance = 7 / 6 * (gaps**2).sum() / labels.sum() ** 2
    need(
        near(effective, share * (1 - share) / variance),
        "Equal numbers of labels are right, unequal ones are not: compare the hits of a prompt with those that its own "
        "number of labels lets one expect.",
    )
    return "one label a prompt, the same labels three times over, and prompts of different sizes."


def _two_sided(wins: int, losses: int) -> float:
    """Exact p of the sign test: the chance of a count at least as uneven, if wins and losses were equally likely."""
    decided = wins + losses
    return min(
        1.0, 2 * sum(math.comb(decided, k) for k in range(min(wins, losses) + 1)) / 2**decided
    )


@exercise("sign_by_item")
def sign_by_item(answer: Learner) -> str:
    a, b, none = systems = ("ddpo", "dpo", "undecided")

    def told(items: list[list[str]]) -> np.ndarray:
        return numbers(answer(items, systems[:2]), 4)

    for wins, losses in ((6, 0), (2, 7)):
        found = told([[a] * 3] * wins + [[b] * 3] * losses)
        need(
            near(found[:3], (wins, losses, 0)),
            f"{wins} comparisons in which all three readers name the first system and {losses} in which all name the "
            f"second are {wins} wins, {losses} losses and no tie; you count {_counts(found)}. The comparison is the "
            "unit, whatever the number of its readers.",
        )
    for labels, why in (
        ([a, a, none], "two of three readers name the first system, and that is most of them"),
        ([b], "one reader alone is all its readers"),
        ([a, b, none], "no answer has more than half of the labels"),
        ([a, none, none], "most readers are undecided"),
        ([b, b, a, none], "two labels of four are not more than half"),
        ([a, a, b, b], "two labels of four are not more than half"),
    ):
        right = [2 * labels.count(name) > len(labels) for name in systems[:2]]
        found = told([labels])
        need(
            near(found[:3], (*right, not any(right))),
            f"In the comparison {labels} {why}; you count {_counts(found)}.",
        )
    for wins, losses in ((6, 0), (0, 6), (9, 3), (10, 30)):
        p, right = told([[a]] * wins + [[b]] * losses)[3], _two_sided(wins, losses)
        says = f"At {wins} wins and {losses} losses your p is {p:.3g}: "
        need(
            not near(p, right / 2, 1e-4),
            says + "that asks about one side alone. Uneven the other way is as uneven.",
        )
        need(
            p > 0,
            says
            + "the count that was found has a chance as well, and belongs to those at least as uneven.",
        )
        need(
            near(p, right, 1e-4),
            says + "add up the exact chances of this count and of those that are more uneven.",
        )
    p = told([[a]] * 5 + [[b]] * 5)[3]
    need(
        near(p, 1),
        f"Five wins and five losses are as even as can be, and your p is {p:.3g}: where can it end?",
    )
    p = told([[a]] * 9 + [[b]] * 3 + [[none]] * 8)[3]
    need(
        near(p, _two_sided(9, 3), 1e-4),
        f"Eight ties beside 9 wins and 3 losses changed your p to {p:.3g}: this test leaves ties out.",
    )
    p = told([[none], [a, b]])[3]
    need(
        near(p, 1),
        f"Where all comparisons are ties nothing speaks against equal systems; your p is {p:.3g}.",
    )
    return "majorities of one to four readers, p on both sides, an even count, and ties."


def _counts(found: Any) -> str:
    return " : ".join(f"{count:g}" for count in found[:3]) + " (won, lost, tied)"


@exercise("best_of")
def best_of(answer: Learner) -> str:
    def told(scores: Any, k: int) -> float:
        return float(numbers(answer(np.array(scores, dtype=float), k)))

    def close(value: float, right: float, scores: Any) -> bool:
        return abs(value - right) <= 0.02 * max(np.ptp(scores), 0.05)  # a simulation is welcome

    need(
        close(told([6.0] * 6, 4), 6, [6.0]),
        "Where all stories score 6, so does the best; yours does not.",
    )
    scores = [3.0, 9.0, 1.0, 4.0, 8.0, 2.0]
    for k, right, says in (
        (
            1,
            np.mean(scores),
            "One story drawn by chance has the mean score, whichever stand first or rank highest",
        ),
        (
            6,
            max(scores),
            "Six drawn of six are all of them, none twice, and the best of them is certain",
        ),
    ):
        value = told(scores, k)
        need(close(value, right, scores), f"{says}; yours is {value:.2f} for the scores {scores}.")
    value = told([0, 0, 1, 0, 0], 3)
    need(
        close(value, 0.6, (0, 1)),
        f"Of five stories one scores 1 and the others 0, and three are drawn: the best scores 1 whenever that story is "
        f"among them. Your mean is {value:.2f}.",
    )
    pool = np.random.default_rng(8).permutation(np.arange(9) ** 1.5)
    right = sum(math.comb(r, 3) * x for r, x in enumerate(np.sort(pool))) / math.comb(9, 4)
    for given in (pool, pool[::-1]):
        need(
            close(told(given, 4), right, pool),
            "One and all of a pool are right, four of nine are not: how many draws have a given score as their best?",
        )
    return "equal scores, one drawn, all drawn, one good story among five, and four of nine."
