"""Who answers in tests: the server of teller.py, and a random Llama with SmolLM2's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from teller import PROMPTS, Teller
from tiny_llama import write_llama

from ddpo_utils.models.answers import LocalModel
from ddpo_utils.models.endpoint import Decoding, Endpoint, sample_endpoint
from ddpo_utils.models.smollm2 import cache_dir, fetch_smollm2

USER_CACHE = cache_dir()  # the user's; each test gets an empty one


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(fetch_smollm2(USER_CACHE))
    folder = tmp_path_factory.mktemp("models") / "random"
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    return write_llama(folder, tokenizer, width=64, **shape)


@pytest.fixture
def local(random_folder: Path) -> LocalModel:
    """A fresh local model, which may be changed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(random_folder, dtype=torch.float32).eval()
    return LocalModel(model, AutoTokenizer.from_pretrained(random_folder), "random", batch_size=2)


@pytest.fixture
def endpoint(teller: Teller) -> Callable[..., Endpoint]:
    def make(**changes: Any) -> Endpoint:
        settings = {"model": "m", "base_url": teller.url, "retries": 4, "timeout": 5.0}
        return Endpoint(**{**settings, **changes})

    return make


@pytest.fixture
def sample(endpoint: Callable[..., Endpoint], tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Samples with changed arguments of `sample_endpoint`, Endpoint or Decoding."""

    def call(**changes: Any) -> pd.DataFrame:
        def take(kind: type) -> dict[str, Any]:
            names = {field.name for field in fields(kind)} & set(changes)
            return {name: changes.pop(name) for name in names}

        decoding = Decoding(**{"max_tokens": 50, **take(Decoding)})
        made = endpoint(**take(Endpoint))
        arguments = {"prompts": PROMPTS, "path": tmp_path / "s.jsonl", "samples": 3, **changes}
        return sample_endpoint(**arguments, endpoint=made, decoding=decoding)

    return call
