"""Stories with a score that a tiny model can learn, and a profile that trains in seconds.

A test module asks for the fixture by `pytest_plugins = ["reward_fixtures"]`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ddpo_utils import Profile, get_profile


def corpus(prompts: int = 4, writers: int = 6, known: bool = True) -> pd.DataFrame:
    """Short stories; the number of times a word occurs is the score."""
    rows = []
    for p in range(prompts):
        for w in range(writers):
            score = (3 * p + 5 * w) % 7
            text = f"{'good light ' * score}{'dark sea ' * (6 - score)}number {w}."
            writer = f"w{w}" if known else ""
            rows.append((f"p{p}", f"The light of town {p}.", text, float(score), writer))
    columns = ["prompt_id", "prompt", "text", "score", "writer"]
    return pd.DataFrame(rows, columns=columns).assign(split="train")


@pytest.fixture
def tiny_profile(tiny_folder: Path) -> Profile:
    return get_profile(
        "laptop",
        model=str(tiny_folder),
        reward=str(tiny_folder),
        dtype="float32",
        max_length=128,
        sft_steps=12,
        sft_learning_rate=1e-2,
        checkpoint_every=5,
        sample_batch=5,
    )
