"""The losses, as pure functions of log-probabilities: each a few lines, with its formula and source.

Every log-prob is the sum over the response's tokens of log p(token | prompt, tokens before), in nats; w marks the
chosen response of a pair (the winner) and l the rejected one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F

__all__ = [
    "check_weights",
    "ddpo_loss",
    "dorpo_loss",
    "dpo_loss",
    "log_odds",
    "orpo_loss",
    "pair_losses",
]


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
    values = [
        w.item() if getattr(w, "ndim", 1) == 0 else w for w in values
    ]  # 0-d tensors of a formatted dataset
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
            got = (
                f"shape {tuple(value.shape)}"
                if isinstance(value, torch.Tensor)
                else type(value).__name__
            )
            raise ValueError(
                f"{name} must be a 1-D floating-point tensor, one log-prob a pair; got {got}."
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}[{int((~torch.isfinite(value)).nonzero()[0])}] is not finite.")
        shapes.add(len(value))
    if len(shapes) != 1 or 0 in shapes:
        raise ValueError(
            f"The log-probs must cover the same pairs, at least one; got lengths {sorted(shapes)}."
        )
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
        policy_logps_w=policy_logps_w,
        policy_logps_l=policy_logps_l,
        ref_logps_w=ref_logps_w,
        ref_logps_l=ref_logps_l,
    )
    return (_weights(deviation_w, beta, logps[0]) * pair_losses(*logps, beta)).mean()


def _weights(deviation_w: Any, beta: float, like: torch.Tensor) -> torch.Tensor:
    if not beta > 0:
        raise ValueError(f"beta must be above 0; got {beta!r}.")
    weights = check_weights(deviation_w, "deviation_w")
    if len(weights) != len(like):
        raise ValueError(
            f"deviation_w must hold {len(like)} weights, one a pair; got {len(weights)}."
        )
    return torch.tensor(weights, dtype=like.dtype, device=like.device)


def log_odds(mean_logps: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) for p = exp(mean log-prob of a response's tokens), in nats, of any shape, unchecked.

    In float32 or wider. A mean nearer to 0 than the type tells apart (p = 1) counts as that far from it: the odds stay
    finite, and a model that is certain of every token gets no gradient from there.

    Source: Hong et al., arXiv 2403.07691, equations 3 (the mean) and 4 (odds).
    """
    x = mean_logps.to(torch.promote_types(mean_logps.dtype, torch.float32))
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    return x - torch.log(
        -torch.expm1(x)
    )  # expm1: 1 - exp(x) would lose every digit where p is near 1


def _counts(counts: Any, name: str, like: torch.Tensor) -> torch.Tensor:
    tensor = torch.as_tensor(counts, device=like.device)
    if tensor.shape != like.shape or not bool((tensor >= 1).all()):
        raise ValueError(
            f"{name} must hold {len(like)} numbers of tokens, each at least 1; got {counts!r}."
        )
    return tensor


def orpo_loss(
    policy_logps_w: torch.Tensor,
    policy_logps_l: torch.Tensor,
    tokens_w: Any,
    tokens_l: Any,
    nll_w: torch.Tensor,
    nll_tokens_w: Any,
    beta: float = 0.25,
) -> torch.Tensor:
    """ORPO loss of a batch, a scalar in nats: the chosen side's NLL a token, pooled over the batch, minus beta times
    the mean of log sigmoid(LO), with the log odds ratio LO = log odds(w) - log odds(l). There is no reference.

    Args and errors: as in `dorpo_loss`, whose weights are all 1 here.

    Source: Hong et al., arXiv 2403.07691, equations 3 to 7; NLL over prompt and response as in TRL 1.16.
    """
    ones = torch.ones_like(policy_logps_w) if isinstance(policy_logps_w, torch.Tensor) else 1.0
    return dorpo_loss(
        policy_logps_w, policy_logps_l, tokens_w, tokens_l, nll_w, nll_tokens_w, ones, beta
    )


def dorpo_loss(
    policy_logps_w: torch.Tensor,
    policy_logps_l: torch.Tensor,
    tokens_w: Any,
    tokens_l: Any,
    nll_w: torch.Tensor,
    nll_tokens_w: Any,
    deviation_w: Any,
    beta: float = 0.25,
) -> torch.Tensor:
    """Diversified ORPO loss of a batch, a scalar in nats:

        sum_i delta_i NLL_i / sum_i T_i  -  beta * mean_i log sigmoid(delta_i * LO_i)

    The weight stands inside the sigmoid, as in the authors' trainer. The other form, which a summary of the paper
    suggests, has it outside: delta_i * log sigmoid(LO_i). The authors multiply the pooled NLL by the batch's mean
    weight, which loses sight of whose weight it is; here each pair's tokens count at its own.

    Weights of 1 are ORPO exactly. A pair of weight 0 adds beta * log 2 / B, a constant, and has no gradient; its T_i
    stays in the sum, as its place stays in the mean.

    Args:
        policy_logps_w, policy_logps_l: (B,) log-probs of chosen (w) and rejected (l) under the policy, at most 0.
        tokens_w, tokens_l: (B,) numbers of response tokens that these are sums over, at least 1; tensor, array, list.
        nll_w: (B,) negative log-likelihood of the chosen side, summed over its tokens (in TRL 1.16 and the authors'
            code those of prompt and response that have one before them), at least 0.
        nll_tokens_w: (B,) numbers T_i of those tokens, at least 1.
        deviation_w: (B,) deviation weight of each winner, at least 0; tensor, array or list.
        beta: weight of the odds ratio (dimensionless, above 0); lambda in both papers, beta in TRL.

    Raises:
        ValueError: a log-prob or NLL is not in a finite 1-D tensor of the common length B >= 1 or has the wrong sign,
            a count is below 1, or a weight is negative or not finite.

    Source: Chung et al., arXiv 2503.17126, section 3 (DORPO); Hong et al., arXiv 2403.07691, equations 3 to 7.
    """
    w, l, nll = _checked(policy_logps_w=policy_logps_w, policy_logps_l=policy_logps_l, nll_w=nll_w)
    for name, value in (("policy_logps_w", w), ("policy_logps_l", l), ("-nll_w", -nll)):
        if (value > 1e-3).any():  # rounding may leave a little above 0
            raise ValueError(
                f"{name}[{int((value > 1e-3).nonzero()[0])}] is above 0, and no log-prob is."
            )
    weights = _weights(deviation_w, beta, w)
    ratio = log_odds(w / _counts(tokens_w, "tokens_w", w)) - log_odds(
        l / _counts(tokens_l, "tokens_l", w)
    )
    tokens = _counts(nll_tokens_w, "nll_tokens_w", w).sum()
    return (weights * nll).sum() / tokens - beta * F.logsigmoid(weights * ratio).mean()
