"""ddpo_utils: deviation weights, the DDPO loss and its trainer, and the course's tools.

    weights = compute_deviation(responses, embedder)     # one prompt's responses -> (K,) weights
    loss = ddpo_loss(policy_w, policy_l, ref_w, ref_l, weights_of_the_winners, beta=0.1)
    DDPOTrainer(model, args=DPOConfig(...), train_dataset=pairs_with_a_weight_column)

The method: deviation.py, pairs.py, losses.py, trainers.py. Importing needs numpy and torch alone.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .extras import needs
from .settings import CourseError, Profile, get_profile

if TYPE_CHECKING:  # what editors and type checkers see of the table below
    from .corpus.preferences import add_weights
    from .corpus.stories import load_stories
    from .deviation import compute_deviation, deviation_weights, diversity, raw_deviation
    from .embeddings.encoders import load_encoder
    from .losses import ddpo_loss, dorpo_loss, dpo_loss, orpo_loss
    from .models.policy import load_policy
    from .models.sampling import sample_stories
    from .pairs import make_pairs
    from .trainers import DDPOTrainer, DORPOTrainer
    from .training.divpo import divpo_pairs

__version__ = "0.1.0"

# Each name is imported at its first use: the doctor must be able to speak where torch is broken.
_MODULES = {
    "add_weights": "corpus.preferences",
    "compute_deviation": "deviation",
    "deviation_weights": "deviation",
    "diversity": "deviation",
    "raw_deviation": "deviation",
    "make_pairs": "pairs",
    "ddpo_loss": "losses",
    "dorpo_loss": "losses",
    "dpo_loss": "losses",
    "orpo_loss": "losses",
    "DDPOTrainer": "trainers",
    "DORPOTrainer": "trainers",
    "divpo_pairs": "training.divpo",
    "load_encoder": "embeddings.encoders",
    "load_policy": "models.policy",
    "load_stories": "corpus.stories",
    "sample_stories": "models.sampling",
}
_AT_ONCE = {  # what the modules of these names import
    "trl": ("DDPOTrainer", "DORPOTrainer"),
    "pydantic": ("load_policy", "sample_stories"),
    "pandas": ("add_weights", "load_stories"),
}

__all__ = [
    "CourseError",
    "DDPOTrainer",
    "DORPOTrainer",
    "Profile",
    "add_weights",
    "compute_deviation",
    "ddpo_loss",
    "deviation_weights",
    "diversity",
    "divpo_pairs",
    "dorpo_loss",
    "dpo_loss",
    "get_profile",
    "load_encoder",
    "load_policy",
    "load_stories",
    "make_pairs",
    "orpo_loss",
    "raw_deviation",
    "sample_stories",
]


if not TYPE_CHECKING:  # a checker takes a module with __getattr__ to have every name
    # `import *` and help() take what can be imported here
    for _package, _names in _AT_ONCE.items():
        if find_spec(_package) is None:
            __all__ = [name for name in __all__ if name not in _names]

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            with needs("trainers" if name in (*_AT_ONCE["trl"], "add_weights") else "train"):
                return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
