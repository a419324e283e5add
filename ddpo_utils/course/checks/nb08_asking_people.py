"""Checks of notebook 08: dealt sides, effective labels, the sign test by comparison, best of k."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ...evaluation.statistics import sign_test
from .tools import Learner, agree, agree_on_random, exercise, near, need

SYSTEMS = ("harbour", "lantern")
MOST_UNEVEN = 0.2  # by which a place's share of one system may miss a half in 200 seeds


def _deal(answer: Learner, n: int, seed: int) -> tuple[list[str], dict[str, str]]:
    """The learner's order and key for n prompts, if they have the right form and are even."""
    prompts = [f"p{i}" for i in range(1, n + 1)]
    order, key = answer(prompts, SYSTEMS, seed)
    complete = sorted(order) == sorted(prompts)
    need(complete, "The order, which raters see, must hold each prompt once and nothing else.")
    sides = [key[prompt] for prompt in prompts]
    need(set(sides) <= set(SYSTEMS), "The key must give the system on side A for each prompt.")
    first = sides.count(SYSTEMS[0])
    message = f"Of {n} comparisons {first} have {SYSTEMS[0]!r} on side A (seed {seed}):"
    need(abs(2 * first - n) <= 1, f"{message} it must be half, give or take one if n is odd.")
    return list(order), key


@exercise
def deal_sides(answer: Learner) -> str:
    for n in (6, 7, 1):
        repeated = _deal(answer, n, 3) == _deal(answer, n, 3)
        need(repeated, "The same seed must deal the same twice, so that others can repeat it.")
    orders, deals, by_prompt, by_place = set(), set(), [], []
    for seed in range(200):
        order, key = _deal(answer, 6, seed)
        orders.add(tuple(order))
        by_prompt.append([key[prompt] for prompt in sorted(order)])
        by_place.append([key[prompt] for prompt in order])
        deals.add((*order, *by_place[-1]))
    need(len(orders) > 20, "Shuffle the prompts by the seed: they come in nearly one order.")
    need(len(deals) > 150, "Another seed must deal another way: many of 200 seeds deal alike.")
    for dealt, place in ((by_prompt, "list of prompts"), (by_place, "order that raters see")):
        sides = np.array(dealt)
        share = (sides == SYSTEMS[0]).mean(axis=0)
        even = abs(share - 0.5).max() < MOST_UNEVEN
        patterns = len(np.unique(sides, axis=0))
        message = f"The sides follow a pattern along the {place}: one side gives others away."
        need(even and patterns >= 10, f"{message} Draw the sides at random, apart from the order.")
    return "even and odd numbers of prompts, and no pattern in 200 seeds."


@exercise
def effective_labels(answer: Learner) -> str:
    ones = np.ones(20)
    hits = np.repeat([1.0, 0.0], (12, 8))
    share, single = answer.numbers(2, hits, ones)
    agree(share, 0.6, "12 labels of 20 are a share of 0.6, which comes first.")
    need(not near(single, 20), "Exactly 20: all labels, or a variance without its factor G/(G-1).")
    message = f"20 prompts of one label are worth nearly 20 labels; yours are worth {single:.2f}."
    need(18.5 < single < 20, f"{message} What is divided by what?")
    _, thrice = answer.numbers(2, 3 * hits, 3 * ones)
    need(near(thrice, single), "Each label given three times must change nothing: sum by prompt.")
    hits = np.array([3.0, 0, 1, 5, 2, 0, 4])
    labels = np.array([3.0, 1, 2, 9, 2, 3, 4])
    share, _ = answer.numbers(2, hits, labels)
    right = hits.sum() / labels.sum()
    agree(share, right, "The share is that of all labels: prompts with more labels count more.")
    message = "Unequal numbers of labels are wrong: compare hits with share times own labels."
    agree_on_random(answer, _effective, _labels, message)
    return "one label a prompt, the same labels three times over, and prompts of different sizes."


def _effective(hits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Share and effective labels as the exercise defines them; the package's own are corrected."""
    share = hits.sum() / labels.sum()
    squares = (hits - share * labels) ** 2
    n = len(hits)
    variance = n / (n - 1) * squares.sum() / labels.sum() ** 2
    return share, share * (1 - share) / variance


def _labels(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two to twelve prompts of one to nine labels, alike or unlike; neither all nor none hit."""
    labels = rng.integers(1, 10, rng.integers(2, 13))
    spread = rng.choice([0.0, 0.4])
    hits = np.rint(labels * (0.5 + spread * rng.uniform(-1, 1, len(labels))))
    hits[0], hits[1] = 0, labels[1]
    return hits.astype(float), labels.astype(float)


@exercise
def sign_by_item(answer: Learner) -> str:
    a, b, none = "ddpo", "dpo", "undecided"

    def numbers(wins: int, losses: int, labels: int = 1, others: Any = ()) -> np.ndarray:
        """The learner's counts and p of items won and lost by unanimous labels, and of others."""
        won, lost = [a] * labels, [b] * labels
        return answer.numbers(4, [won] * wins + [lost] * losses + [*others], (a, b))

    for wins, losses in ((6, 0), (2, 7)):
        *counts, _ = numbers(wins, losses, labels=3)
        agree(counts, (wins, losses, 0), "Three equal labels: count comparisons, not labels.")
    outcomes = (
        ((1, 0, 0), [a, a, none]),
        ((0, 1, 0), [b]),
        ((0, 0, 1), [a, none, none]),
        ((0, 0, 1), [b, b, a, none]),
        ((0, 0, 1), [a, a, b, b]),
    )
    for right, labels in outcomes:
        *counts, _ = numbers(0, 0, others=[labels])
        message = f"In {labels} a system wins with more than half of all labels, else it is a tie."
        agree(counts, right, message)
    for wins, losses in ((6, 0), (0, 6), (9, 3), (10, 30)):
        *_, p = numbers(wins, losses)
        right = sign_test(wins, losses).p
        case = f"At {wins} wins and {losses} losses your p is {p:.3g}:"
        need(not near(p, right / 2, 1e-4), f"{case} that asks about one side, not about both.")
        exact = near(p, right, 1e-4)
        need(exact, f"{case} sum the exact chances of this count and of all more uneven ones.")
    *_, p = numbers(5, 5)
    agree(p, 1, "Five wins and five losses are as even as can be.")
    *_, p = numbers(9, 3, others=[[none]] * 8)
    need(near(p, sign_test(9, 3).p), "Eight ties changed your p: this test leaves ties out.")
    *_, p = numbers(0, 0, others=[[none], [a, b]])
    agree(p, 1, "Ties alone say nothing against equal systems.")
    message = "Other names or random labels are wrong: are names read from `systems`?"
    agree_on_random(answer, _sign_by_item, _items, message, tolerance=1e-4)
    return "majorities of one to four readers, p on both sides, an even count, and ties."


def _sign_by_item(items: list[list[str]], systems: tuple[str, str]) -> tuple[float, ...]:
    first, second = systems
    wins = sum(2 * votes.count(first) > len(votes) for votes in items)
    losses = sum(2 * votes.count(second) > len(votes) for votes in items)
    p = sign_test(wins, losses).p if wins + losses else 1.0
    return wins, losses, len(items) - wins - losses, p


def _items(rng: np.random.Generator) -> tuple[list[list[str]], tuple[str, str]]:
    names = ["undecided", *rng.permutation(["north", "south"]).tolist()]
    counts = rng.integers(1, 6, rng.integers(1, 30))
    chances = rng.dirichlet([1, 2, 2])
    return [rng.choice(names, n, p=chances).tolist() for n in counts], (names[1], names[2])


@exercise
def best_of(answer: Learner) -> str:
    def close(scores: Sequence[float] | np.ndarray, k: int, right: float, message: str) -> None:
        value = answer.number(np.array(scores, dtype=float), k)
        tolerance = 0.02 * max(np.ptp(scores), 0.05)  # admits a simulation
        need(abs(value - right) <= tolerance, f"{message} Your function gives {value:.2f}.")

    close([6.0] * 6, 4, 6, "If all stories score 6, so does the best.")
    scores = [3.0, 9.0, 1.0, 4.0, 8.0, 2.0]
    close(scores, 1, np.mean(scores), "One story drawn at random has the mean score.")
    close(scores, 6, max(scores), "Six drawn of six are all of them, none twice.")
    close([0, 0, 1, 0, 0], 3, 0.6, "One story scores 1: the best of three is 1 if it is drawn.")
    pool = np.random.default_rng(8).permutation(np.arange(9) ** 1.5)
    best = [max(drawn) for drawn in combinations(pool, 4)]
    message = "Four of nine are wrong: how many draws have a given score as their best?"
    close(pool, 4, np.mean(best), message)
    close(pool[::-1], 4, np.mean(best), message)
    return "equal scores, one drawn, all drawn, one good story among five, and four of nine."
