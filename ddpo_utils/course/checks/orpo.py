"""Checks of notebook 06: the log odds ratio, the pooled likelihood, the weight in the sigmoid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...losses import log_odds
from .tools import Learner, agree, exercise, near, need


def _logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


@exercise
def log_odds_ratio(answer: Learner) -> str:
    chosen, rejected = _logs(9 / 10, 5 / 8), _logs(1 / 2, 1 / 2, 1 / 4, 1 / 16)
    agree(answer.number(chosen, chosen), 0, "A response against itself has the log odds ratio 0.")
    on_paper = answer.number(chosen, rejected)
    same = near(answer.number(chosen.repeat(2), rejected), on_paper)
    need(same, "Repeated tokens changed your ratio: how does the number of tokens enter?")
    swapped = near(answer.number(rejected, chosen), -on_paper)
    need(swapped, "With chosen and rejected swapped the ratio must only change its sign.")
    need(on_paper > 0, "The chosen response has the better odds, and your ratio is below 0.")
    message = "The responses on paper are wrong: repeat steps 2 to 4. Return the log of the odds."
    agree(on_paper, math.log(9), message)
    certain, unlikely = _logs(0.999, 0.998), _logs(0.02, 0.01, 0.03)
    right = log_odds(certain.mean()) - log_odds(unlikely.mean())
    message = "The responses on paper are right, one with nearly certain tokens is not."
    need(near(answer.number(certain, unlikely), right), message)
    return "the responses on paper, changed over and repeated, and one that is nearly certain."


@exercise
def pooled_likelihood(answer: Learner) -> str:
    nll, tokens = torch.tensor([30.0, 45.0, 8.0]), torch.tensor([10.0, 30.0, 5.0])
    plain = answer.number(nll, tokens, torch.ones(3))
    ratio = plain * float(tokens.sum() / nll.sum())
    agree(ratio, 1, "Weights of 1 give ORPO's pooled NLL: every token counts alike.", " times that")
    ratio = answer.number(nll, tokens, torch.full((3,), 3.0)) / plain
    agree(ratio, 3, "Weights of 3 must give three times as much.", " times as much")
    first, second = torch.tensor([2.0, 0.5, 0.5]), torch.tensor([0.5, 2.0, 0.5])
    moved = near(answer.number(nll, tokens, first), answer.number(nll, tokens, second))
    need(not moved, "I moved a large weight to another pair and your result did not change.")
    weight = torch.tensor([2.0, 0.0, 0.5])
    right = (weight * nll).sum() / tokens.sum()
    message = "Equal weights are right, unequal ones are not: which tokens does a weight multiply?"
    need(near(answer.number(nll, tokens, weight), right), message)
    return "weights of 1 and 3, and weights that change places."


@exercise
def dorpo_by_hand(answer: Learner) -> str:
    log_ratio, nll = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([30.0, 45.0, 8.0])
    tokens, ones, lam = torch.tensor([10.0, 30.0, 5.0]), torch.ones(3), 0.25
    plain = answer.number(log_ratio, nll, tokens, ones, lam)
    right = nll.sum() / tokens.sum() - lam * F.logsigmoid(log_ratio).mean()
    agree(plain, right, "With weights of 1 DORPO is ORPO: pooled NLL plus lambda times a mean.")
    penalty, penalty_twice = (
        answer.number(log_ratio, torch.zeros(3), tokens, weight, lam) for weight in (ones, 2 * ones)
    )
    twice = answer.number(log_ratio, nll, tokens, 2 * ones, lam)
    ratio = (twice - penalty_twice) / (plain - penalty)
    agree(ratio, 2, "Weights of 2 must double the part from the likelihood.", " times that part")
    heavy = answer.number(log_ratio, torch.zeros(3), tokens, 4 * ones, lam)
    shifted = answer.number(4 * log_ratio, torch.zeros(3), tokens, ones, lam)
    message = "Weight 4 with LO = 2 pays the penalty of weight 1 with LO = 8:"
    need(near(heavy, shifted), f"{message} on which side of the sigmoid is the weight?")
    weight = torch.tensor([0.0, 2.0, 0.5])
    right = (weight * nll).sum() / tokens.sum() - lam * F.logsigmoid(weight * log_ratio).mean()
    message = "Equal weights are right, unequal ones are not: each pair has its own weight."
    need(near(answer.number(log_ratio, nll, tokens, weight, lam), right), message)
    return "weights of 1, 2 and 4, and a batch of unequal ones."
