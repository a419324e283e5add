"""What is counted on samples of the small world: whether the grammar can have made them, their quality, their modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..deviation import diversity
from ..embeddings.encoders import load_encoder
from .grammar import DIMENSIONS, World, parse

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["INVALID", "entropy", "measure", "read_stories"]

INVALID = (
    -3.0
)  # quality of what the grammar cannot have made; one of its stories in seventy is worse
COMPARED = 6  # valid samples of a prompt on which modes are counted


def read_stories(samples: pd.DataFrame, world: World) -> pd.DataFrame:
    """The samples with what they tell: valid (bool), plot, voice, ending, vivid, and quality (INVALID where not valid).

    Args:
        samples: a frame with prompt and text.
    """
    import pandas as pd

    told = [
        parse(text, prompt) for text, prompt in zip(samples["text"], samples["prompt"], strict=True)
    ]
    valid = np.array([t is not None for t in told], dtype=bool)
    names = [*DIMENSIONS, "vivid"]
    modes = pd.DataFrame(
        [t or dict.fromkeys(names) for t in told], index=samples.index, columns=names
    )
    frame = (
        samples.drop(columns=names, errors="ignore")
        .join(modes)
        .assign(valid=valid, quality=INVALID)
    )
    if valid.any():
        frame.loc[valid, "quality"] = world.quality(frame[valid])
    return frame


def entropy(modes: Any) -> float:
    """Entropy of the modes in nats, from counts, with Miller and Madow's correction for the number of samples:
    -sum p log p + (modes seen - 1) / 2n.

    Source: Miller, "Note on the bias of information estimates", 1955.
    """
    counts = np.unique(np.asarray(modes, dtype=str), return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum() + (len(counts) - 1) / (2 * counts.sum()))


def measure(samples: pd.DataFrame, world: World, encoders: dict[str, str]) -> dict[str, float]:
    """Means over prompts, each weighing the same, of what a model's samples are.

    Args:
        samples: a frame with prompt_id, prompt and text, the same number of samples for every prompt.
        encoders: measure name -> encoder name, for mean pairwise cosine distances of all samples of a prompt.

    Returns:
        valid (share of samples), quality (an invalid sample has INVALID), quality of the valid alone, vivid (share of
        the two adjectives, of the valid), entropy of plot, voice and ending (nats, of the valid samples), semantic
        (plot + ending), style (voice) and total entropy, modes (distinct triples among COMPARED valid samples of a
        prompt that has so many), words, and one distance per encoder; NaN where no sample is valid.
    """
    frame = read_stories(samples, world)
    valid = frame[frame["valid"]]
    groups = [group for _, group in valid.groupby("prompt_id") if len(group) > 1]
    out: dict[str, float] = {
        "valid": float(frame["valid"].mean()),
        "quality": float(frame["quality"].mean()),
        "quality of the valid": float(valid.groupby("prompt_id")["quality"].mean().mean()),
        "vivid": float(valid.groupby("prompt_id")["vivid"].mean().mean()) / 2,
        "words": float(frame["text"].str.split().str.len().mean()),
    }
    for name in DIMENSIONS:
        out[name] = _mean([entropy(group[name]) for group in groups])
    out |= {"semantic": out["plot"] + out["ending"], "style": out["voice"]}
    out["total"] = out["semantic"] + out["style"]
    enough = [group.head(COMPARED) for group in groups if len(group) >= COMPARED]
    out["modes"] = _mean([len(group.drop_duplicates([*DIMENSIONS])) for group in enough])
    for name, encoder in encoders.items():
        rows = load_encoder(encoder).encode(frame["text"].tolist())
        out[name] = float(np.mean(diversity(rows, frame["prompt_id"].to_numpy())))
    return out


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
