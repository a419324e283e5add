"""Log-probs and divergences of given stories are those of a literal loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel

from ddpo_utils.models.scoring import mean_logps, token_kl

SAMPLES = pd.DataFrame(
    {
        "prompt": ["Sea.", "A clock stops", "x", "Sea.", "Why?"],
        "text": ["the light", "", "nobody 🙂 knows", "a", "at sea"],
    }
)


@pytest.fixture
def two_adapters(tiny: Any, adapter_folder: Path) -> tuple[Any, Any]:
    model = PeftModel.from_pretrained(tiny[0], str(adapter_folder))
    model.load_adapter(str(adapter_folder), adapter_name="ref")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.ref" in name:
                parameter *= 0.3
    return model, tiny[1]


def by_hand(model: Any, tokenizer: Any, row: Any, adapter: str) -> tuple[torch.Tensor, Any]:
    """Next-token log-probs (T, V) at the story's tokens and its end, and those tokens (T,)."""
    model.set_adapter(adapter)
    chat = [{"role": "user", "content": row.prompt}]
    head = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    start = len(tokenizer(head, add_special_tokens=False)["input_ids"])
    whole = head + row.text + tokenizer.eos_token
    ids = tokenizer(whole, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, start - 1 : -1]
    return logits.double().log_softmax(-1), ids[0, start:]


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_divergences_and_mean_log_probs(two_adapters: tuple[Any, Any], pad_is_eos: bool) -> None:
    model, tokenizer = two_adapters
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    divergences, means = [], []
    for row in SAMPLES.itertuples():
        (p, tokens), (q, _) = (by_hand(model, tokenizer, row, name) for name in ("default", "ref"))
        divergences.append(sum(float((p[t].exp() * (p[t] - q[t])).sum()) for t in range(len(p))))
        means.append(p.gather(1, tokens[:, None]).mean().item())
    model.set_adapter("default")
    got = token_kl(model.train(), tokenizer, SAMPLES)
    assert np.allclose(got, divergences, rtol=1e-4) and (got > 1e-3).all()
    assert model.active_adapter == "default" and model.training
    assert np.allclose(mean_logps(model.eval(), tokenizer, SAMPLES), means, rtol=1e-4)
