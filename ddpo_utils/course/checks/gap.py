"""Checks of notebook 01: mean pairwise distance, interval over prompts, tokens per usable story."""

from __future__ import annotations

import numpy as np

from .tools import Learner, agree, exercise, near, need


@exercise
def set_diversity(answer: Learner) -> str:
    copies = np.tile([0.6, 0.8, 0.0], (4, 1))
    agree(answer.number(copies), 0, "Four copies of one story have no distance from each other.")
    unrelated = "Unrelated stories have a mean distance of 1, for any number. Which pairs count?"
    for k in (2, 3, 5):
        agree(answer.number(np.eye(k, 6)), 1, unrelated)
    for k in (3, 6):
        rows = np.random.default_rng(k).normal(size=(k, 4))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        right = near(answer.number(rows), (1 - rows @ rows.T)[np.triu_indices(k, 1)].mean())
        need(right, "Random stories are wrong: every pair must count, not neighbours only.")
    return "copies, unrelated directions and random ones, from two stories to six."


@exercise
def interval_over_prompts(answer: Learner) -> str:
    rng = np.random.default_rng(0)
    quantiles = {6: 2.5706, 24: 2.0687}  # Student's t at 0.975 with n - 1 degrees of freedom
    for n, quantile in quantiles.items():
        level = rng.normal(0, 2, (n, 1))
        a, b = level + rng.normal(0.5, 1, (n, 4)), level + rng.normal(0, 1, (n, 6))
        gap = a.mean(axis=1) - b.mean(axis=1)
        mean, low, high = answer.numbers(3, a, b)
        need(not near(mean, -gap.mean()), "Your mean is the second source minus the first.")
        need(near(mean, gap.mean()), "The mean must be over prompts, first source minus second.")
        middle = low < mean < high and near(mean - low, high - mean)
        need(middle, "Return mean, low, high, with the mean in the middle.")
        copied = answer.numbers(3, np.repeat(a, 2, axis=1), np.repeat(b, 2, axis=1))
        same = near(copied[2] - copied[1], high - low)
        need(same, "I copied every story and your interval became narrower: what is the unit?")
        shift = 10 * rng.normal(size=(n, 1))
        moved = answer.numbers(3, a + shift, b + shift)
        same = near(moved[2] - moved[1], high - low, 1e-4)
        need(same, "I moved both sources alike on each prompt: compare within each prompt first.")
        ratio = (high - low) / 2 / (quantile * gap.std(ddof=1) / np.sqrt(n))
        need(ratio < 1.6, "Your interval is far too wide. Where does the number of prompts enter?")
        message = f"With {n} prompts your interval is {ratio - 1:+.0%} too wide or narrow:"
        need(near(ratio, 1, 1e-3), f"{message} check Student's t and the divisor of the variance.")
    return "6 and 24 prompts; copied stories, and prompts that move both sources, change nothing."


@exercise
def tokens_per_usable(answer: Learner) -> str:
    single = answer.number(10, [100], [True])
    agree(single, 110, "One story of 100 tokens, prompt of 10: tokens read and written all count.")
    three, six = (answer.number(0, [100] * n, [True] * n) for n in (3, 6))
    need(not near(three, six), "In a row of six the last story reads more than in a row of three.")
    rows = [90, 120, 150, 60]
    every, no_prompt = (answer.number(prompt, rows, [True] * 4) for prompt in (7, 0))
    need(near(every - no_prompt, 7), "The prompt is read again with every request.")
    half = answer.number(7, rows, [True, False, True, False])
    message = "If only half of the stories are usable, each of these costs more."
    agree(half / every, 2, message, " times the cost")
    right = near(every, (7 * 4 + np.cumsum(rows).sum()) / 4)
    need(right, "The stories are wrong: before a story is written, all earlier ones are read.")
    none = answer.number(7, rows, [False] * 4, finite=False)
    agree(none, np.inf, "No price buys a usable story if there is none: return float('inf').")
    return "rows of one to six stories, usable or not."
