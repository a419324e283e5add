"""Checks of notebook 06: the log odds ratio, the pooled likelihood, the weight in the sigmoid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...losses import log_odds
from .tools import Learner, agree, agree_on_random, exercise, near, need

NLL = torch.tensor([30.0, 45.0, 8.0])
TOKENS = torch.tensor([10.0, 30.0, 5.0])
ONES = torch.ones(3)


def _logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def _pooled(nll: torch.Tensor, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * nll).sum() / tokens.sum()


def _dorpo(lo: Any, nll: Any, tokens: Any, weight: Any, lam: float) -> torch.Tensor:
    return _pooled(nll, tokens, weight) - lam * F.logsigmoid(weight * lo).mean()


def _batch(rng: np.random.Generator) -> tuple[Any, ...]:
    """Log odds ratio, NLL, tokens and weight of one to eight pairs, and lambda."""
    n = rng.integers(1, 9)
    tokens = rng.integers(3, 40, n)
    columns = (rng.normal(0, 2, n), tokens * rng.uniform(0.5, 3, n), tokens, rng.uniform(0, 4, n))
    return *(torch.tensor(column, dtype=torch.float64) for column in columns), rng.uniform(0.1, 1)


@exercise
def log_odds_ratio(answer: Learner) -> str:
    chosen = _logs(9 / 10, 5 / 8)
    rejected = _logs(1 / 2, 1 / 2, 1 / 4, 1 / 16)
    agree(answer.number(chosen, chosen), 0, "A response against itself has the log odds ratio 0.")
    on_paper = answer.number(chosen, rejected)
    repeated = answer.number(chosen.repeat(2), rejected)
    need(near(repeated, on_paper), "Repeated tokens changed your ratio: how do they enter?")
    swapped = answer.number(rejected, chosen)
    need(near(swapped, -on_paper), "Swapping the responses must only change its sign.")
    need(on_paper > 0, "The chosen response has the better odds, and your ratio is below 0.")
    agree(on_paper, math.log(9), "The responses on paper are wrong: repeat steps 2 to 4.")
    certain = _logs(0.999, 0.998)
    unlikely = _logs(0.02, 0.01, 0.03)
    right = log_odds(certain.mean()) - log_odds(unlikely.mean())
    agree(answer.number(certain, unlikely), right, "With nearly certain tokens it is wrong.")
    return "the responses on paper, swapped and repeated, and one that is nearly certain."


@exercise
def pooled_likelihood(answer: Learner) -> str:
    plain = answer.number(NLL, TOKENS, ONES)
    orpo = NLL.sum() / TOKENS.sum()
    agree(plain / orpo, 1, "Weights of 1 give ORPO's NLL: every token counts alike.", " times that")
    thrice = answer.number(NLL, TOKENS, 3 * ONES)
    agree(thrice / plain, 3, "Weights of 3 must give three times as much.", " times as much")
    first = answer.number(NLL, TOKENS, torch.tensor([2.0, 0.5, 0.5]))
    second = answer.number(NLL, TOKENS, torch.tensor([0.5, 2.0, 0.5]))
    need(not near(first, second), "A large weight moved to another pair changed nothing.")
    message = "Equal weights are right, unequal ones are not: which tokens does a weight multiply?"
    agree_on_random(answer, _pooled, lambda rng: _batch(rng)[1:4], message)
    return "weights of 1 and 3, and weights that change places."


@exercise
def dorpo_by_hand(answer: Learner) -> str:
    log_ratio = torch.tensor([2.0, -1.0, 0.3])
    lam = 0.25

    def loss(weight: torch.Tensor) -> float:
        return answer.number(log_ratio, NLL, TOKENS, weight, lam)

    def penalty(log_ratio: torch.Tensor, weight: torch.Tensor) -> float:
        return answer.number(log_ratio, 0 * NLL, TOKENS, weight, lam)

    orpo = _dorpo(log_ratio, NLL, TOKENS, ONES, lam)
    agree(loss(ONES), orpo, "With weights of 1 DORPO is ORPO: pooled NLL - lambda * mean ln sigma.")
    likelihood = loss(ONES) - penalty(log_ratio, ONES)
    doubled = loss(2 * ONES) - penalty(log_ratio, 2 * ONES)
    agree(doubled / likelihood, 2, "Weights of 2 must double the likelihood.", " times that part")
    heavy = penalty(log_ratio, 4 * ONES)
    shifted = penalty(4 * log_ratio, ONES)
    message = "Weight 4 with LO = 2 pays the penalty of weight 1 with LO = 8:"
    need(near(heavy, shifted), f"{message} on which side of the sigmoid is the weight?")
    message = "Unequal weights or another lambda are wrong: each pair has its own weight."
    agree_on_random(answer, _dorpo, _batch, message)
    return "weights of 1, 2 and 4, and a batch of unequal ones."
