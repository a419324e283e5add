"""What the tests of training share besides tests/support/tiny_runs.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import STORIES

from ddpo_utils import Profile
from ddpo_utils.training.one_arm import train_sft


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trainers that train during the test."""
    from transformers import Trainer

    seen: list[Any] = []
    original = Trainer.train

    def spy(trainer: Any, **options: Any) -> Any:
        seen.append(trainer)
        return original(trainer, **options)

    monkeypatch.setattr(Trainer, "train", spy)
    return seen


@pytest.fixture(scope="module")
def trained(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an SFT run with the module's `profile`."""
    folder = tmp_path_factory.mktemp("trained") / "sft"
    train_sft(profile, STORIES, folder)
    return folder


@pytest.fixture
def sft(trained: Path, tmp_path: Path) -> Path:
    """The SFT run's folder, for one test alone: references are kept in it."""
    return shutil.copytree(trained, tmp_path / "sft")
