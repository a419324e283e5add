"""ddpo_utils: deviation weights, the DDPO loss and its trainer, and what it takes to see whether they worked.

    weights = compute_deviation(responses, embedder)         # one prompt's responses -> (K,) weights
    loss = ddpo_loss(policy_w, policy_l, ref_w, ref_l, weights_of_the_winners, beta=0.1)
    DDPOTrainer(model, args=DPOConfig(...), train_dataset=pairs_with_a_weight_column)

Importing needs numpy and torch alone; everything else is imported where it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from .settings import CourseError, Profile, get_profile

__version__ = "0.1.0"

# Where each name lives. Even torch waits for its first use, so that the doctor can speak where torch is broken.
_LAZY = {
    "compute_deviation": "deviation",
    "deviation_weights": "deviation",
    "diversity": "deviation",
    "raw_deviation": "deviation",
    "ddpo_loss": "losses",
    "dorpo_loss": "losses",
    "dpo_loss": "losses",
    "orpo_loss": "losses",
    "DDPOTrainer": "trainers",
    "DORPOTrainer": "orpo_trainer",
    "divpo_pairs": "pairs",
    "load_encoder": "embeddings.encoders",
    "load_stories": "corpus.stories",
    "make_pairs": "pairs",
    "load_policy": "models.policy",
    "sample_stories": "models.sampling",
}

__all__ = ["CourseError", "Profile", "__version__", "get_profile", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
