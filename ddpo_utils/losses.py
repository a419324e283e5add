"""The losses as functions of log-probs: sums over a response's tokens of log p, in nats.

w marks the chosen response of a pair (the winner) and l the rejected one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .deviation import brief, check_numbers, is_number

__all__ = ["ddpo_loss", "dorpo_loss", "dpo_loss", "orpo_loss"]

UNWEIGHTED = object()  # in place of deviation_w: every weight is 1


def pair_losses(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """DPO loss of each pair, (B,) in nats, from log policy - log reference of either response.

    Source: Rafailov et al., arXiv 2305.18290, equation 7.
    """
    return -F.logsigmoid(beta * (chosen_logratios - rejected_logratios))


def ddpo_loss(
    policy_logps_w: Tensor,
    policy_logps_l: Tensor,
    ref_logps_w: Tensor,
    ref_logps_l: Tensor,
    deviation_w: Any,
    beta: float = 0.1,
) -> Tensor:
    """Mean over the batch of delta_w times the DPO loss of each pair, a scalar in nats.

    The mean is over pairs, not weights: weights of 3 give three times the loss of 1, which is DPO.

    Args:
        policy_logps_w, ..., ref_logps_l: (B,) log-probs under the policy and the frozen reference.
        deviation_w: (B,) deviation weight of each winner, at least 0; tensor, array or list.
        beta: strength of the pull to the reference, above 0.

    Raises:
        ValueError: log-probs that are no finite 1-D tensors of one length, or a faulty weight.

    Source: Chung et al., arXiv 2503.17126, section 3.
    """
    _check_logps(
        beta,
        policy_logps_w=policy_logps_w,
        policy_logps_l=policy_logps_l,
        ref_logps_w=ref_logps_w,
        ref_logps_l=ref_logps_l,
    )
    weights = _weight_tensor(deviation_w, policy_logps_w)
    dpo = pair_losses(policy_logps_w - ref_logps_w, policy_logps_l - ref_logps_l, beta)
    return (weights * dpo).mean()


def dpo_loss(
    policy_logps_w: Tensor,
    policy_logps_l: Tensor,
    ref_logps_w: Tensor,
    ref_logps_l: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Mean DPO loss of a batch, a scalar in nats: `ddpo_loss` with weights of 1."""
    return ddpo_loss(policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l, UNWEIGHTED, beta)


def log_odds(mean_logps: Tensor) -> Tensor:
    """log(p / (1 - p)) for p = exp(mean log-prob of a response's tokens), in float32 or wider.

    Where p rounds to 1 it counts as the number below 1, so the odds stay finite.

    Source: Hong et al., arXiv 2403.07691, equations 3 and 4.
    """
    x = mean_logps.to(torch.promote_types(mean_logps.dtype, torch.float32))
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    return x - torch.log(-torch.expm1(x))  # 1 - exp(x) would lose every digit near p = 1


def dorpo_loss(
    policy_logps_w: Tensor,
    policy_logps_l: Tensor,
    tokens_w: Any,
    tokens_l: Any,
    nll_w: Tensor,
    nll_tokens_w: Any,
    deviation_w: Any,
    beta: float = 0.25,
) -> Tensor:
    """Diversified ORPO loss of a batch, a scalar in nats, with LO = log odds(w) - log odds(l):

        sum_i delta_i NLL_i / sum_i T_i  -  beta * mean_i log sigmoid(delta_i * LO_i)

    The weight is inside the sigmoid, as in the authors' trainer; a summary of the paper reads as if
    it were outside. Weights of 1 are ORPO; a pair of weight 0 has no gradient.

    Args:
        policy_logps_w, policy_logps_l: (B,) log-probs of chosen and rejected, at most 0.
        tokens_w, tokens_l: (B,) numbers of response tokens that these are sums over.
        nll_w: (B,) negative log-likelihood of the winner's prompt and response, at least 0.
        nll_tokens_w: (B,) numbers T_i of the tokens that this is a sum over.
        deviation_w: (B,) deviation weight of each winner, at least 0.
        beta: weight of the odds ratio, above 0; lambda in both papers, beta in TRL.

    Raises:
        ValueError: as `ddpo_loss`; a log-prob above 0, an NLL below 0 or a count below 1.

    Source: Chung et al., arXiv 2503.17126, section 3; Hong et al., arXiv 2403.07691, equation 6.
    """
    _check_logps(beta, policy_logps_w=policy_logps_w, policy_logps_l=policy_logps_l, nll_w=nll_w)
    above = {"policy_logps_w": policy_logps_w, "policy_logps_l": policy_logps_l, "-nll_w": -nll_w}
    for name, value in above.items():
        if (value > 1e-3).any():  # rounding may leave a little above 0
            raise ValueError(f"{name}[{int(value.argmax())}] is above 0, and no log-prob is.")
    weights = _weight_tensor(deviation_w, nll_w)
    chosen_odds = log_odds(policy_logps_w / _number_tensor(tokens_w, "tokens_w", nll_w))
    rejected_odds = log_odds(policy_logps_l / _number_tensor(tokens_l, "tokens_l", nll_w))
    nll = (weights * nll_w).sum() / _number_tensor(nll_tokens_w, "nll_tokens_w", nll_w).sum()
    return nll - beta * F.logsigmoid(weights * (chosen_odds - rejected_odds)).mean()


def orpo_loss(
    policy_logps_w: Tensor,
    policy_logps_l: Tensor,
    tokens_w: Any,
    tokens_l: Any,
    nll_w: Tensor,
    nll_tokens_w: Any,
    beta: float = 0.25,
) -> Tensor:
    """ORPO loss of a batch, a scalar in nats: `dorpo_loss` with weights of 1."""
    responses = (policy_logps_w, policy_logps_l, tokens_w, tokens_l)
    return dorpo_loss(*responses, nll_w, nll_tokens_w, UNWEIGHTED, beta)


def _check_logps(beta: float, **logps: Tensor) -> None:
    """ValueError unless the log-probs are finite 1-D tensors of one length, and beta is above 0."""
    length = 0
    for name, value in logps.items():
        dense = isinstance(value, Tensor) and not value.is_sparse and not value.is_meta
        if not dense or value.dim() != 1 or not value.is_floating_point():
            raise ValueError(f"{name} must be a 1-D floating-point tensor.")
        length = length or len(value)
        if len(value) != length or not length:
            raise ValueError(f"{name} holds {len(value)} log-probs: give one for each pair.")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}[{int(value.isfinite().int().argmin())}] is not finite.")
    if not is_number(beta) or beta == 0:
        raise ValueError(f"beta must be above 0; got {brief(beta)}.")


def _weight_tensor(deviation_w: Any, logps: Tensor) -> Tensor:
    """The weights as a tensor like `logps`."""
    if deviation_w is UNWEIGHTED:
        return torch.ones_like(logps)
    return _number_tensor(deviation_w, "deviation_w", logps, low=0)


def _number_tensor(items: Any, name: str, logps: Tensor, low: float = 1) -> Tensor:
    """Weights or counts of tokens, one a pair, as a tensor like `logps`; else ValueError."""
    numbers = check_numbers(items, name, low)
    if len(numbers) != len(logps):
        raise ValueError(f"{name} must hold {len(logps)} numbers; got {len(numbers)}.")
    return torch.tensor(numbers, dtype=logps.dtype, device=logps.device)
