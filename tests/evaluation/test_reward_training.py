"""The reward's training on a tiny Llama, broken off and taken up again, and its scores, kept on disk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from reward_fixtures import corpus

from ddpo_utils import CourseError, Profile, get_profile, make_pairs
from ddpo_utils.evaluation import reward, reward_training
from ddpo_utils.evaluation.reward import Target, load_reward, reward_inputs, score_stories
from ddpo_utils.evaluation.reward_training import train_reward

pytest_plugins = ["reward_fixtures"]


# -- training ----------------------------------------------------------------------------------------------------


def test_regression_learns_the_scores(tiny_profile: Profile, tmp_path: Path):
    stories, target = corpus(), Target.fit(corpus()["score"], 0)
    profile = replace(tiny_profile, sft_steps=40, sft_batch_size=24)
    record = train_reward(profile, stories, tmp_path / "r", target=target)
    first = record["log"][0]["loss"]  # every score starts at 0, whatever parts the batch is made of
    assert first == pytest.approx(np.abs(target(stories["score"])).mean(), rel=1e-5)
    assert record["log"][-1]["loss"] < 0.5 * first and record["steps"] == 40
    scores = score_stories(profile, tmp_path / "r", stories)
    assert np.corrcoef(scores, stories["score"])[0, 1] > 0.8
    assert (
        np.abs(scores - target(stories["score"])).mean() < 0.7 * first
    )  # on the target's own scale
    assert Target(**record["target"]) == target


def test_bradley_terry_learns_the_order(tiny_profile: Profile, tmp_path: Path):
    stories = corpus()
    profile = replace(tiny_profile, sft_steps=40, sft_batch_size=24)
    record = train_reward(profile, stories, tmp_path / "r", "bradley-terry")
    assert record["log"][0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert record["log"][-1]["loss"] < 0.5 * math.log(2)
    scores, pairs = (
        score_stories(profile, tmp_path / "r", stories),
        make_pairs(stories, profile.min_gap, profile.seed),
    )
    assert len(pairs) > 8 and (scores[pairs["chosen_row"]] > scores[pairs["rejected_row"]]).all()


def test_plain_peft_loads_the_adapter_and_it_names_no_folder_of_this_machine(
    tiny_profile: Profile, tmp_path: Path
):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    stories, folder = corpus(), tmp_path / "r"
    train_reward(tiny_profile, stories, folder)
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".md")]
    assert len(files) >= 4 and not any(
        str(Path(tiny_profile.reward).parent) in path.read_text() for path in files
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_profile.reward, num_labels=1, dtype=torch.float32
    )
    base.config.pad_token_id = 0
    model, (_, tokenizer) = (
        PeftModel.from_pretrained(base, str(folder)).eval(),
        load_reward(tiny_profile, folder),
    )
    inputs = tokenizer(reward_inputs(stories), return_tensors="pt", padding=True)
    with torch.no_grad():
        plain = model(**inputs).logits[:, 0].numpy()
    assert np.abs(plain).max() > 0.01
    assert score_stories(tiny_profile, folder, stories) == pytest.approx(plain, abs=1e-4)


class Killed(Exception):
    pass


def kill_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Killed

    make = reward_training._trainer

    def with_kill(*args):
        trainer = make(*args)
        trainer.add_callback(Kill())
        return trainer

    monkeypatch.setattr(reward_training, "_trainer", with_kill)


@pytest.mark.parametrize("objective", reward_training.OBJECTIVES)
def test_a_killed_training_goes_on_to_the_same_scores(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
):
    stories = corpus()
    whole = train_reward(tiny_profile, stories, tmp_path / "whole", objective)
    with monkeypatch.context() as patch:
        kill_after(8, patch)
        with pytest.raises(Killed):
            train_reward(tiny_profile, stories, tmp_path / "killed", objective)
    assert not (tmp_path / "killed" / "reward.json").exists()
    with monkeypatch.context() as patch:
        kill_after(5, patch)  # a step that is not done again
        resumed = train_reward(tiny_profile, stories, tmp_path / "killed", objective)
    assert resumed["log"][-1]["loss"] == pytest.approx(whole["log"][-1]["loss"], rel=1e-4)
    both = [score_stories(tiny_profile, tmp_path / name, stories) for name in ("whole", "killed")]
    assert both[1] == pytest.approx(both[0], abs=1e-4) and np.ptp(both[0]) > 0.01


def test_a_finished_training_is_kept_and_another_one_replaces_it(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stories, profile = corpus(2, 3), replace(tiny_profile, sft_steps=1)
    first = train_reward(profile, stories, tmp_path)
    (tmp_path / "scores.json").touch()
    with monkeypatch.context() as patch:
        patch.setattr(reward_training, "_trainer", None)  # would fail if it were called
        assert train_reward(replace(profile, samples=9), stories, tmp_path) == first
        with pytest.raises(TypeError):
            train_reward(profile, stories, tmp_path, "bradley-terry")
    other = train_reward(profile, stories.assign(score=stories["score"][::-1].to_numpy()), tmp_path)
    assert other["run"] != first["run"] and not (tmp_path / "scores.json").exists()


def test_faulty_orders_are_refused(tiny_profile: Profile, tmp_path: Path):
    with pytest.raises(CourseError, match="objective 'votes'"):
        train_reward(tiny_profile, corpus(), tmp_path, "votes")
    with pytest.raises(CourseError, match="finite score"):
        train_reward(tiny_profile, corpus().assign(score=math.nan), tmp_path)
    with pytest.raises(CourseError, match="No preference pair"):
        train_reward(tiny_profile, corpus().assign(score=4.0), tmp_path, "bradley-terry")


# -- scores ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Path]:
    profile = get_profile(
        "laptop",
        reward=str(tiny_folder),
        dtype="float32",
        max_length=128,
        sft_steps=3,
        sft_learning_rate=1e-2,
        sample_batch=2,
    )
    folder = tmp_path_factory.mktemp("reward")
    train_reward(profile, corpus(), folder)
    return profile, folder


def test_scores_depend_on_the_story_alone(trained: tuple[Profile, Path], tmp_path: Path):
    profile, folder = trained
    stories = corpus().assign(
        text=[f"{t} light" * (1 + i % 3) for i, t in enumerate(corpus()["text"])]
    )
    scores = score_stories(profile, folder, stories, tmp_path / "a")
    assert scores.shape == (24,) and scores.dtype == np.float64 and np.isfinite(scores).all()
    mixed = stories.sample(frac=1, random_state=0)
    larger = replace(profile, sample_batch=7)
    again = pd.Series(score_stories(larger, folder, mixed, tmp_path / "b"), index=mixed.index).loc[
        stories.index
    ]
    assert again.to_numpy() == pytest.approx(scores, abs=1e-5) and np.ptp(scores) > 1e-3
    assert score_stories(profile, folder, stories[:0], tmp_path / "a").shape == (0,)
    prompts = score_stories(
        profile, folder, stories.assign(prompt="Another prompt."), tmp_path / "a"
    )
    assert not np.allclose(prompts, scores)


def test_scores_are_kept_on_disk_by_adapter_and_a_broken_off_run_goes_on(
    trained: tuple[Profile, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile, folder = trained
    asked: list[str] = []
    encode = reward._Scorer.encode

    def breaks_off(self, texts, normalize_embeddings=True):
        if len(asked) >= 8:
            raise Killed
        asked.extend(texts)
        return encode(self, texts)

    doubled = pd.concat([corpus(), corpus()], ignore_index=True)
    with monkeypatch.context() as patch:
        patch.setattr(reward._Scorer, "encode", breaks_off)
        with pytest.raises(Killed):
            score_stories(profile, folder, doubled, tmp_path)
    before = len(asked)
    with monkeypatch.context() as patch:
        patch.setattr(
            reward._Scorer,
            "encode",
            lambda self, texts, **_: asked.extend(texts) or encode(self, texts),
        )
        scores = score_stories(profile, folder, doubled, tmp_path)
    assert before == 8 and len(asked) == len(set(asked)) == 24  # nothing twice
    assert (scores[:24] == scores[24:]).all()
    monkeypatch.setattr(reward, "load_reward", None)  # nothing is loaded for what is known
    assert (score_stories(profile, folder, doubled, tmp_path) == scores).all()
    with pytest.raises(TypeError):
        score_stories(replace(profile, max_length=64), folder, doubled, tmp_path)


def test_a_reward_that_gives_no_numbers_is_refused(trained: tuple[Profile, Path], tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    profile, folder = trained
    shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {k: v * math.nan for k, v in tensors.items()},
        tmp_path / "broken" / "adapter_model.safetensors",
    )
    with pytest.raises(CourseError, match="no numbers"):
        score_stories(profile, tmp_path / "broken", corpus(), tmp_path)
