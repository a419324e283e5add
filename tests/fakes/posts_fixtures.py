"""Fixtures of r/writingPrompts: a tokenizer, and the awkward posts as a file and loaded.

A test module asks for them by `pytest_plugins = ["posts_fixtures"]`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from awkward_posts import awkward_posts

from ddpo_utils.corpus.writing_prompts import load_writing_prompts


@pytest.fixture(scope="session")
def tokenizer(tiny_folder):
    """The tiny Llama's, made to write BOS before every text, as Llama's own does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


@pytest.fixture(scope="session")
def awkward(tmp_path_factory) -> Path:
    return awkward_posts(tmp_path_factory.mktemp("awkward") / "posts.parquet")


@pytest.fixture(scope="session")
def loaded(awkward, tokenizer):
    return load_writing_prompts(awkward, tokenizer)
