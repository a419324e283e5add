"""Checks of notebook 01: mean pairwise distance, interval over prompts, tokens per usable story."""

from __future__ import annotations

import math

import numpy as np

from ...deviation import diversity
from ...evaluation.statistics import difference
from .tools import Learner, agree, exercise, near, need


@exercise
def set_diversity(answer: Learner) -> str:
    copies = np.tile([0.6, 0.8, 0.0], (4, 1))
    agree(answer.number(copies), 0, "Four copies of one story have no distance from each other.")
    for k in (2, 3, 5):
        agree(answer.number(np.eye(k, 6)), 1, "Unrelated stories have a mean distance of 1.")
    for k in (3, 6):
        rows = np.random.default_rng(k).normal(size=(k, 4))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        agree(answer.number(rows), diversity(rows), "Every pair must count, not neighbours only.")
    return "copies, unrelated directions and random ones, from two stories to six."


@exercise
def interval_over_prompts(answer: Learner) -> str:
    def width(a: np.ndarray, b: np.ndarray) -> float:
        _, low, high = answer.numbers(3, a, b)
        return high - low

    rng = np.random.default_rng(0)
    for n in (6, 24):
        level = rng.normal(0, 2, (n, 1))
        a = level + rng.normal(0.5, 1, (n, 4))
        b = level + rng.normal(0, 1, (n, 6))
        right = difference(a.mean(axis=1), b.mean(axis=1))
        mean, low, high = answer.numbers(3, a, b)
        agree(mean, right.mean, "The mean must be over prompts, first source minus second source.")
        middle = low < mean and near(mean - low, high - mean)
        need(middle, "Return mean, low, high, with the mean in the middle.")
        copied = width(np.repeat(a, 2, axis=1), np.repeat(b, 2, axis=1))
        need(near(copied, high - low), "Copied stories changed your interval: what is the unit?")
        shift = 10 * rng.normal(size=(n, 1))
        moved = width(a + shift, b + shift)
        need(near(moved, high - low, 1e-4), "Compare both sources within each prompt first.")
        ratio = (high - low) / (right.high - right.low)
        size = f"{abs(ratio - 1):.0%} too {'wide' if ratio > 1 else 'narrow'}"
        message = f"At {n} prompts your interval is {size}: check Student's t, and where P enters."
        need(near(ratio, 1, 1e-3), message)
    return "6 and 24 prompts; copied stories, and prompts that move both sources, change nothing."


@exercise
def tokens_per_usable(answer: Learner) -> str:
    single = answer.number(10, [100], [True])
    agree(single, 110, "One story of 100 tokens, prompt of 10: tokens read and written all count.")
    rows = [90, 120, 150, 60]
    every = answer.number(7, rows, [True] * 4)
    no_prompt = answer.number(0, rows, [True] * 4)
    need(near(every - no_prompt, 7), "The prompt is read again with every request.")
    half = answer.number(7, rows, [True, False, True, False])
    message = "If only half are usable, each costs twice as much: all are paid for and read again."
    agree(half / every, 2, message, " times the cost")
    earlier_and_own = np.cumsum(rows)
    need(near(every, 7 + earlier_and_own.mean()), "Before each story all earlier ones are read.")
    none = answer(7, rows, [False] * 4)
    need(none == math.inf, "Without a usable story the cost is infinite: return float('inf').")
    return "rows of one to six stories, usable or not."
