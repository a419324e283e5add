"""The losses, as pure functions of log-probabilities: each a few lines, with its formula and source.

Every log-prob is the sum over the response's tokens of log p(token | prompt, tokens before), in nats.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["check_weights", "ddpo_loss", "dpo_loss", "pair_losses"]


def pair_losses(
    policy_logps_w: torch.Tensor,
    policy_logps_l: torch.Tensor,
    ref_logps_w: torch.Tensor,
    ref_logps_l: torch.Tensor,
    beta: float = 0.1,
) -> torch.Tensor:
    """DPO loss of each pair, (B,) in nats: -log sigmoid(beta * [(w - ref_w) - (l - ref_l)]), unchecked.

    Source: Rafailov et al., arXiv 2305.18290, equation 7.
    """
    return -F.logsigmoid(beta * ((policy_logps_w - ref_logps_w) - (policy_logps_l - ref_logps_l)))


def check_weights(weights: Any, what: str = "weight") -> list[float]:
    """The weights of a tensor, array or list as numbers, each finite and at least 0; else the first fault is named.

    Raises:
        ValueError: with the position and value of the first weight that is missing, negative or not finite.
    """
    values = weights.tolist() if hasattr(weights, "tolist") else weights
    values = list(values) if isinstance(values, Iterable) else [values]
    values = [w.item() if getattr(w, "ndim", 1) == 0 else w for w in values]  # 0-d tensors of a formatted dataset
    for i, w in enumerate(values):
        if not isinstance(w, (int, float)):
            raise ValueError(f"{what} of pair {i} is {w!r}: give every pair a number.")
        if not 0 <= w < float("inf"):
            raise ValueError(f"{what} of pair {i} is {w}: it must be finite and at least 0.")
    return values


def _checked(**logps: torch.Tensor) -> list[torch.Tensor]:
    shapes = set()
    for name, value in logps.items():
        if not isinstance(value, torch.Tensor) or value.dim() != 1 or not value.is_floating_point():
            got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a 1-D floating-point tensor, one log-prob a pair; got {got}.")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}[{int((~torch.isfinite(value)).nonzero()[0])}] is not finite.")
        shapes.add(len(value))
    if len(shapes) != 1 or 0 in shapes:
        raise ValueError(f"The log-probs must cover the same pairs, at least one; got lengths {sorted(shapes)}.")
    return list(logps.values())


def dpo_loss(
    policy_logps_w: torch.Tensor,
    policy_logps_l: torch.Tensor,
    ref_logps_w: torch.Tensor,
    ref_logps_l: torch.Tensor,
    beta: float = 0.1,
) -> torch.Tensor:
    """Mean DPO loss of a batch, a scalar in nats.

    Args:
        policy_logps_w, policy_logps_l: (B,) log-probs of chosen (w) and rejected (l) under the policy.
        ref_logps_w, ref_logps_l: (B,) the same under the frozen reference.
        beta: strength of the pull to the reference (dimensionless, above 0).

    Raises:
        ValueError: an argument is not a finite 1-D tensor of the common length B >= 1.

    Source: Rafailov et al., arXiv 2305.18290, equation 7.
    """
    ones = torch.ones_like(policy_logps_w) if isinstance(policy_logps_w, torch.Tensor) else 1.0
    return ddpo_loss(policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l, ones, beta)


def ddpo_loss(
    policy_logps_w: torch.Tensor,
    policy_logps_l: torch.Tensor,
    ref_logps_w: torch.Tensor,
    ref_logps_l: torch.Tensor,
    deviation_w: Any,
    beta: float = 0.1,
) -> torch.Tensor:
    """Mean over the batch of delta_w times the DPO loss of each pair, a scalar in nats.

    The plain mean: it is divided by the number of pairs and not by the sum of the weights, so weights of 3
    give three times the loss and the gradient of weights of 1 (which is DPO), and weights of 0 give none.

    Args:
        policy_logps_w, policy_logps_l, ref_logps_w, ref_logps_l: (B,) as in `dpo_loss`.
        deviation_w: (B,) deviation weight of each winner, at least 0; tensor, array or list.
        beta: strength of the pull to the reference (dimensionless, above 0).

    Raises:
        ValueError: an argument is not a finite 1-D tensor of the common length B >= 1, or a weight is negative
            or not finite.

    Source: Chung et al., arXiv 2503.17126, section 3 (DDPO).
    """
    logps = _checked(
        policy_logps_w=policy_logps_w, policy_logps_l=policy_logps_l, ref_logps_w=ref_logps_w, ref_logps_l=ref_logps_l
    )
    if not beta > 0:
        raise ValueError(f"beta must be above 0; got {beta!r}.")
    weights = check_weights(deviation_w, "deviation_w")
    if len(weights) != len(logps[0]):
        raise ValueError(f"deviation_w must hold {len(logps[0])} weights, one a pair; got {len(weights)}.")
    return (torch.tensor(weights, dtype=logps[0].dtype, device=logps[0].device) * pair_losses(*logps, beta)).mean()
