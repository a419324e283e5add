"""Checks of notebook 01: mean pairwise distance, the interval over prompts, and what one more story in a row costs."""

from __future__ import annotations

import numpy as np

from .tools import Learner, exercise, near, need, numbers


@exercise("set_diversity")
def set_diversity(answer: Learner) -> str:
    copies = numbers(answer(np.tile([0.6, 0.8, 0.0], (4, 1))))
    need(
        near(copies, 0),
        f"Four copies of one story have no distance; your function gives them {copies:.2f}.",
    )
    for k in (2, 3, 5):
        value = numbers(answer(np.eye(k, 6)))
        need(
            near(value, 1),
            "Stories in unrelated directions have the distance 1 from each other, so their mean is 1 however many they "
            f"are; for {k} of them yours is {value:.2f}. Which pairs do you count, and how often?",
        )
    for k in (3, 6):
        rows = np.random.default_rng(k).normal(size=(k, 4))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        upper = np.triu_indices(k, 1)
        need(
            near(numbers(answer(rows)), (1 - rows @ rows.T)[upper].mean()),
            f"Copies and unrelated stories are right, {k} random ones are not: does every pair count, not only "
            "neighbours, and each as much as any other?",
        )
    return "copies, unrelated directions and random ones, from two stories to six."


@exercise("interval_over_prompts")
def interval_over_prompts(answer: Learner) -> str:
    rng, t = (
        np.random.default_rng(0),
        {6: 2.5706, 24: 2.0687},
    )  # Student's t at 0.975 with n - 1 degrees of freedom
    for n in t:
        level = rng.normal(0, 2, (n, 1))
        a, b = level + rng.normal(0.5, 1, (n, 4)), level + rng.normal(0, 1, (n, 6))
        gap = a.mean(axis=1) - b.mean(axis=1)
        mean, low, high = numbers(answer(a, b), 3)
        need(
            near(mean, gap.mean()),
            "The mean must be that of the first source minus the second"
            + (
                "; yours has them the other way round."
                if near(mean, -gap.mean())
                else ", over prompts; yours is not."
            ),
        )
        need(
            low < mean < high and near(mean - low, high - mean),
            "Return mean, low, high, with the mean in the middle.",
        )
        half = (high - low) / 2
        twice = numbers(answer(np.repeat(a, 2, axis=1), np.repeat(b, 2, axis=1)), 3)
        need(
            near(twice[2] - twice[1], high - low),
            "I copied every story once, which tells nothing new, and your interval became narrower: what is the unit?",
        )
        shift = 10 * rng.normal(size=(n, 1))
        moved = numbers(answer(a + shift, b + shift), 3)
        need(
            near(moved[2] - moved[1], high - low, 1e-4),
            "I moved both sources by the same amount on each prompt, which changes no difference, and your interval "
            "became another: compare within each prompt first.",
        )
        ratio = half / (t[n] * gap.std(ddof=1) / np.sqrt(n))
        need(
            ratio < 1.6,
            "Your interval is far too wide: it holds most prompts. Where does the number of prompts enter?",
        )
        need(
            near(ratio, 1, 1e-3),
            f"With {n} prompts your interval is {'too wide' if ratio > 1 else 'too narrow'}, by {abs(ratio - 1):.0%}: "
            "look at the factor (Student's t, by the number of prompts) and at what the variance is divided by.",
        )
    return "6 and 24 prompts; copied stories, and prompts that move both sources, change nothing."


@exercise("tokens_per_usable")
def tokens_per_usable(answer: Learner) -> str:
    one = numbers(answer(10, [100], [True]))
    need(
        near(one, 110),
        f"For one story of 100 tokens to a prompt of 10, all that is read and written counts; yours is {one:.0f}.",
    )
    three, six = (numbers(answer(0, [100] * n, [True] * n)) for n in (3, 6))
    need(
        not near(three, six),
        "With every story in the row there is more to read again, so the sixth costs more than the third; yours cost "
        "the same.",
    )
    rows = [90, 120, 150, 60]
    asked = numbers(answer(7, rows, [True] * 4)) - numbers(answer(0, rows, [True] * 4))
    need(
        near(asked, 7),
        "The prompt is read anew with every request, so a longer prompt makes every story dearer.",
    )
    every, some = (numbers(answer(7, rows, u)) for u in ([True] * 4, [True, False, True, False]))
    need(
        near(some, 2 * every),
        "If two of the four stories are no good, as much has been paid for half as many; your cost per usable story is "
        f"{some / every:.2f} times what it was.",
    )
    read = np.cumsum(rows) - rows
    need(
        near(every, (7 * 4 + read.sum() + sum(rows)) / 4),
        "Prompt and usable stories are right, what is read again is not: before a story is written, all earlier ones "
        "are read.",
    )
    none = numbers(answer(7, rows, [False] * 4), finite=False)
    need(
        none == np.inf,
        f"Without a usable story no price buys one: return float('inf'); yours is {none:.0f}.",
    )
    return "rows of one to six stories, usable or not."
