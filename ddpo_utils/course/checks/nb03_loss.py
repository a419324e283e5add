"""Checks of notebook 03: the loss of a pair, the response mask, DDPO, weight and balance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ...losses import ddpo_loss, pair_losses
from .tools import Learner, agree, agree_on_random, exercise, near, need


@exercise
def loss_of_a_pair(answer: Learner) -> str:
    message = "Before training, policy and reference are equal: the loss is ln 2 for every beta."
    for winner, loser, beta in ((0.5, 0.5, 1.0), (0.2, 0.05, 0.1), (0.01, 0.3, 5.0)):
        agree(answer.number(winner, loser, winner, loser, beta), math.log(2), message)
    before = answer.number(0.2, 0.1, 0.2, 0.1, 1.0)
    after = answer.number(0.4, 0.1, 0.2, 0.1, 1.0)
    need(after < before, "The winner became likelier and your loss did not fall: check the signs.")
    on_paper = answer.number(3 / 4, 1 / 4, 1 / 2, 1 / 2, 1.0)
    agree(on_paper, math.log(4 / 3), "The pair worked out above is wrong: repeat steps 1 to 3.")
    message = "Other pairs and betas are wrong: beta multiplies the whole margin and nothing else."
    agree_on_random(answer, _pair_loss, _probabilities, message)
    return "the start at ln 2, the pair on paper, and betas from 0.1 to 5."


def _pair_loss(policy_w: float, policy_l: float, ref_w: float, ref_l: float, beta: float) -> Any:
    logps = torch.tensor([policy_w, policy_l, ref_w, ref_l], dtype=torch.float64).log()
    return pair_losses(logps[0] - logps[2], logps[1] - logps[3], beta)


def _probabilities(rng: np.random.Generator) -> tuple[float, ...]:
    return (*rng.uniform(0.01, 0.9, 4), 4 ** rng.uniform(-1, 1))


@exercise
def response_mask(answer: Learner) -> str:
    padded = torch.ones(3, 8, dtype=torch.long)
    padded[0, 6:] = 0
    padded[2, 3:] = 0
    cases = {
        "one text without padding": (padded[:1, :6], [3]),
        "two prompts of different lengths": (torch.ones(2, 7, dtype=torch.long), [2, 5]),
        "a batch with padding at the end": (padded, [3, 6, 1]),
    }
    for case, (attention, lengths) in cases.items():
        n_prompt = torch.tensor(lengths)
        rows, tokens = attention.shape
        mask = answer.numbers((rows, tokens - 1), attention, n_prompt)
        need(np.isin(mask, (0, 1)).all(), "A mask holds True and False, or 1 and 0.")
        place = np.arange(1, tokens)  # of the predicted tokens: nothing predicts the first
        prompt = place < np.array(lengths)[:, None]
        padding = attention[:, 1:].numpy() == 0
        need(not mask[prompt].any(), f"In {case} your mask counts a token of the prompt.")
        need(not mask[padding].any(), f"In {case} your mask counts padding.")
        message = f"In {case} your mask leaves out a token of a response, the first or the last?"
        need(mask[~prompt & ~padding].all(), message)
    return "one text, two prompts of different lengths, and a batch with padding."


@exercise
def ddpo_by_hand(answer: Learner) -> str:
    generator = torch.Generator().manual_seed(0)
    logps = 20 * torch.randn(4, 6, generator=generator, dtype=torch.float64) - 100
    ones = torch.ones(6, dtype=torch.float64)

    def loss(weight: torch.Tensor) -> float:
        return answer.number(*logps, weight, 0.1)

    plain = loss(ones)
    right = float(ddpo_loss(*logps, ones, 0.1))
    agree(plain / right, 1, "With weights of 1 it is DPO: check signs and mean.", " times that")
    agree(loss(3 * ones) / plain, 3, "Weights of 3 triple it: a plain product.", " times the loss")
    first = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    moved = loss(first.flip(0))
    need(not near(loss(first), moved), "A large weight moved to another pair changed nothing.")
    weight = torch.tensor([0.0, 0.3, 1.0, 0.5, 2.7, 4.0])
    right = float(ddpo_loss(*logps, weight, 0.1))
    agree(loss(weight), right, "Unequal weights are wrong: divide by the number of pairs.")
    agree_on_random(answer, ddpo_loss, _batch, "Another number of pairs or another beta is wrong.")
    tested = "six pairs with weights of 1 and of 3, with one large weight"
    return f"{tested}, and with six different ones."


def _batch(rng: np.random.Generator) -> tuple[Any, ...]:
    n = rng.integers(1, 9)
    rows = torch.tensor(rng.normal(-50, 9, (4, n)))
    return *rows, torch.tensor(rng.uniform(0, 4, n)), rng.uniform(0.05, 1)


@exercise
def weight_for_a_share(answer: Learner) -> str:
    for a, b in ((3, 1), (5, 2), (1, 4)):
        weight = answer.number(a / (a + b), a, b)
        agree(weight, 1, f"A wins {a}, B {b}: a share of {a}/{a + b} needs a weight of 1.")
    for share, wins_a, wins_b in ((0.5, 3, 1), (0.9, 3, 1), (0.25, 2, 5)):
        weight = answer.number(share, wins_a, wins_b)
        need(weight > 0, "Your weight is 0 or less, which never balances the pushes.")
        end = weight * wins_a / (weight * wins_a + wins_b)
        message = f"A wins {wins_a}, B {wins_b}, with your weight of {weight:.2f}: training ends at"
        need(near(end, share), f"{message} {end:.2f}, not at the wanted {share}.")
    return "six shares; at each the two pushes balance."
