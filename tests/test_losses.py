"""The losses by hand, their equalities, and the input they refuse."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddpo_utils import ddpo_loss, dorpo_loss, dpo_loss, orpo_loss
from ddpo_utils.losses import log_odds, pair_losses

WEIGHTS = [0.0, 0.25, 1.0, 1.0, 2.75, 4.0]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def draw_logps(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Log-probs of six pairs: policy w, policy l, reference w, reference l."""
    generator = torch.Generator().manual_seed(0)
    logps = 20 * torch.randn(4, 6, generator=generator, dtype=torch.float64) - 100
    return [row.to(dtype).requires_grad_() for row in logps]


def draw_orpo(dtype: torch.dtype = torch.float64) -> list[Any]:
    """Log-probs and token counts of both sides, NLL of the chosen side, its token counts."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 200, (2, 6), generator=generator)
    prompt = torch.randint(0, 50, (6,), generator=generator)
    rates = 4 * torch.rand(2, 6, generator=generator, dtype=torch.float64) + 0.01
    logps = [row.to(dtype).requires_grad_() for row in -rates * counts]
    nll = (-logps[0].detach() + 3.0 * prompt).to(dtype).requires_grad_()
    return [*logps, *counts, nll, counts[0] + prompt]


def ddpo_by_hand(logps: list[Tensor], weights: list[float], beta: float) -> float:
    total = 0.0
    for weight, w, l, ref_w, ref_l in zip(  # noqa: E741 - as in the formula
        weights, *(row.tolist() for row in logps), strict=True
    ):
        total += weight * math.log1p(math.exp(-beta * ((w - ref_w) - (l - ref_l))))
    return total / len(weights)


def dorpo_by_hand(parts: list[Any], weights: list[float], beta: float) -> float:
    nll = ratio = 0.0
    columns = [part.tolist() for part in parts[:5]]
    for weight, logp_w, logp_l, n_w, n_l, nll_w in zip(weights, *columns, strict=True):
        p, q = math.exp(logp_w / n_w), math.exp(logp_l / n_l)
        odds = (p / (1 - p)) / (q / (1 - q))
        nll += weight * nll_w
        ratio += math.log(1 / (1 + odds**-weight))  # log sigmoid(weight * log odds)
    return nll / sum(parts[5].tolist()) - beta * ratio / len(weights)


def test_pairs_on_paper():
    """DPO: winner up by 2, loser down by 1. ORPO: tokens of 1/2 and 1/5, so odds of 1 and 1/4."""
    logps = [torch.tensor([value]) for value in (-8.0, -11.0, -10.0, -10.0)]
    expected = -math.log(1 / (1 + math.exp(-1.5)))
    assert dpo_loss(*logps, beta=0.5).item() == pytest.approx(expected)
    assert ddpo_loss(*logps, [2.5], beta=0.5).item() == pytest.approx(2.5 * expected)
    assert dpo_loss(*[torch.zeros(3)] * 4).item() == pytest.approx(math.log(2))
    far = torch.tensor([2000.0, -2000.0])
    assert pair_losses(far, -far, 0.5).tolist() == [0.0, 2000.0]
    logs = [[2 * math.log(0.5)], [math.log(0.2)], [3 * math.log(2)]]
    w, l, nll = (torch.tensor(value, dtype=torch.float64) for value in logs)  # noqa: E741
    orpo = math.log(2) + 0.25 * math.log(1 + 1 / 4)
    assert orpo_loss(w, l, [2], [1], nll, [3]).item() == pytest.approx(orpo)
    dorpo = 2 * math.log(2) + 0.25 * math.log(1 + 1 / 16)
    assert dorpo_loss(w, l, [2], [1], nll, [3], [2.0]).item() == pytest.approx(dorpo)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_batches_equal_the_literal_loops(beta):
    logps, parts = draw_logps(), draw_orpo()
    ones = [1.0] * 6
    for loss, expected in (
        (ddpo_loss(*logps, WEIGHTS, beta), ddpo_by_hand(logps, WEIGHTS, beta)),
        (dpo_loss(*logps, beta), ddpo_by_hand(logps, ones, beta)),
        (dorpo_loss(*parts, WEIGHTS, beta), dorpo_by_hand(parts, WEIGHTS, beta)),
        (orpo_loss(*parts, beta), dorpo_by_hand(parts, ones, beta)),
    ):
        assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert torch.equal(orpo_loss(*parts), orpo_loss(*parts, beta=0.25))
    assert torch.equal(dpo_loss(*logps), dpo_loss(*logps, beta=0.1))


def test_the_gradient_by_hand():
    """d loss / d log pi(w) = -beta * weight * sigmoid(-beta * margin) / B; the opposite for l."""
    logps, weights = draw_logps(), torch.tensor(WEIGHTS, dtype=torch.float64)
    gradients = torch.autograd.grad(ddpo_loss(*logps, WEIGHTS), logps[:2])
    margins = (logps[0] - logps[2] - logps[1] + logps[3]).detach()
    expected = -0.1 * weights * torch.sigmoid(-0.1 * margins) / 6
    assert torch.allclose(gradients[0], expected) and torch.allclose(gradients[1], -expected)
    assert gradients[0][0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_one_are_dpo_and_orpo_to_the_last_bit(dtype):
    logps, parts = draw_logps(dtype), draw_orpo(dtype)
    orpo_inputs = [parts[0], parts[1], parts[4]]
    for weighted, plain, inputs in (
        (ddpo_loss(*logps, torch.ones(6)), dpo_loss(*logps), logps[:2]),
        (dorpo_loss(*parts, torch.ones(6)), orpo_loss(*parts), orpo_inputs),
    ):
        assert torch.equal(weighted, plain)
        gradients = zip(
            torch.autograd.grad(weighted, inputs), torch.autograd.grad(plain, inputs), strict=True
        )
        assert all(torch.equal(a, b) for a, b in gradients)


def test_weights_of_zero_have_no_gradient():
    logps, parts = draw_logps(), draw_orpo()
    orpo_inputs = [parts[0], parts[1], parts[4]]
    nothing = dorpo_loss(*parts, [0.0] * 6)
    assert ddpo_loss(*logps, [0.0] * 6).item() == 0
    assert nothing.item() == pytest.approx(0.25 * math.log(2))  # a constant
    assert all((g == 0).all() for g in torch.autograd.grad(nothing, orpo_inputs))
    for gradient in torch.autograd.grad(dorpo_loss(*parts, WEIGHTS), orpo_inputs):
        assert gradient[0] == 0 and (gradient[1:] != 0).all()


def test_dorpo_s_weight_is_inside_the_sigmoid():
    parts, weights = draw_orpo(), torch.tensor(WEIGHTS, dtype=torch.float64)
    ratio = log_odds(parts[0] / parts[2]) - log_odds(parts[1] / parts[3])
    outside = 0.25 * (weights * torch.nn.functional.logsigmoid(ratio)).mean()
    other_form = (weights * parts[4]).sum() / parts[5].sum() - outside
    assert abs(dorpo_loss(*parts, WEIGHTS).item() - other_form.item()) > 1e-2


@given(st.floats(-700, -1e-12))
def test_log_odds_keep_their_digits(mean):
    with localcontext(prec=400):
        p = Decimal(mean).exp()
        expected = float((p / (1 - p)).ln())
    value = log_odds(torch.tensor(mean, dtype=torch.float64)).item()
    assert value == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_certain_responses_have_finite_odds(dtype):
    means = torch.tensor([0.0, 1e-7, -1e-30, -800.0], dtype=dtype, requires_grad=True)
    odds = log_odds(means)
    odds.sum().backward()
    assert torch.isfinite(odds).all() and torch.isfinite(means.grad).all() and odds[0] > 15


def as_scalars(weights: list[float]) -> list[Tensor]:
    return [torch.tensor(weight, dtype=torch.float64) for weight in weights]


BAD_WEIGHTS = [
    ([1.0, None, 1.0], "pair 1 is None"),
    ([1.0, 1.0, -0.5], "pair 2 is -0.5"),
    ([float("nan"), 1.0, 1.0], "pair 0 is nan"),
    (torch.tensor([1.0, float("inf"), 1.0]), "pair 1 is inf"),
    ([1.0, "3", 1.0], "pair 1 is '3'"),
    ([1.0, 10**400, 1.0], "pair 1 is 1000"),
    ([1.0, 1.0, 1e39], "pair 2 is 1e\\+39"),  # float32 would make it infinite
    ([1.0, True, 1.0], "pair 1 is True"),
    (np.ones((3, 1)), "pair 0 is"),
    (np.ma.masked_equal([1.0, 2.0, 3.0], 2.0), "pair 1 is None"),
]
BAD_LOGPS = [
    torch.zeros(3, 1),
    torch.tensor(1.0),
    torch.ones(3).to_sparse(),
    torch.ones(3, device="meta"),
    torch.zeros(3, dtype=torch.long),
    np.zeros(3),
    None,
    torch.tensor([0.0, float("nan"), 0.0]),
    torch.tensor([0.0, 0.0, -float("inf")]),
]
NAMES = ["policy_logps_w", "policy_logps_l", "ref_logps_w", "ref_logps_l"]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, pd.Series, as_scalars])
def test_weights_may_be_any_row_of_numbers(kind):
    loss = ddpo_loss(*draw_logps(), kind(WEIGHTS))
    expected = ddpo_by_hand(draw_logps(), WEIGHTS, 0.1)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("weights", "named"), BAD_WEIGHTS)
def test_faulty_weights_are_named(weights, named):
    with pytest.raises(ValueError, match=f"deviation_w of {named}"):
        ddpo_loss(*[torch.zeros(3)] * 4, weights)


def test_other_faults_of_ddpo_and_dpo_are_named():
    for value in BAD_LOGPS:
        for position in range(4):
            logps = [torch.zeros(3)] * 4
            logps[position] = value
            with pytest.raises(ValueError, match=NAMES[position]):
                ddpo_loss(*logps, [1.0] * 3)
    with pytest.raises(ValueError, match="ref_logps_l holds 2"):
        dpo_loss(*[torch.zeros(3)] * 3, torch.zeros(2))
    for weights in ([1.0, 1.0], [], 1.0, None, "111", {0: 1.0, 1: 1.0, 2: 1.0}):
        with pytest.raises(ValueError, match="deviation_w must"):  # never broadcast
            ddpo_loss(*[torch.zeros(3)] * 4, weights)
    with pytest.raises(ValueError, match="policy_logps_w holds 0"):
        dpo_loss(*[torch.zeros(0)] * 4)
    for beta in (0.0, -0.1, float("nan"), float("inf"), None, "0.1"):
        with pytest.raises(ValueError, match="beta"):
            dpo_loss(*[torch.zeros(2)] * 4, beta=beta)


BAD_ORPO = [
    (0, torch.tensor([-1.0, float("nan")]), r"policy_logps_w\[1\]"),
    (1, torch.tensor([-1.0, 0.5]), r"policy_logps_l\[1\]"),
    (4, torch.tensor([-1.0, 2.0]), r"nll_w\[0\]"),
    (4, torch.ones(3), "nll_w holds 3"),
    (2, [1, 0], "tokens_w"),
    (2, None, "tokens_w"),
    (3, ["1", "1"], "tokens_l"),
    (5, [1, float("inf")], "nll_tokens_w"),
    (3, [1], "tokens_l"),
    (5, torch.tensor([[3], [3]]), "nll_tokens_w"),
    (6, [1.0, -1.0], "deviation_w of pair 1"),
    (7, 0.0, "beta"),
]


@pytest.mark.parametrize(("place", "value", "named"), BAD_ORPO)
def test_faulty_orpo_input_is_named(place, value, named):
    logps = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -1.0])]
    arguments = [*logps, [1, 2], [2, 1], torch.ones(2), [3, 3], [1.0, 1.0], 0.25]
    dorpo_loss(*arguments)
    arguments[place] = value
    with pytest.raises(ValueError, match=named):
        dorpo_loss(*arguments)
