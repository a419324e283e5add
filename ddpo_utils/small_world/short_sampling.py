"""Many short samples of a small model on a CPU, without the work that `generate` repeats.

The prompt is read once for all of its samples, finished samples leave the batch, the cache has
room for further tokens, grouped-query attention of one new token is two batched products, and a
token is drawn by its cumulative probability. Sampling is without truncation: `sample_stories` has
top-p, top-k and penalties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from ..models.prompting import render, stop_tokens
from ..storage.answer_store import Record

__all__ = ["sample_short"]

ATTENTION = "grouped_products"
FEWER = 0.8  # the batch shrinks when this share of it is left
ROOM = 32  # tokens


class _RoomyLayer(DynamicLayer):
    """A cache that copies what it holds once in `ROOM` tokens: DynamicLayer does for every one."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            return super().update(key_states, value_states)
        self.keys = _extended(self.keys, key_states)
        self.values = _extended(self.values, value_states)
        return self.keys, self.values


def _extended(held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """`held` (B, heads, T, width) and `new` behind it; in place where memory has room for it."""
    batch, heads, length, width = held.shape
    total = length + new.shape[2]
    if held.stride(1) < total * width:
        held = torch.nn.functional.pad(held, (0, 0, 0, total - length + ROOM))
    whole = held.as_strided((batch, heads, total, width), held.stride())
    whole[:, :, length:] = new
    return whole


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' interface: two products for one new token, else sdpa."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    if length > 1:
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            scale=scaling,
            is_causal=attention_mask is None,
            enable_gqa=True,
        )
        return out.transpose(1, 2), None
    query = query.reshape(batch * groups, heads // groups, width)
    keys = key.reshape(batch * groups, -1, width)
    scores = torch.bmm(query, keys.transpose(1, 2)).float() * scaling
    if attention_mask is not None:  # boolean, True where there is no padding
        seen = attention_mask.expand(batch, groups, 1, -1).reshape(batch * groups, 1, -1)
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = scores.softmax(-1).to(value.dtype)
    out = torch.bmm(weights, value.reshape(batch * groups, -1, width))
    return out.reshape(batch, 1, heads, width), None


def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token a row of logits (B, vocabulary), by the inverse of the distribution function."""
    total = logits.float().softmax(-1).cumsum(-1)
    level = torch.rand(len(logits), 1, generator=generator, device=logits.device) * total[:, -1:]
    return torch.searchsorted(total, level, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


@contextmanager
def _short_attention(model: Any) -> Iterator[None]:
    """The model's attention is `_attention` inside."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)  # else padding would be read
    usual = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def sample_short(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    copies: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
) -> list[Record]:
    """`copies` samples of every prompt, one after the other: text, tokens (number), finished.

    All are one batch, and the model computes in its own number type.
    """
    inputs = tokenizer(
        render(tokenizer, prompts),
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    ).to(model.device)
    stops = torch.tensor(stop_tokens(model.generation_config, tokenizer), device=model.device)
    generator = torch.Generator(model.device).manual_seed(seed)
    cache = Cache(layer_class_to_replicate=_RoomyLayer)
    mask = inputs["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), _short_attention(model):
        out = model(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(copies)
        logits = out.logits[:, -1].repeat_interleave(copies, 0)
        mask = mask.repeat_interleave(copies, 0)
        positions = positions[:, -1].repeat_interleave(copies)
        rows = torch.arange(len(logits), device=model.device)
        answers: list[list[int]] = [[] for _ in rows]
        going = torch.ones_like(rows, dtype=torch.bool)
        for step in range(max_new_tokens):
            tokens = _draw(logits / temperature, generator)
            for row, token in zip(rows[going].tolist(), tokens[going].tolist(), strict=True):
                answers[row].append(token)
            going &= ~torch.isin(tokens, stops)
            if not going.any() or step + 1 == max_new_tokens:
                break
            if going.float().mean() < FEWER:
                cache.batch_select_indices(going)
                rows, tokens, mask, positions, going = (
                    part[going] for part in (rows, tokens, mask, positions, going)
                )
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions + 1
            logits = model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
            ).logits[:, -1]
    records = []
    for answer in answers:
        finished = answer[-1] in stops
        if finished:
            answer.pop()
        record = {
            "text": tokenizer.decode(answer, skip_special_tokens=True).strip(),
            "tokens": len(answer),
            "finished": finished,
        }
        records.append(record)
    return records
