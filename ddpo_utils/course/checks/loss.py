"""Checks of notebook 03: the loss of a pair, the response mask, DDPO, weight and balance."""

from __future__ import annotations

import math

import numpy as np
import torch

from ...losses import pair_losses
from .tools import Learner, agree, exercise, near, need


@exercise
def loss_of_a_pair(answer: Learner) -> str:
    start = "Before training, policy and reference are equal: the loss is ln 2 for every beta."
    for winner, loser, beta in ((0.5, 0.5, 1.0), (0.2, 0.05, 0.1), (0.01, 0.3, 5.0)):
        agree(answer.number(winner, loser, winner, loser, beta), math.log(2), start)
    before, after = (answer.number(winner, 0.1, 0.2, 0.1, 1.0) for winner in (0.2, 0.4))
    need(after < before, "The winner became likelier and your loss did not fall: check the signs.")
    on_paper = answer.number(3 / 4, 1 / 4, 1 / 2, 1 / 2, 1.0)
    agree(on_paper, math.log(4 / 3), "The pair worked out above is wrong: repeat steps 1 to 3.")
    for *probabilities, beta in ((0.3, 0.02, 0.1, 0.05, 0.5), (0.01, 0.2, 0.3, 0.1, 0.1)):
        logps = torch.tensor(probabilities, dtype=torch.float64).log()
        right = pair_losses(logps[0] - logps[2], logps[1] - logps[3], beta).item()
        right = near(answer.number(*probabilities, beta), right)
        need(right, f"Wrong with beta {beta}: beta multiplies the whole margin and nothing else.")
    return "the start at ln 2, the pair on paper, and betas from 0.1 to 5."


@exercise
def response_mask(answer: Learner) -> str:
    padded = [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]]
    cases = {
        "one text without padding": (torch.ones(1, 6, dtype=torch.long), [3]),
        "two prompts of different lengths": (torch.ones(2, 7, dtype=torch.long), [2, 5]),
        "a batch with padding at the end": (torch.tensor(padded), [3, 6, 1]),
    }
    for case, (attention, lengths) in cases.items():
        n_prompt = torch.tensor(lengths)
        rows, tokens = attention.shape
        mask = answer(attention, n_prompt)
        shape = tuple(getattr(mask, "shape", ()))
        wanted = f"{(rows, tokens - 1)}, for nothing predicts the first token"
        fits = shape == (rows, tokens - 1)
        need(fits, f"The mask must have the shape {wanted}; yours has {shape}.")
        mask = answer.numbers(shape, attention, n_prompt)
        need(np.isin(mask, (0, 1)).all(), "A mask holds True and False, or 1 and 0.")
        place = torch.arange(1, tokens).expand(rows, tokens - 1)
        prompt, padding = (place < n_prompt[:, None]).numpy(), (attention[:, 1:] == 0).numpy()
        need(not mask[prompt].any(), f"In {case} your mask counts a token of the prompt.")
        need(not mask[padding].any(), f"In {case} your mask counts padding.")
        missing = ~prompt & ~padding & (mask == 0)
        row = int(missing.any(axis=1).argmax())
        end = "first" if missing[row, lengths[row] - 1] else "last"
        need(not missing.any(), f"In {case} your mask leaves out the {end} token of a response.")
    return "one text, two prompts of different lengths, and a batch with padding."


@exercise
def ddpo_by_hand(answer: Learner) -> str:
    generator = torch.Generator().manual_seed(0)
    logps = [20 * torch.randn(6, generator=generator, dtype=torch.float64) - 100 for _ in range(4)]
    ones, beta = torch.ones(6, dtype=torch.float64), 0.1
    losses = pair_losses(logps[0] - logps[2], logps[1] - logps[3], beta)
    plain = answer.number(*logps, ones, beta)
    ratio = plain / float(losses.mean())
    agree(ratio, 1, "With weights of 1 DDPO is DPO, a mean over pairs.", " times that")
    ratio = answer.number(*logps, 3 * ones, beta) / plain
    agree(ratio, 3, "Weights of 3 give 3 times the loss: a plain product.", " times the loss")
    first, last = ones.clone(), ones.clone()
    first[0], last[5] = 4.0, 4.0
    moved = near(answer.number(*logps, first, beta), answer.number(*logps, last, beta))
    need(not moved, "I moved a large weight to another pair and your loss did not change.")
    weight = torch.tensor([0.0, 0.3, 1.0, 0.5, 2.7, 4.0], dtype=torch.float64)
    right = near(answer.number(*logps, weight, beta), (weight * losses).mean())
    need(right, "Unequal weights are wrong: weight each loss, divide by the number of pairs.")
    tested = "six pairs with weights of 1 and of 3, with one large weight"
    return f"{tested}, and with six different ones."


@exercise
def weight_for_a_share(answer: Learner) -> str:
    for wins_a, wins_b in ((3, 1), (5, 2), (1, 4)):
        weight = answer.number(wins_a / (wins_a + wins_b), wins_a, wins_b)
        agree(weight, 1, f"With A winning {wins_a}, B {wins_b}, this share needs no weighting.")
    for share, wins_a, wins_b in ((0.5, 3, 1), (0.9, 3, 1), (0.25, 2, 5)):
        weight = answer.number(share, wins_a, wins_b)
        need(weight > 0, "Your weight is 0 or less, which never balances the pushes.")
        end = weight * wins_a / (weight * wins_a + wins_b)
        message = f"A wins {wins_a}, B {wins_b}, with your weight of {weight:.2f}: training ends at"
        need(near(end, share), f"{message} {end:.2f}, not at the wanted {share}.")
    return "six shares; at each the two pushes balance."
