"""Checks of notebook 04: the shuffled control, weights beside pairs, the size of an adapter."""

from __future__ import annotations

import numpy as np

from .tools import Learner, agree, agree_on_random, exercise, near, need


@exercise
def shuffle_within(answer: Learner) -> str:
    prompt = np.array(["p2", "p1", "p2", "p3", "p1", "p2", "p1", "p2"])
    weight = np.array([0.1, 1.4, 2.0, 3.1, 0.6, 0.9, 2.2, 1.3])
    orders_of_seeds = []
    for seed in range(240):
        reassigned = answer.numbers(8, weight, prompt, np.random.default_rng(seed))
        for name in ("p1", "p2", "p3"):
            inside = prompt == name
            same = near(np.sort(reassigned[inside]), np.sort(weight[inside]))
            need(same, f"Prompt {name} must keep its own weights, each of them once.")
        orders_of_seeds.append(reassigned)
    again = answer.numbers(8, weight, prompt, np.random.default_rng(239))
    need(near(again, reassigned), "The same rng gave another order: use no other chance.")
    for name in ("p1", "p2"):
        inside = prompt == name
        own = weight[inside]
        columns = np.array(orders_of_seeds)[:, inside].T
        shares = np.array([(column[:, None] == own).mean(axis=0) for column in columns])
        kept = np.diag(shares)
        moved = kept.min() < 1
        need(moved, f"In {name} nothing moved. A mask makes a copy: write the shuffled one back.")
        need(kept.max() > 0, "A pair may also keep its own weight; with you none ever does.")
        even = abs(shares - 1 / len(own)).max() < 0.15
        need(even, f"Of {name} some weights reached some pairs too often or too seldom.")
        orders = len(np.unique(columns.T, axis=0))
        enough = orders >= len(own) * (len(own) - 1) * 1.5 - 3
        need(enough, f"Your 240 orders of {name} come in {orders} orders: more are possible.")
    return "eight pairs of three prompts, in mixed order, reassigned 240 times."


@exercise
def weighted_rows(answer: Learner) -> str:
    import pandas as pd

    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(100, 140))
    weight_of = pd.Series(rng.permutation(np.linspace(0.05, 3.95, 40)), index=np.sort(labels))
    for gaps in (np.array([3.0, 2.5, 1.0, 0.5]), rng.permutation(np.arange(0.5, 6.5, 0.5))):
        n = len(gaps)
        winners, losers = labels[:n], labels[n : 2 * n]
        pairs = pd.DataFrame({"chosen_row": winners, "rejected_row": losers, "gap": gaps})
        made = answer(pairs, weight_of)
        complete = sorted(made["chosen_row"]) == sorted(winners)
        need(complete, "Some of the pairs are lost or occur twice.")
        is_sorted = made["gap"].is_monotonic_decreasing
        need(is_sorted, "The pairs must still run from largest to smallest gap: keep the sorting.")
        weight = made["weight"].to_numpy(dtype=float)
        found = not np.isnan(weight).any()
        need(found, "NaN: pandas looked for the label of the pair, not for that of the story.")
        kept = made.set_index("chosen_row")[["rejected_row", "gap"]].loc[winners].to_numpy()
        together = (kept == pairs[["rejected_row", "gap"]].to_numpy()).all()
        need(together, "A pair's loser and gap are now another pair's: sort whole rows.")
        of_losers = weight_of.loc[made["rejected_row"]]
        need(not near(weight, of_losers), "Each pair has its loser's weight.")
        of_winners = weight_of.loc[made["chosen_row"]].to_numpy()
        wrong = (~np.isclose(weight, of_winners)).sum()
        hint = "the weight must be that of `chosen_row`."
        if near(np.sort(weight), np.sort(of_winners)):
            hint = "each has another pair's weight. Follow one winner by its label."
        need(wrong == 0, f"{wrong} of {n} pairs are wrong: {hint}")
    return "pairs that were in order and pairs that were not; each winner has its own weight."


@exercise
def lora_numbers(answer: Learner) -> str:
    thin = answer.number(1, [(1000, 10)], 4)
    need(thin < 10_000, f"You count {thin:,.0f} numbers, but the whole map has 10,000.")
    turned = answer.number(1, [(10, 1000)], 4)
    need(near(thin, turned), "Inputs and outputs exchanged must need as many numbers.")
    square = answer.number(1, [(64, 64)], 4)
    four_layers = answer.number(4, [(64, 64)], 4)
    agree(four_layers / square, 4, "Four layers have four times as many as one.", " times as many")
    rank_8 = answer.number(1, [(64, 64)], 8)
    agree(rank_8 / square, 2, "Twice the rank needs twice the numbers.", " times as many")
    together = answer.number(1, [(64, 64), (1000, 10)], 4)
    need(near(together, square + thin), "The maps of a layer must add up; yours do not.")
    agree(thin, 4040, "1000 inputs, 10 outputs, rank 4: write down the shapes of both matrices.")
    agree_on_random(answer, _lora_numbers, _maps, "Lists of one to seven maps are wrong.")
    return "square and thin maps, ranks 4 and 8, one layer and four."


def _lora_numbers(layers: int, maps: list[tuple[int, int]], r: int) -> int:
    sizes = [n_in + n_out for n_in, n_out in maps]
    return layers * r * sum(sizes)


def _maps(rng: np.random.Generator) -> tuple[int, list[tuple[int, int]], int]:
    sizes = [int(size) for size in rng.choice([4, 16, 64], 14)]
    maps = list(zip(sizes[::2], sizes[1::2], strict=True))[: rng.integers(1, 8)]
    return int(rng.integers(1, 9)), maps, int(rng.integers(1, 17))
