"""Checks of notebook 06: the log odds ratio, the pooled likelihood, and the weight inside the sigmoid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...losses import log_odds
from .tools import Learner, exercise, near, need, numbers


def _logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


@exercise("log_odds_ratio")
def log_odds_ratio(answer: Learner) -> str:
    w, l = _logs(9 / 10, 5 / 8), _logs(1 / 2, 1 / 2, 1 / 4, 1 / 16)
    same = numbers(answer(w, w))
    need(near(same, 0), f"A response against itself has the log odds ratio 0; yours is {same:.2f}.")
    twice = numbers(answer(w.repeat(2), l))
    need(
        near(twice, numbers(answer(w, l))),
        "I repeated the tokens of the chosen response, which leaves the probability of a token as it was on average, "
        "and your ratio changed: how does the number of tokens enter?",
    )
    need(
        near(numbers(answer(l, w)), -numbers(answer(w, l))),
        "With chosen and rejected changed over, the ratio must only change its sign; yours does not.",
    )
    paper = numbers(answer(w, l))
    need(paper > 0, "The chosen response on paper has the better odds, and your ratio is below 0.")
    need(
        near(paper, math.log(9)),
        f"For the two responses on paper yours is {paper:.2f}: go through steps 2 to 4. Is it the odds that you "
        "compare, and their logarithm that you return?",
    )
    sure = numbers(answer(_logs(0.999, 0.998), _logs(0.02, 0.01, 0.03)))
    need(
        near(sure, log_odds(_logs(0.999, 0.998).mean()) - log_odds(_logs(0.02, 0.01, 0.03).mean())),
        "The responses on paper are right, one whose tokens are nearly certain is not.",
    )
    return "the responses on paper, changed over and repeated, and one that is nearly certain."


@exercise("pooled_likelihood")
def pooled_likelihood(answer: Learner) -> str:
    nll, tokens = torch.tensor([30.0, 45.0, 8.0]), torch.tensor([10.0, 30.0, 5.0])
    one, pooled = numbers(answer(nll, tokens, torch.ones(3))), 83 / 45
    need(
        near(one, pooled),
        "With weights of 1 this must be ORPO's pooled NLL, in which every token has the same say, whichever pair it is "
        f"from; yours is {one / pooled:.2f} times that.",
    )
    three = numbers(answer(nll, tokens, torch.full((3,), 3.0)))
    need(
        near(three, 3 * one),
        f"Weights of 3 must give three times as much; yours give {three / one:.2f} times.",
    )
    first, last = (
        numbers(answer(nll, tokens, torch.tensor(w))) for w in ([2.0, 0.5, 0.5], [0.5, 2.0, 0.5])
    )
    need(
        not near(first, last),
        "I moved the large weight from the first pair to the second, and your figure stayed: it does not know whose "
        "weight it is.",
    )
    w = torch.tensor([2.0, 0.0, 0.5])
    need(
        near(numbers(answer(nll, tokens, w)), (w * nll).sum() / tokens.sum()),
        "Equal weights are right, unequal ones are not: whose tokens does each weight meet, and what is divided by?",
    )
    return "weights of 1 and 3, and weights that change places."


@exercise("dorpo_by_hand")
def dorpo_by_hand(answer: Learner) -> str:
    lo, nll = torch.tensor([2.0, -1.0, 0.3]), torch.tensor([30.0, 45.0, 8.0])
    tokens, ones, lam = torch.tensor([10.0, 30.0, 5.0]), torch.ones(3), 0.25
    nothing, pooled = torch.zeros(3), nll.sum() / tokens.sum()
    one = numbers(answer(lo, nll, tokens, ones, lam))
    need(
        near(one, pooled - lam * F.logsigmoid(lo).mean()),
        f"With weights of 1 DORPO is ORPO: {pooled:.3f} from the likelihood, and lambda times the mean penalty on top; "
        f"yours is {one:.3f}.",
    )
    plain, weighted = (
        numbers(answer(lo, nll, tokens, w, lam)) - numbers(answer(lo, nothing, tokens, w, lam))
        for w in (ones, 2 * ones)
    )
    need(
        near(weighted, 2 * plain),
        f"Weights of 2 must double the part from the likelihood; yours is {weighted / plain:.2f} times what it was.",
    )
    heavy, ordinary = (
        numbers(answer(lo, nothing, tokens, 4 * ones, lam)),
        numbers(answer(4 * lo, nothing, tokens, ones, lam)),
    )
    need(
        near(heavy, ordinary),
        "A pair of weight 4 at LO = 2 must pay the penalty of an ordinary pair at LO = 8, and yours does not: on which "
        "side of the sigmoid does the weight stand?",
    )
    w = torch.tensor([0.0, 2.0, 0.5])
    need(
        near(
            numbers(answer(lo, nll, tokens, w, lam)),
            (w * nll).sum() / tokens.sum() - lam * F.logsigmoid(w * lo).mean(),
        ),
        "Equal weights are right, unequal ones are not: each pair's likelihood and odds meet that pair's own weight.",
    )
    return "weights of 1, 2 and 4, and a batch of unequal ones."
