"""A sampling call of small settings against the server of teller.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from teller import PROMPTS, Teller

from ddpo_utils.models.endpoint import Decoding, Endpoint, sample_endpoint


@pytest.fixture
def sample(teller: Teller, tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Samples with changed arguments of `sample_endpoint`, Endpoint or Decoding."""

    def call(**changes: Any) -> pd.DataFrame:
        decoding: dict[str, Any] = {"max_tokens": 50}
        arguments = {"prompts": PROMPTS, "path": tmp_path / "s.jsonl", "samples": 3}
        settings = {"model": "m", "base_url": teller.url, "retries": 4, "timeout": 5.0}
        for name, value in changes.items():
            if name in [field.name for field in fields(Decoding)]:
                decoding[name] = value
            elif name in [field.name for field in fields(Endpoint)]:
                settings[name] = value
            else:
                arguments[name] = value
        endpoint = Endpoint(**settings)
        return sample_endpoint(**arguments, endpoint=endpoint, decoding=Decoding(**decoding))

    return call
