"""Checks of notebook 04: the shuffled control, weights that stay with their pairs, and the size of a LoRA adapter."""

from __future__ import annotations

import numpy as np

from .tools import Learner, exercise, near, need, numbers


@exercise("shuffle_within")
def shuffle_within(answer: Learner) -> str:
    prompt = np.array(["p2", "p1", "p2", "p3", "p1", "p2", "p1", "p2"])
    weight = np.array([0.1, 1.4, 2.0, 3.1, 0.6, 0.9, 2.2, 1.3])
    deals = np.array(
        [numbers(answer(weight, prompt, np.random.default_rng(seed)), 8) for seed in range(60)]
    )
    for dealt in deals:
        need(
            near(np.sort(dealt), np.sort(weight)),
            "After your deal some weight occurs twice and another is gone: the control has the very same weights, each "
            "of them once.",
        )
        for name in np.unique(prompt):
            own = prompt == name
            need(
                near(np.sort(dealt[own]), np.sort(weight[own])),
                f"Prompt {name} got a weight that belonged to another prompt: deal within each prompt, whatever the "
                "order of the pairs.",
            )
    need(
        not (deals == weight).all(),
        "In 60 deals not one weight was moved: your control is DDPO itself.",
    )
    need(
        not (deals == deals[0]).all(),
        "Sixty generators gave sixty times the same deal: the deal must be random, and rng is where that comes from.",
    )
    places = [np.unique(deals[:, i]).tolist() for i in np.flatnonzero(prompt == "p2")]
    need(
        all(len(seen) == 4 for seen in places),
        "Some weight never reached some pair of its prompt in 60 deals: every place must be open to every weight.",
    )
    return "eight pairs of three prompts, in mixed order, dealt sixty times."


@exercise("weighted_rows")
def weighted_rows(answer: Learner) -> str:
    import pandas as pd

    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(100, 140))
    weight_of = pd.Series(rng.permutation(np.linspace(0.05, 3.95, 40)), index=np.sort(labels))
    for n, gaps in (
        (4, [3.0, 2.5, 1.0, 0.5]),
        (12, np.round(rng.permutation(np.arange(1, 13)) / 2, 1)),
    ):
        pairs = pd.DataFrame(
            {"chosen_row": labels[:n], "rejected_row": labels[n : 2 * n], "gap": gaps}
        )
        made = answer(pairs, weight_of)
        need(
            isinstance(made, pd.DataFrame) and {*pairs, "weight"} <= {*made},
            "Your function must return the frame of pairs with a column `weight`.",
        )
        need(
            sorted(made["chosen_row"]) == sorted(labels[:n]),
            "Some of the pairs are lost, or are there twice.",
        )
        need(
            made["gap"].is_monotonic_decreasing,
            "The pairs must still run from the largest gap to the smallest: mend the weights, and keep the sorting.",
        )
        weight = made["weight"].to_numpy(dtype=float)
        need(
            not np.isnan(weight).any(),
            "Some pair has no weight (NaN): pandas looked for the label of the pair among the labels of the stories.",
        )
        winners, losers = (
            weight_of.loc[made[side]].to_numpy() for side in ("chosen_row", "rejected_row")
        )
        need(
            not near(weight, losers),
            "Each pair has the weight of its loser, which the loss must never read.",
        )
        wrong = int((~np.isclose(weight, winners)).sum())
        need(
            not wrong or not near(np.sort(weight), np.sort(winners)),
            f"All the right weights are there, but {wrong} of {n} pairs have another pair's. Follow one winner by its "
            "label through your lines: where do pair and weight part?",
        )
        need(
            not wrong,
            f"In {wrong} of {n} pairs the weight is not that of the story in `chosen_row`.",
        )
    return "pairs that were in order and pairs that were not; each winner has its own weight."


@exercise("lora_numbers")
def lora_numbers(answer: Learner) -> str:
    flat = numbers(answer(1, [(1000, 10)], 4))
    need(
        flat < 10_000,
        f"For a map of 1000 inputs and 10 outputs you count {flat:,.0f} numbers; the map has 10,000.",
    )
    need(
        near(flat, numbers(answer(1, [(10, 1000)], 4))),
        "A map with inputs and outputs changed over must need as many numbers: there are two thin matrices, one on "
        "either side.",
    )
    one, four = (numbers(answer(n, [(64, 64)], 4)) for n in (1, 4))
    need(
        near(four, 4 * one),
        f"Four layers have four times the numbers of one; yours have {four / one:.2f} times.",
    )
    small, large = (numbers(answer(1, [(64, 64)], r)) for r in (4, 8))
    need(
        near(large, 2 * small),
        f"Twice the rank is twice the numbers; yours are {large / small:.2f} times as many.",
    )
    maps = [(64, 64), (64, 16), (16, 64)]
    together, apart = numbers(answer(1, maps, 4)), sum(numbers(answer(1, [m], 4)) for m in maps)
    need(near(together, apart), "The maps of a layer must add up; yours do not.")
    need(
        near(flat, 4040),
        f"For a map of 1000 inputs and 10 outputs at rank 4 you count {flat:,.0f}: write down both shapes.",
    )
    return "square and thin maps, ranks 4 and 8, one layer and four."
