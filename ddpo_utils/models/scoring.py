"""What a model thinks of given stories: log-probs, and the divergence of two adapters along them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..corpus.text import as_messages

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["mean_logps", "token_kl"]


def _batches(
    model: Any, tokenizer: Any, stories: pd.DataFrame, size: int = 4
) -> Iterator[tuple[Any, torch.Tensor]]:
    """Model inputs of `size` stories behind their prompts, and the mask (B, T - 1) of the positions that predict the
    story's tokens and its end."""
    device = next(model.parameters()).device
    for start in range(0, len(stories), size):
        part = stories.iloc[start : start + size]
        chats = [as_messages("user", p) for p in part["prompt"]]
        heads = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        texts = [
            head + text + tokenizer.eos_token
            for head, text in zip(heads, part["text"], strict=True)
        ]
        lengths = [len(tokenizer(head, add_special_tokens=False)["input_ids"]) for head in heads]
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(device)
        place = torch.arange(inputs["input_ids"].shape[1] - 1, device=device)
        mask = (place >= torch.tensor(lengths, device=device)[:, None] - 1) & inputs[
            "attention_mask"
        ][:, 1:].bool()
        yield inputs, mask


def mean_logps(model: Any, tokenizer: Any, stories: pd.DataFrame) -> np.ndarray:
    """Mean log-prob of a token of each story given its prompt, its end included; (N,) in nats a token.

    Args:
        stories: a frame with `prompt` and `text`.
    """
    values = []
    with torch.no_grad():
        for inputs, mask in _batches(model, tokenizer, stories):
            logps = model(**inputs).logits[:, :-1][mask].float().log_softmax(-1)
            picked = logps.gather(1, inputs["input_ids"][:, 1:][mask][:, None])[:, 0]
            values += [part.mean().item() for part in picked.split(mask.sum(1).tolist())]
    return np.array(values)


def token_kl(
    model: Any,
    tokenizer: Any,
    samples: pd.DataFrame,
    adapters: tuple[str, str] = ("default", "ref"),
) -> np.ndarray:
    """KL(policy || reference) of each sampled story in nats: the exact divergence of the next-token distributions,
    summed over the story's tokens.

    Summing exact token divergences along stories sampled from the policy estimates the sequence KL with less noise
    than log-ratios of the samples; along another model's stories it measures how far the policy moved there.

    Args:
        model: a PeftModel that carries both adapters.
        samples: a frame with `prompt` and `text`.
        adapters: names of policy and reference.
    """
    values, was, training = [], model.active_adapter, model.training
    model.eval()
    for inputs, mask in _batches(model, tokenizer, samples):
        logps = []
        with torch.no_grad():
            for name in adapters:
                model.set_adapter(name)
                logps.append(model(**inputs).logits[:, :-1][mask].float().log_softmax(-1))
        kl = (logps[0].exp() * (logps[0] - logps[1])).sum(-1)
        values += [part_kl.sum().item() for part_kl in kl.split(mask.sum(1).tolist())]
    model.set_adapter(was)
    model.train(training)
    return np.array(values)
