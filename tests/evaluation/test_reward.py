"""The reward's scale, and what the model reads: tags, cut stories, LoRA and a head of zeros."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reward_fixtures import corpus

from ddpo_utils import CourseError, Profile, get_profile
from ddpo_utils.evaluation.reward import (
    Target,
    compress,
    load_reward,
    reward_inputs,
    score_stories,
    tokenize,
)
from ddpo_utils.evaluation.reward_training import train_reward

pytest_plugins = ["reward_fixtures"]


# -- the scale ---------------------------------------------------------------------------------------------------


def test_compression_is_the_paper_s_from_zero_up():
    for votes in (0, 1, 2, 7.5, 40, 12345):
        by_hand = float(votes)
        for _ in range(100):
            by_hand = math.log1p(by_hand)
        assert compress(votes) == pytest.approx(by_hand, rel=1e-14)
    assert compress([4.0, -2.5], times=0).tolist() == [4.0, -2.5]


def test_compression_never_falls_and_knows_negative_votes():
    values = compress(np.arange(-3000, 3001))
    assert np.isfinite(values).all() and (np.diff(values) > 0).all()
    assert np.isfinite(compress([-1.0, -3.0, -1e9, 1e9])).all()
    assert compress(-3) == -compress(3) and compress(0) == 0


@pytest.mark.parametrize(
    "scores", [[-3, 0, 1, 1, 50, 4000], [1, 2], [-9, -1, -1], [2.5, 7.0, 10.0]]
)
@pytest.mark.parametrize("times", [0, 100])
def test_scores_are_stretched_between_minus_one_and_one_in_their_order(
    scores: list[float], times: int
):
    values = Target.fit(scores, times)(scores)
    assert values.min() == -1 and values.max() == 1
    for a, x in zip(scores, values, strict=True):
        for b, y in zip(scores, values, strict=True):
            assert np.sign(a - b) == np.sign(x - y)  # ties stay ties


def test_bounded_scores_are_only_stretched_and_constants_give_the_scale_back():
    target = Target.fit([1.0, 5.5, 10.0], times=0)
    assert target([1.0, 5.5, 10.0]).tolist() == pytest.approx([-1, 0, 1])
    again = Target(**json.loads(json.dumps(asdict(Target.fit([-3, 2, 900])))))
    assert again([-3, 0, 2]).tolist() == Target.fit([-3, 2, 900])([-3, 0, 2]).tolist()


def test_a_single_value_is_no_scale_and_missing_scores_are_refused():
    assert Target.fit([4, 4, 4])([4, 9, -3]).tolist() == [0, 0, 0]
    for scores in ([], [1, math.nan], [math.inf, 1]):
        with pytest.raises(CourseError, match="finite score"):
            Target.fit(scores)


# -- what it reads -----------------------------------------------------------------------------------------------


def test_too_long_a_story_loses_its_end_and_not_the_closing_tag(tiny):
    tokenizer = tiny[1]
    stories = pd.DataFrame({"prompt": ["The sea."] * 2, "text": ["Short 🙂.", "light " * 200]})
    texts = reward_inputs(stories)
    assert texts[0] == "<prompt>The sea.</prompt><response>Short 🙂.</response>"
    with pytest.warns(UserWarning, match="reads 90 tokens: 1 of 2"):
        short, long = tokenize(tokenizer, texts, 90)
    assert tokenizer.decode(short) == texts[0] and len(long) == 90
    assert tokenizer.decode(long).startswith("<prompt>The sea.</prompt><response>light light")
    assert tokenizer.decode(long).endswith("</response>")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fresh_reward_is_lora_and_a_head_of_zeros_in_float32(tiny_profile: Profile, dtype: str):
    model, tokenizer = load_reward(get_profile("laptop", reward=tiny_profile.reward, dtype=dtype))
    lora = model.peft_config["default"]
    assert (lora.r, lora.lora_alpha) == (16, 32)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name or "score" in name for name in trained)
    heads = [
        p
        for name, p in model.named_parameters()
        if name.endswith("score.modules_to_save.default.weight")
    ]
    assert len(heads) == 1 and heads[0].dtype == torch.float32 and not heads[0].any()
    out = model(
        **tokenizer(["The light.", "The sea answers."], return_tensors="pt", padding=True)
    ).logits
    assert out.tolist() == [[0], [0]] and out.dtype == torch.float32


def test_the_targets_of_lora_are_the_profile_s(tiny_profile: Profile):
    model, _ = load_reward(get_profile("8b", reward=tiny_profile.reward, dtype="float32"))
    assert {
        name.split(".lora_A")[0].rsplit(".", 1)[1]
        for name, _ in model.named_parameters()
        if "lora_A" in name
    } == {
        "q_proj",
        "v_proj",
    }


def test_gemma_2_the_paper_s_backbone_can_be_one(tiny, tiny_profile: Profile, tmp_path: Path):
    """Its attention caps scores, which sdpa cannot."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma2Config(
        vocab_size=len(tiny[1]), bos_token_id=1, eos_token_id=2, pad_token_id=0, **size, **heads
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tiny[1].save_pretrained(tmp_path / "gemma")
    small = {
        "sft_steps": 2,
        "sft_learning_rate": 1e-2,
        "sft_warmup_steps": 0,
        "dtype": "bfloat16",
        "max_length": 96,
    }
    profile = get_profile("8b", reward=str(tmp_path / "gemma"), **small)
    record = train_reward(profile, corpus(2, 3), tmp_path / "r")
    assert record["steps"] == 2 and record["backbone"] == "gemma"
    assert np.ptp(score_stories(profile, tmp_path / "r", corpus(2, 3))) > 0


def test_what_cannot_be_loaded_is_said_in_a_sentence(tiny_profile: Profile, tmp_path: Path):
    with pytest.raises(CourseError, match="no-such-model"):
        load_reward(get_profile("laptop", reward=str(tmp_path / "no-such-model")))
    for call in (
        lambda: load_reward(tiny_profile, tmp_path),
        lambda: score_stories(tiny_profile, tmp_path, corpus()),
    ):
        with pytest.raises(CourseError, match="ddpo_utils reward"):
            call()
