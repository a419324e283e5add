"""The losses by hand, their equalities, and the input they refuse."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from ddpo_utils import ddpo_loss, dpo_loss
from ddpo_utils.losses import check_weights, pair_losses

NAMES = ["policy_logps_w", "policy_logps_l", "ref_logps_w", "ref_logps_l"]


def draw(n: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logps = [
        (torch.randn(n, generator=generator, dtype=torch.float64) * 20 - 100).to(dtype)
        for _ in range(4)
    ]
    return [x.requires_grad_(i < 2) for i, x in enumerate(logps)]


def by_hand(logps: list[torch.Tensor], weights: list[float], beta: float) -> float:
    total = 0.0
    for w, pw, pl, rw, rl in zip(weights, *(x.tolist() for x in logps), strict=True):
        total += w * math.log1p(math.exp(-beta * ((pw - rw) - (pl - rl))))
    return total / len(weights)


def loss_and_gradients(
    logps: list[torch.Tensor], weights: object, beta: float = 0.1
) -> tuple[float, torch.Tensor]:
    loss = ddpo_loss(*logps, weights, beta)
    return loss.item(), torch.stack(torch.autograd.grad(loss, logps[:2]))


def test_the_loss_of_one_pair_on_paper():
    """Policy moved the winner up by 2 and the loser down by 1: 0.5 * 3 inside the sigmoid."""
    one = [torch.tensor([v]) for v in (-8.0, -11.0, -10.0, -10.0)]
    expected = -math.log(1 / (1 + math.exp(-1.5)))
    assert dpo_loss(*one, beta=0.5).item() == pytest.approx(expected)
    assert ddpo_loss(*one, [2.5], beta=0.5).item() == pytest.approx(2.5 * expected)
    zero = [torch.zeros(3)] * 4
    assert dpo_loss(*zero).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_the_formula_over_a_batch_is_the_plain_mean(beta):
    logps, weights = draw(), [0.0, 0.3, 1.0, 1.0, 2.7, 4.0]
    assert ddpo_loss(*logps, weights, beta=beta).item() == pytest.approx(
        by_hand(logps, weights, beta), rel=1e-12
    )
    assert dpo_loss(*logps, beta=beta).item() == pytest.approx(
        by_hand(logps, [1.0] * 6, beta), rel=1e-12
    )


def test_the_gradient_by_hand():
    """d loss / d log pi(w) = -beta * w * sigmoid(-beta * margin) / B, and the opposite for the loser."""
    logps, weights = draw(), torch.tensor([0.0, 0.3, 1.0, 1.0, 2.7, 4.0], dtype=torch.float64)
    gradient = loss_and_gradients(logps, weights)[1]
    margin = (logps[0] - logps[2] - logps[1] + logps[3]).detach()
    expected = -0.1 * weights * torch.sigmoid(-0.1 * margin) / 6
    assert torch.allclose(gradient, torch.stack([expected, -expected]))
    assert (gradient[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_of_one_are_dpo_and_three_is_three_times(dtype):
    logps = draw(dtype=dtype)
    loss, gradient = loss_and_gradients(logps, torch.ones(6))
    plain = dpo_loss(*logps)
    assert loss == plain.item()
    assert torch.equal(gradient, torch.stack(torch.autograd.grad(plain, logps[:2])))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    loss3, gradient3 = loss_and_gradients(logps, [3.0] * 6)
    assert loss3 == pytest.approx(3 * loss, rel=tolerance)
    assert torch.allclose(gradient3, 3 * gradient, rtol=tolerance)


def test_weights_of_zero_give_no_loss_and_no_gradient():
    loss, gradient = loss_and_gradients(draw(), [0.0] * 6)
    assert loss == 0 and (gradient == 0).all()


def test_the_reference_gets_no_gradient_from_the_formula_s_sign():
    logps = draw(seed=3)
    better = [logps[0] + 1, *logps[1:]]
    assert dpo_loss(*better) < dpo_loss(*logps)
    assert dpo_loss(logps[0], logps[1] + 1, *logps[2:]) > dpo_loss(*logps)


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda w: np.array(w, dtype=np.float32),
        lambda w: np.array(w[::-1])[::-1],  # a negative stride
        lambda w: pd.Series(w, index=[f"row{i}" for i in range(len(w))]),
        lambda w: [np.float32(x) for x in w],
        lambda w: [torch.tensor(x) for x in w],
        lambda w: torch.tensor(w, requires_grad=True),
    ],
)
def test_weights_may_be_any_row_of_numbers(kind):
    weights = [0.0, 0.5, 1.0, 1.5, 2.0, 4.0]
    loss = ddpo_loss(*draw(), kind(weights))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(by_hand(draw(), weights, 0.1), rel=1e-12)


def test_double_precision_weights_are_not_rounded_to_single():
    weights = [0.1, 0.2, 0.3, 0.7, 0.9, 3.8]
    assert ddpo_loss(*draw(), weights).item() == pytest.approx(
        by_hand(draw(), weights, 0.1), rel=1e-14
    )


def test_extreme_margins_stay_finite():
    far = [
        torch.tensor([0.0, -2000.0]),
        torch.tensor([-2000.0, 0.0]),
        torch.zeros(2),
        torch.zeros(2),
    ]
    assert pair_losses(*far, beta=1.0).tolist() == [0.0, 2000.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, None, 1.0], "weight of pair 1 is None"),
        ([1.0, 1.0, -0.5], "weight of pair 2 is -0.5"),
        ([float("nan"), 1.0, 1.0], "weight of pair 0 is nan"),
        (torch.tensor([1.0, float("inf"), 1.0]), "weight of pair 1 is inf"),
        (np.array([1.0, 1.0, -np.inf]), "weight of pair 2 is -inf"),
        ([np.float32(1), "3", 1.0], "weight of pair 1 is '3'"),
        (pd.Series([1.0, None, 2.0]), "weight of pair 1 is nan"),
        (None, "weight of pair 0 is None"),
        ([[1.0], [1.0], [1.0]], "weight of pair 0 is"),
        (np.ones((3, 1)), "weight of pair 0 is"),
    ],
)
def test_faulty_weights_are_refused_by_pair(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(weights)
    with pytest.raises(ValueError, match="deviation_w of pair"):
        ddpo_loss(*draw(3), weights)


@pytest.mark.parametrize("weights", [[1.0, 1.0], 1.0, [], np.float64(2)])
def test_a_wrong_number_of_weights_is_refused_and_never_broadcast(weights):
    with pytest.raises(ValueError, match="must hold 3 weights"):
        ddpo_loss(*draw(3), weights)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 1), r"1-D floating-point.*shape \(3, 1\)"),
        (torch.tensor(1.0), r"1-D floating-point.*shape \(\)"),
        (torch.zeros(3, dtype=torch.long), "floating-point"),
        (np.zeros(3), "got ndarray"),
        (None, "got NoneType"),
        (torch.tensor([0.0, float("nan"), 0.0]), r"\[1\] is not finite"),
        (torch.tensor([0.0, 0.0, -float("inf")]), r"\[2\] is not finite"),
        (torch.zeros(2), "same pairs"),
    ],
)
def test_faulty_log_probs_are_refused_by_name(position, value, message):
    logps = [torch.zeros(3) for _ in range(4)]
    logps[position] = value
    for call in (lambda: ddpo_loss(*logps, [1.0] * 3), lambda: dpo_loss(*logps)):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert NAMES[position] in str(caught.value) or "same pairs" in str(caught.value)


def test_an_empty_batch_and_a_faulty_beta_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        dpo_loss(*[torch.zeros(0)] * 4)
    for beta in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="beta"):
            dpo_loss(*[torch.zeros(2)] * 4, beta=beta)
