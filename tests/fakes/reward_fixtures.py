"""What the tests of the reward share: stories whose score a tiny model can learn, and a profile of seconds. A test
module asks for the fixture by `pytest_plugins = ["reward_fixtures"]`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ddpo_utils import Profile, get_profile


def corpus(prompts: int = 4, writers: int = 6, known: bool = True) -> pd.DataFrame:
    """Short stories; the score is shown by a word, which a tiny model can learn."""
    rows = []
    for p in range(prompts):
        for w in range(writers):
            score = (3 * p + 5 * w) % 7
            text = f"{'good light ' * score}{'dark sea ' * (6 - score)}number {w}."
            rows.append(
                (
                    f"p{p}",
                    f"The light of town {p}.",
                    text,
                    float(score),
                    f"w{w}" if known else "",
                    "train",
                )
            )
    return pd.DataFrame(rows, columns=["prompt_id", "prompt", "text", "score", "writer", "split"])


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
