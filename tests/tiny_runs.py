"""What the tests of training runs share: a profile of seconds, stories, a run that is broken off, and its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ddpo_utils import Profile, get_profile, load_stories


def tiny_profile(model: Path, **overrides: Any) -> Profile:
    """The profile 8b on a tiny model: float32, few steps, encoders that need no network."""
    settings = {
        "model": str(model), "tokenizer": "", "data": "bundled", "min_gap": 0, "semantic": "stylometric",
        "style": "delta", "dtype": "float32", "gradient_checkpointing": False, "lora_r": 4, "max_length": 128,
        "sft_steps": 2, "sft_batch_size": 4, "sft_warmup_steps": 0, "sft_learning_rate": 1e-2, "steps": 4,
        "batch_size": 2, "micro_batch": 2, "learning_rate": 1e-2, "checkpoint_every": 2, "max_new_tokens": 4,
    }  # fmt: skip
    return get_profile("8b", **settings | overrides)


def few_stories() -> pd.DataFrame:
    """The twelve authors' stories of two bundled prompts, two of which make a step's two pairs."""
    stories = load_stories()
    return stories[(stories["source"] == "authors") & stories["prompt_id"].isin(["p01", "p02"])]


class BrokenOff(Exception):
    """What a kill is in these tests."""


def break_off(monkeypatch: pytest.MonkeyPatch, step: int, event: str = "on_step_end") -> None:
    """Every trainer made from now on raises BrokenOff at this step, before its checkpoint is written."""
    from transformers import TrainerCallback, trainer

    class Breaker(TrainerCallback):
        pass

    def raises(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise BrokenOff

    setattr(Breaker, event, raises)
    monkeypatch.setattr(trainer, "DEFAULT_CALLBACKS", [*trainer.DEFAULT_CALLBACKS, Breaker])


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def assert_same_adapter(a: Path, b: Path, within: float = 0.0) -> None:
    """Both folders hold an adapter with the same entries, to `within`."""
    one, other = adapter(a), adapter(b)
    assert one.keys() == other.keys() and one
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=0, atol=within), name


def curve(record: dict[str, Any], name: str = "loss") -> list[float]:
    """A figure of every logged step."""
    return [entry[name] for entry in record["log"]]
