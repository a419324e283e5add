"""What the tests of training share besides tests/support/tiny_runs.py."""

from __future__ import annotations

from typing import Any

import pytest


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
