"""Fast samples of short texts: the same distribution as the model's own, by other means."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from ddpo_utils.models.policy import default_device
from ddpo_utils.models.prompting import render, stop_tokens
from ddpo_utils.models.sampling import complete
from ddpo_utils.small_world.short_sampling import sample_short

PROMPTS = ["Sea.", "A clock that stops at noon", "Nobody knows what the captain did"]
COLD = 1e-4  # at this temperature the likeliest token is drawn


@pytest.fixture
def tiny(tiny: tuple[Any, Any]) -> tuple[Any, Any]:
    """The tiny model on a GPU where there is one: `sample_short` is for both."""
    model, tokenizer = tiny
    return model.to(default_device()), tokenizer


def test_the_likeliest_tokens_are_those_of_generate(tiny) -> None:
    """With padding, and a batch that shrinks as samples finish."""
    expected = complete(*tiny, PROMPTS, 24, do_sample=False)
    found = sample_short(*tiny, PROMPTS, 2, 24, seed=0, temperature=COLD)
    assert len(found) == 6
    for i, answer in enumerate(expected):
        assert found[2 * i] == found[2 * i + 1] == answer


def test_first_tokens_have_the_models_probabilities(tiny) -> None:
    model, tokenizer = tiny
    inputs = tokenizer(
        render(tokenizer, PROMPTS[:1]), return_tensors="pt", add_special_tokens=False
    ).to(model.device)
    with torch.no_grad():
        expected = model(**inputs).logits[0, -1].div(0.5).softmax(-1).cpu().numpy()
    stops = stop_tokens(model.generation_config, tokenizer)
    draws = 4000
    found = sample_short(model, tokenizer, PROMPTS[:1], draws, 1, seed=1, temperature=0.5)
    ended = sum(answer["finished"] for answer in found)
    assert stats.binomtest(ended, draws, float(expected[stops].sum())).pvalue > 1e-3
    texts = [
        tokenizer.decode([token], skip_special_tokens=True).strip()
        for token in range(len(expected))
    ]
    wanted: Counter[str] = Counter()
    for token, text in enumerate(texts):
        wanted[text] += 0 if token in stops else draws * expected[token]
    common = [text for text, count in wanted.items() if count > 5]
    seen = Counter(answer["text"] for answer in found if not answer["finished"])
    observed = np.array([seen[text] for text in common], dtype=float)
    hoped = np.array([wanted[text] for text in common])
    assert len(common) > 3
    chi = float(((observed - hoped) ** 2 / hoped).sum())
    assert stats.chi2.sf(chi, len(common) - 1) > 1e-3


def test_a_seed_repeats_and_the_attention_is_put_back(tiny) -> None:
    model, tokenizer = tiny
    usual = model.config._attn_implementation
    first = sample_short(model, tokenizer, PROMPTS, 3, 12, seed=5)
    assert first == sample_short(model, tokenizer, PROMPTS, 3, 12, seed=5)
    assert first != sample_short(model, tokenizer, PROMPTS, 3, 12, seed=6)
    assert model.config._attn_implementation == usual
    assert all(answer["tokens"] <= 12 for answer in first)
