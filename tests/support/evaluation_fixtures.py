"""A finished evaluation of a tiny Llama with random adapters, on posts of r/writingPrompts' form.

The encoders are real. A test module asks for the fixtures by
`pytest_plugins = ["evaluation_fixtures"]`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from awkward_posts import small_posts
from evaluated import ARMS, LENIENT

from ddpo_utils import Profile, get_profile
from ddpo_utils.corpus.writing_prompts import stories_of
from ddpo_utils.evaluation.evaluate import evaluate, evaluation_prompts, find_adapters


@pytest.fixture(scope="session")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an SFT adapter and four arms, each a random step on; ddpo-sty is missing."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model = get_peft_model(
        base, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    folder = tmp_path_factory.mktemp("trained")
    for arm in ARMS:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter += torch.randn_like(parameter) * 0.1
        model.save_pretrained(folder / arm)
    return folder


@pytest.fixture(scope="session")
def profile(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    posts = small_posts(tmp_path_factory.mktemp("data") / "posts.parquet", 60, 4)
    return get_profile(
        "8b",
        data=str(posts),
        model=str(tiny_folder),
        tokenizer="",
        dtype="float32",
        semantic="minilm",
        style="stylometric",
        sample_prompts=5,
        samples=3,
        max_new_tokens=40,
        sample_batch=4,
        on_topic_rank=70,
    )


@pytest.fixture(scope="session")
def stories(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    from ddpo_utils.models.policy import load_tokenizer

    stories = stories_of(profile, load_tokenizer(profile), tmp_path_factory.mktemp("corpus"))
    first = evaluation_prompts(profile, stories)["prompt_id"][0]
    own = stories.index[stories["prompt_id"] == first]
    return stories.drop(own[1:])  # a test prompt with a single response


@pytest.fixture(scope="session")
def run(
    profile: Profile,
    adapters: Path,
    stories: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], Path]:
    """An evaluation's results and its folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return evaluate(profile, find_adapters(adapters), folder, stories, LENIENT), folder


@pytest.fixture
def copy(run: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    """A copy of the evaluation's folder that a test may change."""
    return Path(shutil.copytree(run[1], tmp_path / "copy"))
