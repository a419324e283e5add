"""A sampling call of small settings against the server of teller.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from teller import PROMPTS, Teller

from ddpo_utils.models.endpoint import sample_endpoint

FAST = {"samples": 3, "max_tokens": 50, "retries": 4, "timeout": 5.0, "progress": False}


@pytest.fixture
def sample(teller: Teller, tmp_path: Path) -> Callable[..., pd.DataFrame]:
    def call(**changes: Any) -> pd.DataFrame:
        settings = {
            "prompts": PROMPTS,
            "path": tmp_path / "s.jsonl",
            "model": "m",
            "base_url": teller.url,
            **FAST,
        }
        return sample_endpoint(**{**settings, **changes})

    return call
