"""The profile table, its checks, where files lie, and progress bars."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from faults import refusal

from ddpo_utils import get_profile
from ddpo_utils.settings import PROFILES, Profile, cache_dir, progress_bar, work_dir


def test_the_profile_comes_from_the_argument_then_the_variable_then_laptop(monkeypatch):
    assert get_profile() == get_profile("") == PROFILES["laptop"]
    monkeypatch.setenv("DDPO_PROFILE", "smoke")
    assert get_profile().name == "smoke" and get_profile("8b").name == "8b"
    monkeypatch.setenv("DDPO_PROFILE", "lpatop")
    assert "'lpatop'" in refusal(get_profile)


def test_every_profile_passes_its_own_checks():
    assert set(PROFILES) == {"smoke", "laptop", "colab", "8b"}
    for name, profile in PROFILES.items():
        settings = {field.name: getattr(profile, field.name) for field in fields(Profile)}
        assert settings.pop("name") == name
        assert get_profile(name, **settings) == profile


@pytest.mark.parametrize(
    ("setting", "given", "value"),
    [
        ("learning_rate", "5e-6", 5e-6),
        ("steps", "3", 3),
        ("quantize", "Yes", True),
        ("precompute_reference", "false", False),
        ("lora_targets", "q_proj, layers.0.v_proj", ("q_proj", "layers.0.v_proj")),
        ("lora_targets", ["q_proj"], ("q_proj",)),
        ("lora_targets", "all-linear", "all-linear"),
        ("seed", 2**32 - 1, 2**32 - 1),
    ],
)
def test_a_setting_is_overridden_also_by_a_text(setting, given, value):
    changed = get_profile("8b", **{setting: given})
    assert getattr(changed, setting) == value and type(getattr(changed, setting)) is type(value)
    assert replace(changed, **{setting: getattr(PROFILES["8b"], setting)}) == PROFILES["8b"]


BOMB: list[list] = []  # its text would never end
for _ in range(100_000):
    BOMB = [BOMB, BOMB]
WRONG = {
    "learning_rate": ["fast", 0, "1e30"],
    "beta": ["nan", float("inf"), True],
    "min_gap": [float("nan"), -1],
    "steps": ["2.5", -1, "9" * 400, 10**5000, BOMB],
    "samples": [1_000_000_000],
    "floor": [1.01],
    "seed": [2**32],
    "quantize": ["maybe", 2],
    "model": [None, "", "two\nlines"],
    "data": ["half \ud83d"],
    "tokenizer": [" "],
    "lora_targets": [3, "q_proj,,v_proj", "(a+)+$", [], "q_proj,lm_head", ["model.lm_head"]],
    "weights": ["styel", {"a": [{"b": {}}]}],
    "dtype": ["int8"],
    "stepz": [3],
    "name": ["laptop"],
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_value_or_setting_is_refused_by_its_name(setting: str) -> None:
    for value in WRONG[setting]:
        message = refusal(get_profile, "laptop", **{setting: value})
        assert setting in message and len(message) < 300
    for name in (3, [1], "x" * 10_000):
        assert len(refusal(get_profile, name)) < 200


def test_the_8b_profile_holds_the_paper_s_settings():
    paper = PROFILES["8b"]
    assert (paper.lora_r, paper.lora_alpha, paper.beta, paper.batch_size) == (128, 256, 0.1, 12)
    assert (paper.sft_learning_rate, paper.learning_rate, paper.epochs) == (3e-5, 5e-6, 3)
    orpo = (paper.orpo_beta, paper.orpo_learning_rate, paper.orpo_epochs)
    assert orpo == (0.25, 5e-6, 4) and paper.steps == 0


def test_smoke_shrinks_sampling_and_training_alone():
    """What notebooks 01 to 03 compute from the stories is the same in both profiles."""
    free = {"sample_prompts", "samples", "max_new_tokens", "sample_batch", "checkpoint_every"}
    free |= {"name", "steps", "sft_steps", "batch_size", "sft_batch_size"}
    for field in fields(Profile):
        same = getattr(PROFILES["smoke"], field.name) == getattr(PROFILES["laptop"], field.name)
        assert same or field.name in free


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
    assert work_dir("smoke") == clone / "build" / "smoke"
    monkeypatch.chdir(tmp_path)
    assert work_dir(get_profile("laptop")) == tmp_path / "build" / "laptop"


@pytest.mark.parametrize(("variable", "shown"), [("", True), ("1", False)])
def test_the_variable_silences_every_bar(variable: str, shown: bool, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", variable)
    assert list(progress_bar(range(3), shown=False, desc="hidden")) == [0, 1, 2]
    list(progress_bar(range(3), desc="first"))
    printed = capsys.readouterr().err
    assert ("first" in printed) == shown and "hidden" not in printed
