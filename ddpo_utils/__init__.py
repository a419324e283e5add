"""ddpo_utils: deviation weights, the DDPO loss and its trainer, and what it takes to see whether they worked.

    weights = compute_deviation(responses, embedder)         # one prompt's responses -> (K,) weights
    loss = ddpo_loss(policy_w, policy_l, ref_w, ref_l, weights_of_the_winners, beta=0.1)
    DDPOTrainer(model, args=DPOConfig(...), train_dataset=pairs_with_a_weight_column)

Importing needs numpy and torch alone; everything else is imported where it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from .deviation import compute_deviation, deviation_weights, diversity, raw_deviation
from .losses import ddpo_loss, dpo_loss
from .profiles import CourseError, Profile, get_profile

__version__ = "0.1.0"

_LAZY = {
    "DDPOTrainer": "trainers",
    "load_encoder": "encoders",
    "load_stories": "corpus",
    "make_pairs": "corpus",
    "load_policy": "policy",
    "sample_stories": "sampling",
}

__all__ = [
    "CourseError", "Profile", "__version__", "compute_deviation", "ddpo_loss", "deviation_weights", "diversity",
    "dpo_loss", "get_profile", "raw_deviation", *_LAZY,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
