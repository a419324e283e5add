"""A sampling call of small settings against the server of teller.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from teller import PROMPTS, Teller

from ddpo_utils.models.endpoint import Decoding, Endpoint, sample_endpoint

DECODING = ("temperature", "top_p", "max_tokens")
CALL = ("prompts", "path", "condition", "samples", "source")


@pytest.fixture
def sample(teller: Teller, tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Samples with changed arguments of `sample_endpoint`, Endpoint or Decoding."""

    def call(**changes: Any) -> pd.DataFrame:
        decoding = {
            "max_tokens": 50,
            **{name: changes.pop(name) for name in DECODING if name in changes},
        }
        arguments = {"prompts": PROMPTS, "path": tmp_path / "s.jsonl", "samples": 3}
        arguments |= {name: changes.pop(name) for name in CALL if name in changes}
        settings = {"model": "m", "base_url": teller.url, "retries": 4, "timeout": 5.0, **changes}
        return sample_endpoint(
            **arguments,
            endpoint=Endpoint(**settings),
            decoding=Decoding(**decoding),
            progress=False,
        )

    return call
