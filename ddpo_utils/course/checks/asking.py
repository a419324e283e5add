"""Checks of notebook 08: dealt sides, effective labels, the sign test by comparison, best of k."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .tools import Learner, agree, exercise, near, need

SYSTEMS = ("harbour", "lantern")


def _deal(answer: Learner, n: int, seed: int) -> tuple[list[str], dict[str, str]]:
    """The learner's order and key for n prompts, if they have the right form and are even."""
    prompts = [f"p{i}" for i in range(1, n + 1)]
    returned = answer(prompts, SYSTEMS, seed)
    is_pair = isinstance(returned, (list, tuple)) and len(returned) == 2
    has_key = is_pair and isinstance(returned[1], dict) and np.iterable(returned[0])
    need(has_key, "Return two things: a list of prompts, and a dict with each one's side A.")
    order, key = list(returned[0]), returned[1]
    named = any(name in str(order) for name in SYSTEMS)
    need(not named, "Raters see the order, and yours names a system: only the key may.")
    complete = len(order) == n and all(prompt in order for prompt in prompts)
    need(complete, "The order must hold each prompt once; yours lacks one or has one twice.")
    in_form = set(key) == set(prompts) and all(name in SYSTEMS for name in key.values())
    need(in_form, "The key must give the system on side A, one of the two, for each prompt.")
    first = list(key.values()).count(SYSTEMS[0])
    message = f"Of {n} comparisons {first} have {SYSTEMS[0]!r} on side A (seed {seed}):"
    need(abs(2 * first - n) <= 1, f"{message} it must be half, give or take one if n is odd.")
    return order, key


@exercise
def deal_sides(answer: Learner) -> str:
    for n in (6, 7, 1):
        repeated = _deal(answer, n, 3) == _deal(answer, n, 3)
        need(repeated, "The same seed must deal the same twice, so that others can repeat it.")
    deals = [_deal(answer, 6, seed) for seed in range(200)]
    need(any(deal != deals[0] for deal in deals), "Every seed deals the same: use the seed.")
    orders = {tuple(order) for order, _ in deals}
    need(len(orders) > 20, "The prompts come in nearly one order: shuffle them, for raters tire.")
    by_prompt = [list(dict(sorted(key.items())).values()) for _, key in deals]
    by_place = [list(map(key.get, order)) for order, key in deals]
    for sides, place in ((by_prompt, "list of prompts"), (by_place, "order that raters see")):
        share = (np.array(sides) == SYSTEMS[0]).mean(axis=0)
        random = np.abs(share - 0.5).max() < 0.2 and len(set(map(tuple, sides))) >= 10
        message = f"The sides follow a pattern along the {place}: one side gives others away."
        need(random, f"{message} Draw the sides at random, apart from the order.")
    return "even and odd numbers of prompts, and no pattern in 200 seeds."


@exercise
def effective_labels(answer: Learner) -> str:
    ones = np.array([1.0] * 12 + [0.0] * 8)
    share, single = answer.numbers(2, ones, np.ones(20))
    agree(share, 0.6, "12 labels of 20 are a share of 0.6, which comes first.")
    need(not near(single, 20), "The variance lacks its factor for a small number of prompts.")
    message = f"20 prompts of one label are worth nearly 20 labels; yours are worth {single:.2f}."
    need(18.5 < single < 20, f"{message} What is divided by what?")
    _, thrice = answer.numbers(2, 3 * ones, np.full(20, 3.0))
    message = f"I gave each label three times and your number went from {single:.1f} to"
    need(near(thrice, single), f"{message} {thrice:.1f}: sum by prompt before you square.")
    hits, labels = np.array([3.0, 0, 1, 5, 2, 0, 4]), np.array([3.0, 1, 2, 9, 2, 3, 4])
    share, effective = answer.numbers(2, hits, labels)
    right_share = near(share, hits.sum() / labels.sum())
    need(right_share, "The share is that of all labels: prompts with more labels count more.")
    variance = 7 / 6 * ((hits - share * labels) ** 2).sum() / labels.sum() ** 2
    right = near(effective, share * (1 - share) / variance)
    need(right, "Unequal numbers of labels are wrong: compare hits with share times own labels.")
    return "one label a prompt, the same labels three times over, and prompts of different sizes."


def _two_sided(wins: int, losses: int) -> float:
    """Exact p of the sign test: chance of a count at least as uneven between equal systems."""
    decided = wins + losses
    one_side = sum(math.comb(decided, k) for k in range(min(wins, losses) + 1)) / 2**decided
    return min(1.0, 2 * one_side)


@exercise
def sign_by_item(answer: Learner) -> str:
    a, b, none = systems = ("ddpo", "dpo", "undecided")

    def p_value(wins: int, losses: int, others: tuple[list[str], ...] = ()) -> float:
        items = [[a]] * wins + [[b]] * losses + [*others]
        return answer.numbers(4, items, systems[:2])[3]

    for wins, losses in ((6, 0), (2, 7)):
        counts = answer.numbers(4, [[a] * 3] * wins + [[b] * 3] * losses, systems[:2])[:3]
        message = f"{wins} and {losses} comparisons, each with 3 equal labels: count comparisons."
        agree(counts, (wins, losses, 0), message)
    for labels in ([a, a, none], [b], [a, b, none], [a, none, none], [b, b, a, none], [a, a, b, b]):
        won = [2 * labels.count(system) > len(labels) for system in systems[:2]]
        counts = answer.numbers(4, [labels], systems[:2])[:3]
        message = f"In {labels} a system wins with more than half of all labels, else it is a tie."
        agree(counts, (*won, not any(won)), message)
    for wins, losses in ((6, 0), (0, 6), (9, 3), (10, 30)):
        p, right = p_value(wins, losses), _two_sided(wins, losses)
        case = f"At {wins} wins and {losses} losses your p is {p:.3g}:"
        one_sided = near(p, right / 2, 1e-4)
        need(not one_sided, f"{case} that asks about one side. The other way is as uneven.")
        need(p > 0, f"{case} the count itself belongs to those at least as uneven.")
        exact = near(p, right, 1e-4)
        need(exact, f"{case} sum the exact chances of this count and of all more uneven ones.")
    agree(p_value(5, 5), 1, "Five wins and five losses are as even as can be.")
    p = p_value(9, 3, ([none],) * 8)
    need(near(p, _two_sided(9, 3), 1e-4), "Eight ties changed your p: this test leaves ties out.")
    agree(p_value(0, 0, ([none], [a, b])), 1, "Ties alone say nothing against equal systems.")
    return "majorities of one to four readers, p on both sides, an even count, and ties."


@exercise
def best_of(answer: Learner) -> str:
    def close(scores: Any, k: int, right: float, message: str) -> None:
        value = answer.number(np.array(scores, dtype=float), k)
        tolerance = 0.02 * max(np.ptp(scores), 0.05)  # admits a simulation
        need(abs(value - right) <= tolerance, f"{message} Your function gives {value:.2f}.")

    close([6.0] * 6, 4, 6, "If all stories score 6, so does the best.")
    scores = [3.0, 9.0, 1.0, 4.0, 8.0, 2.0]
    close(scores, 1, np.mean(scores), "One story drawn at random has the mean score.")
    close(scores, 6, max(scores), "Six drawn of six are all of them, none twice.")
    message = "One of five stories scores 1, the rest 0: the best of three is 1 if it is drawn."
    close([0, 0, 1, 0, 0], 3, 0.6, message)
    pool = np.random.default_rng(8).permutation(np.arange(9) ** 1.5)
    right = sum(math.comb(rank, 3) * x for rank, x in enumerate(np.sort(pool))) / math.comb(9, 4)
    message = "Four of nine are wrong: how many draws have a given score as their best?"
    for scores in (pool, pool[::-1]):
        close(scores, 4, right, message)
    return "equal scores, one drawn, all drawn, one good story among five, and four of nine."
