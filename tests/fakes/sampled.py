"""What the tests of sampling share: five short prompts and the settings of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ddpo_utils.models.sampling import sample_stories

PROMPTS = pd.DataFrame(
    {
        "prompt_id": [f"p{i}" for i in range(5)],
        "prompt": [
            "Sea.",
            "A clock 🙂 stops",
            "Élodie laughed — and the whole town laughed with her",
            "x",
            "Nobody knows",
        ],
    }
)
FAST = {"samples": 3, "max_new_tokens": 8, "batch_size": 4}


def sample(tiny: tuple[Any, Any], path: Path, **changes: Any) -> pd.DataFrame:
    return sample_stories(*tiny, changes.pop("prompts", PROMPTS), path, **{**FAST, **changes})
