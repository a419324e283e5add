"""Log-probs of given stories under a model, and the divergence of two adapters along them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .prompting import render

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["mean_logps", "token_kl"]

BATCH = 4  # stories scored at once


def _batches(
    model: Any, tokenizer: Any, stories: pd.DataFrame
) -> Iterator[tuple[Any, torch.Tensor]]:
    """Model inputs (B, T) of stories after their prompts, and a mask (B, T - 1).

    The mask marks the positions that predict the tokens of a story and its end.
    """
    device = next(model.parameters()).device
    for start in range(0, len(stories), BATCH):
        part = stories.iloc[start : start + BATCH]
        heads = render(tokenizer, part["prompt"])
        tails = [text + tokenizer.eos_token for text in part["text"]]
        texts = [head + tail for head, tail in zip(heads, tails, strict=True)]
        lengths = [len(tokenizer(head, add_special_tokens=False)["input_ids"]) for head in heads]
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(device)
        position = torch.arange(inputs["input_ids"].shape[1] - 1, device=device)
        in_story = position >= torch.tensor(lengths, device=device)[:, None] - 1
        yield inputs, in_story & inputs["attention_mask"][:, 1:].bool()


def _story_logps(model: Any, inputs: Any, mask: torch.Tensor) -> torch.Tensor:
    """Log-probs (N, vocabulary) of the next token at the N masked positions."""
    with torch.no_grad():
        return model(**inputs).logits[:, :-1][mask].float().log_softmax(-1)


def mean_logps(model: Any, tokenizer: Any, stories: pd.DataFrame) -> np.ndarray:
    """Mean log-prob of each story's tokens and its end, given its prompt; (N,) in nats a token.

    Args:
        stories: a frame with `prompt` and `text`.
    """
    values = []
    for inputs, mask in _batches(model, tokenizer, stories):
        tokens = inputs["input_ids"][:, 1:][mask]
        logps = _story_logps(model, inputs, mask).gather(1, tokens[:, None])[:, 0]
        values += [part.mean().item() for part in logps.split(mask.sum(1).tolist())]
    return np.array(values)


def token_kl(
    model: Any,
    tokenizer: Any,
    samples: pd.DataFrame,
    adapters: tuple[str, str] = ("default", "ref"),
) -> np.ndarray:
    """KL(policy || reference) of each story in nats, summed over its tokens; (N,).

    The divergences of the next-token distributions are exact. Along stories sampled from the policy
    their sum estimates the sequence KL with less noise than log-ratios do; along other stories it
    measures how far the policy moved there.

    Args:
        model: a PeftModel that carries both adapters.
        samples: a frame with `prompt` and `text`.
        adapters: names of policy and reference.
    """
    values, active, training = [], model.active_adapter, model.training
    model.eval()
    for inputs, mask in _batches(model, tokenizer, samples):
        logps = []
        for name in adapters:
            model.set_adapter(name)
            logps.append(_story_logps(model, inputs, mask))
        kl = (logps[0].exp() * (logps[0] - logps[1])).sum(-1)
        values += [part.sum().item() for part in kl.split(mask.sum(1).tolist())]
    model.set_adapter(active)
    model.train(training)
    return np.array(values)
