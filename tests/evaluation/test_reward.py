"""The reward's scale, its input, its training on a tiny Llama, and its scores."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reward_fixtures import corpus
from tiny_runs import BrokenOff, break_off

from ddpo_utils import CourseError, Profile, get_profile
from ddpo_utils.evaluation import reward
from ddpo_utils.evaluation.reward import (
    Target,
    compress,
    load_reward,
    reward_inputs,
    score_stories,
    tokenize,
    train_reward,
)

pytest_plugins = ["reward_fixtures"]
VOTES = Target.fit(corpus()["score"], 100)


def scores_of(profile: Profile, folder: Path, stories: pd.DataFrame) -> np.ndarray:
    return score_stories(profile, *load_reward(profile, folder), stories)


def test_targets_are_compressed_as_the_paper_does_and_lie_between_minus_one_and_one():
    by_hand = 12345.0
    for _ in range(100):
        by_hand = math.log1p(by_hand)
    assert compress(12345) == pytest.approx(by_hand, rel=1e-14)
    assert compress(-12345) == -compress(12345)
    assert compress([4.0, -2.5], times=0).tolist() == [4.0, -2.5]
    scores = [-3, 0, 1, 1, 50, 4000]
    for times in (0, 100):
        values = Target.fit(scores, times)(scores)
        assert values.min() == -1 and values.max() == 1
        assert (np.diff(values) > 0).tolist() == (np.diff(scores) > 0).tolist()  # ties stay ties
    assert Target.fit([4, 4, 4])([4, 9, -3]).tolist() == [0, 0, 0]  # a single value is no scale


def test_too_long_a_story_loses_its_end_and_not_the_closing_tag(tiny):
    stories = pd.DataFrame({"prompt": ["The sea."] * 2, "text": ["Short 🙂.", "light " * 200]})
    texts = reward_inputs(stories)
    assert texts[0] == "<prompt>The sea.</prompt><response>Short 🙂.</response>"
    with pytest.warns(UserWarning, match="90 tokens: 1 of 2"):
        short, long = tokenize(tiny[1], texts, 90)
    assert tiny[1].decode(short) == texts[0] and len(long) == 90
    assert tiny[1].decode(long).startswith("<prompt>The sea.</prompt><response>light light")
    assert tiny[1].decode(long).endswith("</response>")


@pytest.mark.parametrize(("name", "dtype"), [("laptop", "bfloat16"), ("8b", "float32")])
def test_a_fresh_reward_is_lora_and_a_head_of_zeros_in_float32(tiny_profile, name, dtype):
    model, tokenizer = load_reward(get_profile(name, reward=tiny_profile.reward, dtype=dtype))
    lora = model.peft_config["default"]
    assert (lora.r, lora.lora_alpha) == (16, 32)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    (head,) = (p for n, p in trained.items() if "lora_" not in n)
    assert head.dtype == torch.float32 and not head.any()
    targets = {n.split(".lora_A")[0].rsplit(".", 1)[1] for n in trained if "lora_A" in n}
    assert (targets == {"q_proj", "v_proj"}) == (name == "8b")  # the profile's
    batch = tokenizer(["The light.", "The sea answers."], return_tensors="pt", padding=True)
    assert model(**batch).logits.tolist() == [[0], [0]]


def test_gemma_2_the_papers_backbone_can_be_one(tiny, tmp_path):
    """Its attention caps scores, which sdpa cannot."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    ids = {"vocab_size": len(tiny[1]), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Gemma2Config(**size, **ids, num_attention_heads=2, num_key_value_heads=1)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tiny[1].save_pretrained(tmp_path / "gemma")
    schedule = {"sft_steps": 2, "sft_learning_rate": 1e-2, "sft_warmup_steps": 0}
    model = {"reward": str(tmp_path / "gemma"), "dtype": "bfloat16", "max_length": 96}
    profile = get_profile("8b", **model, **schedule)
    record = train_reward(profile, corpus(2, 3), tmp_path / "r", VOTES)
    assert record["steps"] == 2 and record["backbone"] == "gemma"
    assert np.ptp(scores_of(profile, tmp_path / "r", corpus(2, 3))) > 0


def test_regression_learns_the_scores_and_plain_peft_gives_them_again(tiny_profile, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    stories, target = corpus(), Target.fit(corpus()["score"], 0)
    profile, folder = replace(tiny_profile, sft_steps=40, sft_batch_size=24), tmp_path / "r"
    record = train_reward(profile, stories, folder, target)
    first, truth = record["log"][0]["loss"], target(stories["score"])
    assert first == pytest.approx(np.abs(truth).mean(), rel=1e-5)  # every story starts at 0
    assert record["log"][-1]["loss"] < 0.5 * first and record["steps"] == 40
    assert record["target"] == asdict(target)
    scores = scores_of(profile, folder, stories)
    assert np.corrcoef(scores, stories["score"])[0, 1] > 0.8
    assert np.abs(scores - truth).mean() < 0.7 * first
    mixed = stories.sample(frac=1, random_state=0)  # scores depend on the story alone
    again = scores_of(replace(profile, sample_batch=7), folder, mixed)
    assert pd.Series(again, mixed.index).sort_index().tolist() == pytest.approx(scores, abs=1e-5)
    # the adapter names no folder of this machine
    texts = [path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md")]
    source = profile.reward
    assert len(texts) >= 3 and not any(str(Path(source).parent) in text for text in texts)
    base = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=torch.float32
    )
    base.config.pad_token_id = 0
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    tokenizer = load_reward(profile, folder)[1]
    batch = tokenizer(reward_inputs(stories), return_tensors="pt", padding=True)
    plain = model(**batch).logits[:, 0].detach().numpy()
    assert scores == pytest.approx(plain, abs=1e-4)


def test_a_killed_training_goes_on_to_the_same_scores(tiny_profile, tmp_path, monkeypatch):
    stories = corpus()
    whole = train_reward(tiny_profile, stories, tmp_path / "whole", VOTES)
    with monkeypatch.context() as patch:
        break_off(patch, 8)
        with pytest.raises(BrokenOff):
            train_reward(tiny_profile, stories, tmp_path / "killed", VOTES)
    assert not (tmp_path / "killed" / "reward.json").exists()
    with monkeypatch.context() as patch:
        break_off(patch, 5)  # a step that is not done again
        resumed = train_reward(tiny_profile, stories, tmp_path / "killed", VOTES)
    assert resumed["log"][-1]["loss"] == pytest.approx(whole["log"][-1]["loss"], rel=1e-4)
    a, b = (scores_of(tiny_profile, tmp_path / name, stories) for name in ("whole", "killed"))
    assert a == pytest.approx(b, abs=1e-4) and np.ptp(a) > 0.01


def test_a_finished_training_is_kept_and_another_one_replaces_it(
    tiny_profile, tmp_path, monkeypatch
):
    stories, profile = corpus(2, 3), replace(tiny_profile, sft_steps=1)
    first = train_reward(profile, stories, tmp_path, VOTES)
    with monkeypatch.context() as patch:
        patch.setattr(reward, "_trainer", None)  # fails if it is called
        assert train_reward(replace(profile, samples=9), stories, tmp_path, VOTES) == first
        with pytest.raises(TypeError):
            train_reward(replace(profile, max_length=64), stories, tmp_path, VOTES)
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "reward.json").write_text("[]")
        with pytest.raises(CourseError, match="broken"):
            train_reward(profile, stories, tmp_path / "broken", VOTES)
    other = stories.assign(score=stories["score"][::-1].to_numpy())
    assert train_reward(profile, other, tmp_path, VOTES)["run"] != first["run"]


def test_a_training_that_diverges_saves_nothing(tiny_profile, tmp_path):
    wild = replace(tiny_profile, sft_learning_rate=3e38, sft_steps=4)
    with pytest.raises(CourseError, match="sft_learning_rate"):
        train_reward(wild, corpus(2, 3), tmp_path, VOTES)
    assert not list(tmp_path.glob("*.json"))


def test_faulty_scores_and_rewards_are_refused(tiny_profile, tmp_path):
    for scores in ([], [1, math.nan], [math.inf, 1]):
        with pytest.raises(CourseError):
            Target.fit(scores)
    with pytest.raises(CourseError, match="no-such-model"):
        load_reward(replace(tiny_profile, reward=str(tmp_path / "no-such-model")))
    with pytest.raises(CourseError, match=str(tmp_path)):
        load_reward(tiny_profile, tmp_path)
    model, tokenizer = load_reward(tiny_profile)
    for name, parameter in model.named_parameters():
        if "score" in name:
            torch.nn.init.constant_(parameter, math.nan)
    with pytest.raises(CourseError):
        score_stories(tiny_profile, model, tokenizer, corpus())
