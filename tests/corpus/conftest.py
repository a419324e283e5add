"""A tokenizer, and the awkward posts of r/writingPrompts as a file and loaded."""

from __future__ import annotations

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
def awkward(tmp_path_factory):
    """(file, rows of the corpus that are left, what each rule removes)."""
    return awkward_posts(tmp_path_factory.mktemp("awkward") / "posts.parquet")


@pytest.fixture(scope="session")
def loaded(awkward, tokenizer):
    """(corpus, report) of the file."""
    return load_writing_prompts(awkward[0], tokenizer)
