"""ORPO and DORPO: the losses by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_trainers import WEIGHTS

from ddpo_utils import dorpo_loss, orpo_loss
from ddpo_utils.losses import log_odds


def draw(n: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Any]:
    """Log-probs of both sides, their token counts, NLL of the chosen side, its token counts."""
    generator = torch.Generator().manual_seed(seed)
    counts = [torch.randint(1, 200, (n,), generator=generator) for _ in range(2)]
    prompt = torch.randint(0, 50, (n,), generator=generator)
    rates = [torch.rand(n, generator=generator, dtype=torch.float64) * 4 + 0.01 for _ in range(2)]
    logps = [
        (-rate * count).to(dtype).requires_grad_()
        for rate, count in zip(rates, counts, strict=True)
    ]
    nll = (-logps[0].detach() + 3.0 * prompt).to(dtype).requires_grad_()
    return [*logps, *counts, nll, counts[0] + prompt]


def by_hand(parts: list[Any], weights: list[float], beta: float) -> float:
    """The formula, a pair at a time in Python's numbers."""
    nll = ratio = 0.0
    for w, lw, ll, nw, nl, own in zip(weights, *(part.tolist() for part in parts[:5]), strict=True):
        p, q = math.exp(lw / nw), math.exp(ll / nl)
        odds = (p / (1 - p)) / (q / (1 - q))
        nll += w * own
        ratio += math.log(1 / (1 + odds**-w))  # log sigmoid(w log odds)
    return nll / sum(parts[5].tolist()) - beta * ratio / len(weights)


@pytest.mark.parametrize("beta", [0.1, 0.25, 1.0])
def test_the_formulas_are_those_of_a_literal_loop(beta: float) -> None:
    parts = draw()
    assert dorpo_loss(*parts, WEIGHTS, beta).item() == pytest.approx(
        by_hand(parts, WEIGHTS, beta), rel=1e-10
    )
    assert orpo_loss(*parts, beta).item() == pytest.approx(
        by_hand(parts, [1.0] * 8, beta), rel=1e-10
    )
    assert orpo_loss(*parts).item() == orpo_loss(*parts, beta=0.25).item()


def test_one_pair_on_paper() -> None:
    """Two tokens of probability 1/2 against one of 1/5: odds 1 and 1/4, so the ratio is 4; 3 tokens of NLL log 2."""
    log = math.log
    parts = [torch.tensor([v], dtype=torch.float64) for v in (2 * log(0.5), log(0.2))]
    parts += [[2], [1], torch.tensor([3 * log(2)], dtype=torch.float64), [3]]
    assert orpo_loss(*parts).item() == pytest.approx(log(2) + 0.25 * log(1 + 1 / 4))
    assert dorpo_loss(*parts, [2.0]).item() == pytest.approx(
        2 * log(2) + 0.25 * log(1 + 1 / 16)
    )  # 4 squared


def gradients(loss: torch.Tensor, parts: list[Any]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [parts[0], parts[1], parts[4]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_of_one_are_orpo_to_the_last_bit(dtype: torch.dtype) -> None:
    parts = draw(dtype=dtype)
    ours, plain = dorpo_loss(*parts, torch.ones(8)), orpo_loss(*parts)
    assert torch.equal(ours, plain)
    assert all(map(torch.equal, gradients(ours, parts), gradients(plain, parts)))


def test_a_weight_of_zero_takes_a_pair_s_gradient_and_leaves_a_constant() -> None:
    parts = draw()
    loss = dorpo_loss(*parts, WEIGHTS)
    for gradient in gradients(loss, parts):
        assert gradient[0] == 0 and (gradient[1:] != 0).all()
    nothing = dorpo_loss(*parts, [0.0] * 8)
    assert nothing.item() == pytest.approx(0.25 * math.log(2))
    assert all((gradient == 0).all() for gradient in gradients(nothing, parts))


def test_the_weight_stands_inside_the_sigmoid() -> None:
    parts, weights = draw(), torch.tensor(WEIGHTS, dtype=torch.float64)
    ratio = log_odds(parts[0] / parts[2]) - log_odds(parts[1] / parts[3])
    outside = (weights * parts[4]).sum() / parts[5].sum() - 0.25 * (
        weights * torch.nn.functional.logsigmoid(ratio)
    ).mean()
    assert abs(dorpo_loss(*parts, WEIGHTS).item() - outside.item()) > 1e-2


@given(st.floats(-700, -1e-12))
def test_log_odds_keep_their_digits(mean: float) -> None:
    from decimal import Decimal, localcontext

    with localcontext(prec=400):
        p = Decimal(mean).exp()
        expected = float((p / (1 - p)).ln())
    assert log_odds(torch.tensor(mean, dtype=torch.float64)).item() == pytest.approx(
        expected, rel=1e-13, abs=1e-15
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_certainty_stays_finite(dtype: torch.dtype) -> None:
    means = torch.tensor([0.0, 1e-7, -1e-30, -800.0], dtype=dtype, requires_grad=True)
    odds = log_odds(means)
    odds.sum().backward()
    assert torch.isfinite(odds).all() and torch.isfinite(means.grad).all()
    assert odds[0] == -math.log(torch.finfo(dtype).eps) or odds[0] > 15


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.tensor([-1.0, float("nan")]), r"policy_logps_w\[1\] is not finite"),
        (1, torch.tensor([-1.0, 0.5]), r"policy_logps_l\[1\] is above 0"),
        (4, torch.tensor([-1.0, 2.0]), r"-nll_w\[0\] is above 0"),
        (0, [-1.0, -2.0], "policy_logps_w must be a 1-D floating-point tensor"),
        (4, torch.ones(3), "same pairs"),
        (2, [1, 0], "tokens_w must hold 2 numbers of tokens, each at least 1"),
        (3, [1], "tokens_l must hold 2"),
        (5, torch.tensor([[3], [3]]), "nll_tokens_w must hold 2"),
        (6, [1.0, -1.0], "deviation_w of pair 1 is -1.0"),
        (6, [1.0], "deviation_w must hold 2 weights"),
        (7, 0.0, "beta must be above 0"),
    ],
)
def test_faulty_input_is_refused(place: int, value: Any, message: str) -> None:
    parts = [
        torch.tensor([-1.0, -2.0]),
        torch.tensor([-3.0, -1.0]),
        [1, 2],
        [2, 1],
        torch.ones(2),
        [3, 3],
        [1.0, 1.0],
        0.25,
    ]
    dorpo_loss(*parts)
    parts[place] = value
    with pytest.raises(ValueError, match=message):
        dorpo_loss(*parts)
