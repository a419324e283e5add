"""The small world's model, its runs and what is counted, on a world that is smaller still."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faults import largest_file, refusal

from ddpo_utils.corpus.text import as_messages
from ddpo_utils.course.recorded import load_plan
from ddpo_utils.models.policy import load_policy
from ddpo_utils.small_world.experiment import (
    COMPARED,
    INVALID,
    Seed,
    count_samples,
    entropy,
    parse_samples,
)
from ddpo_utils.small_world.grammar import World, all_prompts
from ddpo_utils.small_world.language_model import make_model, make_tokenizer

SIZES = {"test_prompts": 3, "samples": 4, "stories": 48, "model_steps": 3}
SHORT = {"sft_steps": 1, "sft_batch_size": 4, "batch_size": 8, "micro_batch": 8}
SHORT["max_new_tokens"] = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    plan = load_plan("claims")
    folder = tmp_path_factory.mktemp("world")
    return Seed(5, folder, SIZES, plan["settings"] | SHORT, plan["chosen"])


@pytest.fixture(scope="module")
def stories() -> pd.DataFrame:
    return World(3).stories(all_prompts(3)[:200], 8)


def test_the_tokenizer_gives_every_story_back() -> None:
    prompts = all_prompts(5)
    tokenizer = make_tokenizer([*prompts, *World(5).stories(prompts, 20)["text"]])
    texts = World(5).stories(prompts[:500], 2, draw=9)["text"].tolist()
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(ids) == texts
    assert tokenizer.unk_token_id not in set().union(*ids)
    chat = as_messages("user", prompts[0]) + as_messages("assistant", texts[0])
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert whole == f"<prompt>{prompts[0]}<story>{texts[0]}<end>" == asked + f"{texts[0]}<end>"


def test_the_model_learns(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    story = World(5).stories(all_prompts(5)[:1], 1, draw=8).iloc[0]
    folder = tmp_path / "model"
    with largest_file(10**6):
        assert str(folder) in refusal(make_model, World(5), folder, 3, steps=1)
    make_model(World(5), folder, 3, steps=30, batch=8)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = f"<prompt>{story['prompt']}<story>{story['text']}<end>"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(folder)(ids, labels=ids).loss.item()
    assert loss < np.log(len(tokenizer)) - 1  # of a model that knows nothing
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert str(folder) in refusal(make_model, World(5), folder, 3, steps=30)


def test_model_and_sft_are_made_once_and_an_arm_is_trained_and_counted(world: Seed) -> None:
    files = [world.sft() / "run.json", world.folder / "model" / "model.safetensors"]
    before = [file.stat().st_mtime_ns for file in files]
    adapter = world.train(0.0, ["ddpo"])["ddpo"]
    assert [file.stat().st_mtime_ns for file in files] == before
    model, tokenizer = load_policy(world.profile())
    stops = model.generation_config.eos_token_id
    assert tokenizer.eos_token == "<end>"
    assert tokenizer.eos_token_id in (stops if isinstance(stops, list) else [stops])
    row = world.row(0.0, "ddpo", adapter)
    assert row["arm"] == "ddpo"
    assert row["steps"] == SIZES["stories"] / 2 / SHORT["batch_size"]
    assert row["mean_weight"] != 1 and 0 <= row["valid"] <= 1
    samples = world.sample("rho+0.0-ddpo", adapter)
    assert len(samples) == SIZES["test_prompts"] * SIZES["samples"]
    tested = set(world.prompts[: SIZES["test_prompts"]])
    assert set(samples["prompt"]) == tested
    for each in (4, 12):
        stories = world.stories(each=each)
        assert len(stories) == SIZES["stories"] and not set(stories["prompt"]) & tested


def test_entropy_by_hand_and_on_average() -> None:
    assert entropy(["a"] * 8) == 0
    assert entropy(["a", "b"] * 4) == pytest.approx(np.log(2) + 1 / 16)
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.2, 0.2, 0.1])
    drawn = np.mean([entropy(rng.choice(4, 16, p=p)) for _ in range(4000)])
    assert drawn == pytest.approx(-(p * np.log(p)).sum(), abs=0.03)  # uncorrected: 0.1 too low


def test_figures_of_uniform_and_of_varied_samples(stories: pd.DataFrame) -> None:
    once = stories.groupby("prompt_id").head(1)
    same = once.loc[once.index.repeat(8)].reset_index(drop=True)
    uniform, varied = (
        count_samples(frame, World(3), {"distance": "wordllama"}) for frame in (same, stories)
    )
    assert uniform["total"] == uniform["plot"] == uniform["voice"] == 0
    assert uniform["modes"] == uniform["valid"] == 1
    assert uniform["distance"] == pytest.approx(0, abs=1e-6)
    assert uniform["quality"] == pytest.approx(World(3).quality(once).mean())
    assert varied["total"] > 3
    assert 4 < varied["modes"] <= COMPARED
    assert varied["distance"] > 0.1


def test_an_invalid_sample_costs_quality_and_counts_as_no_mode(stories: pd.DataFrame) -> None:
    broken = stories.copy()
    broken.loc[::8, "text"] += " x"
    parsed, whole = parse_samples(broken, World(3)), parse_samples(stories, World(3))
    valid = parsed["valid"]
    assert valid.mean() == 7 / 8
    assert (parsed.loc[~valid, "quality"] == INVALID).all()
    assert (parsed.loc[valid, "quality"] == whole.loc[valid, "quality"]).all()
    figures = count_samples(broken, World(3), {})
    assert figures["valid"] == 7 / 8
    assert figures["quality"] == pytest.approx(parsed["quality"].mean())
    nothing = count_samples(stories.assign(text="x"), World(3), {})
    assert nothing["quality"] == INVALID
    assert np.isnan(nothing["total"])


@pytest.mark.parametrize(("valid", "measures"), [(1, ("total", "modes")), (5, ("modes",))])
def test_a_prompt_with_too_few_valid_samples_has_no_say(stories, valid, measures) -> None:
    one, two = stories.head(8), stories.head(16).copy()
    two.loc[two.index[8 + valid :], "text"] += " x"
    alone, beside = (count_samples(frame, World(3), {}) for frame in (one, two))
    assert [alone[name] for name in measures] == [beside[name] for name in measures]
