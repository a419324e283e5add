"""Checks of notebook 04: the shuffled control, weights beside pairs, the size of an adapter."""

from __future__ import annotations

import numpy as np

from .tools import Learner, agree, exercise, near, need


@exercise
def shuffle_within(answer: Learner) -> str:
    prompt = np.array(["p2", "p1", "p2", "p3", "p1", "p2", "p1", "p2"])
    weight = np.array([0.1, 1.4, 2.0, 3.1, 0.6, 0.9, 2.2, 1.3])
    generators = [np.random.default_rng(seed) for seed in range(60)]
    deals = np.array([answer.numbers(8, weight, prompt, rng) for rng in generators])
    for dealt in deals:
        same = near(np.sort(dealt), np.sort(weight))
        need(same, "The control must have the very same weights, each of them once.")
        for name in np.unique(prompt):
            inside = prompt == name
            same = near(np.sort(dealt[inside]), np.sort(weight[inside]))
            need(same, f"Prompt {name} got a weight of another prompt: shuffle within prompts.")
    need(not (deals == weight).all(), "In 60 deals no weight moved: your control is DDPO itself.")
    need(not (deals == deals[0]).all(), "60 generators gave the same deal: draw with rng.")
    for place in np.flatnonzero(prompt == "p2"):
        reached = len(np.unique(deals[:, place])) == 4
        need(reached, "In 60 deals some weight never reached some pair: every place must be open.")
    return "eight pairs of three prompts, in mixed order, dealt sixty times."


@exercise
def weighted_rows(answer: Learner) -> str:
    import pandas as pd

    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(100, 140))
    weight_of = pd.Series(rng.permutation(np.linspace(0.05, 3.95, 40)), index=np.sort(labels))
    unsorted_gaps = np.round(rng.permutation(np.arange(1, 13)) / 2, 1)
    for gaps in ([3.0, 2.5, 1.0, 0.5], unsorted_gaps):
        n = len(gaps)
        winners, losers = labels[:n], labels[n : 2 * n]
        pairs = pd.DataFrame({"chosen_row": winners, "rejected_row": losers, "gap": gaps})
        made = answer(pairs, weight_of)
        is_frame = isinstance(made, pd.DataFrame) and {*pairs, "weight"} <= {*made}
        need(is_frame, "Return the frame of pairs with a column `weight`.")
        complete = sorted(made["chosen_row"]) == sorted(winners)
        need(complete, "Some of the pairs are lost or occur twice.")
        is_sorted = made["gap"].is_monotonic_decreasing
        need(is_sorted, "The pairs must still run from largest to smallest gap: keep the sorting.")
        weight = made["weight"].to_numpy(dtype=float)
        found = not np.isnan(weight).any()
        need(found, "NaN: pandas looked for the label of the pair, not for that of the story.")
        of_winners = weight_of.loc[made["chosen_row"]].to_numpy()
        of_losers = weight_of.loc[made["rejected_row"]].to_numpy()
        need(not near(weight, of_losers), "Each pair has its loser's weight.")
        wrong = int((~np.isclose(weight, of_winners)).sum())
        swapped = wrong and near(np.sort(weight), np.sort(of_winners))
        message = f"All the right weights are there, but {wrong} of {n} pairs have another pair's."
        need(not swapped, f"{message} Follow one winner by its label through your lines.")
        need(not wrong, f"In {wrong} of {n} pairs the weight is not that of `chosen_row`.")
    return "pairs that were in order and pairs that were not; each winner has its own weight."


@exercise
def lora_numbers(answer: Learner) -> str:
    thin = answer.number(1, [(1000, 10)], 4)
    need(thin < 10_000, f"You count {thin:,.0f} numbers, but the whole map has 10,000.")
    turned = answer.number(1, [(10, 1000)], 4)
    need(near(thin, turned), "Inputs and outputs exchanged must need as many numbers.")
    one, four = (answer.number(layers, [(64, 64)], 4) for layers in (1, 4))
    agree(four / one, 4, "Four layers have four times the numbers of one.", " times as many")
    small, large = (answer.number(1, [(64, 64)], rank) for rank in (4, 8))
    agree(large / small, 2, "Twice the rank needs twice the numbers.", " times as many")
    maps = [(64, 64), (64, 16), (16, 64)]
    apart = sum(answer.number(1, [shape], 4) for shape in maps)
    need(near(answer.number(1, maps, 4), apart), "The maps of a layer must add up; yours do not.")
    agree(thin, 4040, "1000 inputs, 10 outputs, rank 4: write down the shapes of both matrices.")
    return "square and thin maps, ranks 4 and 8, one layer and four."
