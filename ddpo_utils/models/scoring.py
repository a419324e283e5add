"""Log-probs of given stories under a model, and the divergence of two adapters along them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .prompting import common_length, render_exchanges

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
        exchanges = render_exchanges(tokenizer, part["prompt"].tolist(), part["text"].tolist())
        texts, prompt_lengths = [], []
        for prompt, answer in exchanges:
            texts.append(prompt + answer)
            tokens = tokenizer([prompt, prompt + answer], add_special_tokens=False)["input_ids"]
            prompt_lengths.append(common_length(*tokens))  # as in TRL
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(device)
        not_padding = inputs["attention_mask"][:, 1:].bool()
        positions = torch.arange(not_padding.shape[1], device=device)
        first = torch.tensor(prompt_lengths, device=device) - 1  # predicts the story's first token
        yield inputs, not_padding & (positions >= first[:, None])


def _story_logps(model: Any, inputs: Any, mask: torch.Tensor) -> torch.Tensor:
    """Log-probs (N, vocabulary) of the next token at the N masked positions."""
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    return logits[mask].float().log_softmax(-1)


def mean_logps(model: Any, tokenizer: Any, stories: pd.DataFrame) -> np.ndarray:
    """Mean log-prob of each story's tokens and its end, given its prompt; (N,) in nats a token."""
    means = []
    for inputs, mask in _batches(model, tokenizer, stories):
        tokens = inputs["input_ids"][:, 1:][mask]
        logps = _story_logps(model, inputs, mask)
        token_logps = logps.gather(1, tokens[:, None])[:, 0]
        lengths = mask.sum(1).tolist()
        for story_logps in token_logps.split(lengths):
            means.append(story_logps.mean().item())
    return np.array(means)


def token_kl(model: Any, tokenizer: Any, samples: pd.DataFrame) -> np.ndarray:
    """KL(policy || reference) of each story in nats, summed over its tokens; (N,).

    The divergences of the next-token distributions are exact. Along stories sampled from the policy
    their sum estimates the sequence KL with less noise than log-ratios do; along other stories it
    measures how far the policy moved there. `model` is a PeftModel with the adapters "default"
    (the policy) and "ref" (the reference).
    """
    active, training = model.active_adapter, model.training
    model.eval()
    divergences = []
    for inputs, mask in _batches(model, tokenizer, samples):
        model.set_adapter("default")
        policy_logps = _story_logps(model, inputs, mask)
        model.set_adapter("ref")
        reference_logps = _story_logps(model, inputs, mask)
        logratios = policy_logps - reference_logps
        token_divergences = (policy_logps.exp() * logratios).sum(-1)
        lengths = mask.sum(1).tolist()
        for story_divergences in token_divergences.split(lengths):
            divergences.append(story_divergences.sum().item())
    model.set_adapter(active)
    model.train(training)
    return np.array(divergences)
