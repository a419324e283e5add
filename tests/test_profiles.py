"""The profile table, and where files lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import sentence

from ddpo_utils import CourseError, get_profile
from ddpo_utils.settings import PROFILES, Profile, cache_dir, work_dir


def test_the_profile_comes_from_the_argument_then_the_variable_then_laptop(monkeypatch):
    assert get_profile().name == get_profile("").name == "laptop"
    monkeypatch.setenv("DDPO_PROFILE", "smoke")
    assert get_profile().name == "smoke" and get_profile("8b").name == "8b"
    monkeypatch.setenv("DDPO_PROFILE", "")
    assert get_profile().name == "laptop"


def test_every_setting_can_be_overridden_and_the_table_stays(monkeypatch):
    changed = get_profile("laptop", steps=3, model="x/y", semantic="wordllama")
    assert (changed.steps, changed.model, changed.semantic) == (3, "x/y", "wordllama")
    assert changed.beta == PROFILES["laptop"].beta and PROFILES["laptop"] == Profile("laptop")
    assert all(name == profile.name for name, profile in PROFILES.items())
    assert set(PROFILES) == {"smoke", "laptop", "colab", "8b"}


def test_unknown_profiles_and_settings_are_named_with_the_choices(monkeypatch):
    with pytest.raises(CourseError) as caught:
        get_profile("workstation")
    assert "'workstation'" in sentence(caught) and "smoke, laptop, colab, 8b" in sentence(caught)
    monkeypatch.setenv("DDPO_PROFILE", "lpatop")
    with pytest.raises(CourseError, match="'lpatop'"):
        get_profile()
    with pytest.raises(CourseError) as caught:
        get_profile("smoke", stepz=3)
    assert "'stepz': the nearest is 'steps'; " in sentence(caught) and "train --help" in sentence(
        caught
    )
    for setting in ("qqq", "name"):
        with pytest.raises(CourseError) as caught:
            get_profile("smoke", **{setting: 3})
        assert f"'{setting}': `python" in sentence(caught) and len(sentence(caught)) < 120


def test_smoke_shrinks_sampling_and_training_alone():
    """So what notebooks 01 to 03 compute from the stories is the same in both profiles."""
    from dataclasses import fields

    free = {
        "name",
        "steps",
        "sft_steps",
        "checkpoint_every",
        "batch_size",
        "sft_batch_size",
        "sample_prompts",
        "samples",
        "max_new_tokens",
        "sample_batch",
    }
    for field in fields(Profile):
        if getattr(PROFILES["smoke"], field.name) != getattr(PROFILES["laptop"], field.name):
            assert field.name in free, f"{field.name} differs between smoke and laptop"


def test_the_8b_profile_holds_the_paper_s_settings():
    paper = get_profile("8b")
    assert (paper.lora_r, paper.lora_alpha, paper.beta) == (128, 256, 0.1)
    assert (paper.sft_learning_rate, paper.learning_rate, paper.batch_size) == (3e-5, 5e-6, 12)
    assert (paper.orpo_beta, paper.orpo_learning_rate, paper.orpo_epochs, paper.steps) == (
        0.25,
        5e-6,
        4,
        0,
    )


def test_folders_follow_the_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPO_CACHE", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c"
    monkeypatch.delenv("DDPO_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "ddpo_utils"
    clone = tmp_path / "clone"
    for folder in ("ddpo_utils", "notebooks"):
        (clone / folder).mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    monkeypatch.chdir(clone / "notebooks")
    assert (
        work_dir("smoke") == clone / "build" / "smoke" and work_dir(get_profile("laptop")).is_dir()
    )
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    assert work_dir("smoke") == tmp_path / "alone" / "build" / "smoke"
