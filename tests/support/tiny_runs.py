"""What the tests of training runs share: a small profile, stories, a run that is broken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from awkward_posts import small_posts

from ddpo_utils import Profile, cli, get_profile, load_stories, make_pairs

SMALL = {  # settings of the profile 8b: float32, few steps, encoders that need no network
    "tokenizer": "",
    "semantic": "stylometric",
    "style": "delta",
    "dtype": "float32",
    "gradient_checkpointing": False,
    "lora_r": 4,
    "sft_steps": 2,
    "sft_batch_size": 4,
    "sft_warmup_steps": 0,
    "sft_learning_rate": 1e-2,
    "learning_rate": 1e-2,
    "max_new_tokens": 4,
}


def tiny_profile(model: Path, **overrides: Any) -> Profile:
    """The small settings on the bundled stories, cut short, with a checkpoint every other step."""
    bundled = {"data": "bundled", "min_gap": 0, "max_length": 128}
    steps = {"steps": 4, "batch_size": 2, "micro_batch": 2, "checkpoint_every": 2}
    return get_profile("8b", **SMALL | {"model": str(model)} | bundled | steps | overrides)


def few_stories() -> pd.DataFrame:
    """The twelve authors' stories of two bundled prompts, cut to a few words each."""
    stories = load_stories()
    stories = stories[(stories["source"] == "authors") & stories["prompt_id"].isin(["p01", "p02"])]
    texts = [text[: 20 + 5 * (7 * i % 12)] for i, text in enumerate(stories["text"])]
    return stories.assign(prompt=stories["prompt"].str[:20], text=texts)


STORIES = few_stories()
PAIRS = make_pairs(STORIES)  # twelve


class BrokenOff(Exception):
    """What a kill is in these tests."""


def break_off(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Every trainer made from now on raises BrokenOff at this step, before its checkpoint."""
    from transformers import TrainerCallback, trainer

    class Breaker(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise BrokenOff

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


def record_of(folder: Path) -> dict[str, Any]:
    """The record of a finished run."""
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


class Command:
    """`python -m ddpo_utils train` with the small settings on small posts; flags override."""

    def __init__(self, model: Path, folder: Path):
        data = small_posts(folder / "posts.parquet", posts=10)
        self.settings = SMALL | {"profile": "8b", "model": model, "data": data, "max_length": 768}
        self.settings |= {"lora_alpha": 8, "steps": 2, "batch_size": 4, "micro_batch": 4}

    def __call__(self, output: Path | str, *methods: str, **flags: Any) -> int:
        words = ["train", f"--output={output}"]
        for name, value in (self.settings | flags).items():
            words.append(f"--{name.replace('_', '-')}={value}")
        return cli.main([*words, "--method", *methods])
