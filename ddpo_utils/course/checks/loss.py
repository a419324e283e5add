"""Checks of notebook 03: the loss of a pair, the mask of the log-probs, the one multiplication, and where it ends."""

from __future__ import annotations

import math

import numpy as np
import torch

from ...losses import pair_losses
from .tools import Learner, exercise, near, need, numbers


@exercise("loss_of_a_pair")
def loss_of_a_pair(answer: Learner) -> str:
    for p, q, beta in ((0.5, 0.5, 1.0), (0.2, 0.05, 0.1), (0.01, 0.3, 5.0)):
        start = numbers(answer(p, q, p, q, beta))
        need(
            near(start, math.log(2)),
            "Before training the policy is the reference, and then the loss is ln 2 for every pair and every beta; for "
            f"probabilities {p} and {q} and beta {beta} yours is {start:.3f}.",
        )
    before, after = (numbers(answer(p, 0.1, 0.2, 0.1, 1.0)) for p in (0.2, 0.4))
    need(
        after < before,
        "The policy made the winner more likely, and your loss did not fall: look at the signs.",
    )
    paper = numbers(answer(3 / 4, 1 / 4, 1 / 2, 1 / 2, 1.0))
    need(
        near(paper, math.log(4 / 3)),
        f"For the two responses worked out above your loss is {paper:.3f}: go through steps 1 to 3 one by one.",
    )
    for case in ((0.3, 0.02, 0.1, 0.05, 0.5), (0.01, 0.2, 0.3, 0.1, 0.1)):
        logps = torch.tensor(case[:4], dtype=torch.float64).log()
        right = pair_losses(logps[0] - logps[2], logps[1] - logps[3], case[4]).item()
        need(
            near(numbers(answer(*case)), right),
            f"With beta 1 your loss is right, with beta {case[4]} it is not: beta multiplies the whole margin, and "
            "nothing else.",
        )
    return "the start at ln 2, the pair on paper, and betas from 0.1 to 5."


@exercise("response_mask")
def response_mask(answer: Learner) -> str:
    cases = {
        "one text without padding": (torch.ones(1, 6, dtype=torch.long), torch.tensor([3])),
        "two prompts of different lengths": (
            torch.ones(2, 7, dtype=torch.long),
            torch.tensor([2, 5]),
        ),
        "a batch with padding at the end": (
            torch.tensor(
                [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]]
            ),
            torch.tensor([3, 6, 1]),
        ),
    }
    for what, (attention, n_prompt) in cases.items():
        b, t = attention.shape
        mask = answer(attention, n_prompt)
        shape = tuple(getattr(mask, "shape", ()))
        need(
            shape == (b, t - 1),
            f"The mask is for the targets, and of {t} tokens {t - 1} are targets, since nothing predicts the first: it "
            f"must have the shape {(b, t - 1)}; yours has {shape}.",
        )
        mask = numbers(mask, b, t - 1)
        need(
            np.isin(mask, (0, 1)).all(),
            "A mask says yes or no for each target: True and False, or 1 and 0.",
        )
        place = torch.arange(1, t).expand(b, t - 1)
        prompt, padding = (place < n_prompt[:, None]).numpy(), (attention[:, 1:] == 0).numpy()
        need(
            not mask[prompt].any(), f"In {what} your mask counts a token of the prompt as response."
        )
        need(not mask[padding].any(), f"In {what} your mask counts padding as response.")
        counted = (mask == 1).sum(axis=1)
        wanted = attention.sum(dim=1).numpy() - n_prompt.numpy()
        row = int((counted != wanted).argmax())
        first = int(n_prompt[row]) - 1
        need(
            (counted == wanted).all(),
            f"In {what} your mask leaves out the {'first' if not mask[row, first] else 'last'} token of a response; "
            "every one counts, and the token that ends it too.",
        )
    return "one text, two prompts of different lengths, and a batch with padding."


@exercise("ddpo_by_hand")
def ddpo_by_hand(answer: Learner) -> str:
    generator = torch.Generator().manual_seed(0)
    logps = [20 * torch.randn(6, generator=generator, dtype=torch.float64) - 100 for _ in range(4)]
    ones, beta = torch.ones(6, dtype=torch.float64), 0.1
    pairs = pair_losses(logps[0] - logps[2], logps[1] - logps[3], beta)
    dpo = float(pairs.mean())
    one = numbers(answer(*logps, ones, beta))
    need(
        near(one, dpo),
        f"With weights of 1 DDPO is DPO, the mean over the pairs; for six pairs yours is {one / dpo:.2f} times that.",
    )
    three = numbers(answer(*logps, 3 * ones, beta))
    need(
        near(three, 3 * one),
        f"Weights of 3 must give three times the loss of weights of 1; yours give {three / one:.2f} times. What else "
        "than a plain product meets the weight on its way?",
    )
    first, last = ones.clone(), ones.clone()
    first[0], last[5] = 4.0, 4.0
    by_place = [float(numbers(answer(*logps, w, beta))) for w in (first, last)]
    need(
        not near(*by_place),
        "I moved the large weight from the first pair to the last, and your loss stayed: each pair has its own weight.",
    )
    w = torch.tensor([0.0, 0.3, 1.0, 0.5, 2.7, 4.0], dtype=torch.float64)
    need(
        near(numbers(answer(*logps, w, beta)), (w * pairs).mean()),
        "Equal weights are right, unequal ones are not: does each pair's loss meet its own weight, and is the sum "
        "divided by the number of pairs?",
    )
    return (
        "six pairs with weights of 1 and of 3, with one large weight, and with six different ones."
    )


@exercise("weight_for_a_share")
def weight_for_a_share(answer: Learner) -> str:
    for a, b in ((3, 1), (5, 2), (1, 4)):
        share = a / (a + b)
        own = numbers(answer(share, a, b))
        need(
            near(own, 1),
            f"If A wins {a} pairs and B {b}, training with weights of 1 ends at {share:.2f} by itself, so that share "
            f"asks for the weight 1; yours is {own:.2f}.",
        )
    for share, a, b in ((0.5, 3, 1), (0.9, 3, 1), (0.25, 2, 5)):
        weight = numbers(answer(share, a, b))
        need(
            weight > 0, "A weight of 0 or less never brings the pushes into balance; yours is one."
        )
        ends = weight * a / (weight * a + b)
        need(
            near(ends, share),
            f"With A winning {a} pairs and B {b}, your weight of {weight:.2f} makes training end at {ends:.2f} and not "
            f"at the wanted {share}.",
        )
    return "six shares; at each the two pushes balance."
