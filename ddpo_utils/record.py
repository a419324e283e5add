"""The recorded runs: SFT and the three preference arms, their checkpoints' samples and KLs, made by one command.

    python -m ddpo_utils record                    the runs of data/adapters and data/results
    python -m ddpo_utils record --development      the candidate settings, without the development prompts

Every part that is already there is kept, so a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .corpus import load_prompts, make_pairs
from .policy import load_policy
from .profiles import Profile
from .recipes import response_weights, shuffled_weights, token_kl, train_pairs, train_sft
from .sampling import sample_stories

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["arm_weights", "sample_checkpoints", "train_arms"]

ARMS = ("dpo", "ddpo", "shuffled")


def arm_weights(stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """Weights of the winners by arm: None for DPO, `both` for DDPO, the same dealt anew within each prompt."""
    weight = response_weights(stories, pairs, profile).loc[pairs["chosen_row"]].to_numpy()
    return {"dpo": None, "ddpo": weight, "shuffled": shuffled_weights(pairs, weight, profile.seed)}


def train_arms(profile: Profile, stories: pd.DataFrame, folder: Path, arms: tuple[str, ...] = ARMS) -> dict[str, Any]:
    """SFT on `stories`, then each arm from that adapter, in folder/sft, folder/dpo and so on; returns the records."""
    records = {}
    if not (folder / "sft" / "run.json").is_file():
        train_sft(profile, stories, folder / "sft")
    pairs = make_pairs(stories, seed=profile.seed)
    weights = arm_weights(stories, pairs, profile)
    watch = sample_adapter(profile, folder / "sft", load_prompts().tail(8), folder / "watch.jsonl", 2, "sft")
    for arm in arms:
        if not (folder / arm / "run.json").is_file():
            train_pairs(profile, pairs, weights[arm], folder / arm, folder / "sft", arm, watch)
    for arm in ("sft", *arms):
        records[arm] = json.loads((folder / arm / "run.json").read_text(encoding="utf-8"))
    return records


def sample_adapter(
    profile: Profile, adapter: Path | None, prompts: pd.DataFrame, path: Path, samples: int, source: str
) -> pd.DataFrame:
    """Samples of the profile's model with an adapter, by the profile's length, batch and seed."""
    model, tokenizer = load_policy(profile, adapter)
    return sample_stories(
        model, tokenizer, prompts, path, samples, profile.max_new_tokens, profile.sample_batch, profile.seed, source
    )


def sampled_kl(profile: Profile, adapter: Path, reference: Path, samples: pd.DataFrame) -> list[float]:
    """KL(policy || reference) of each of the policy's own samples, in nats a story."""
    model, tokenizer = load_policy(profile, adapter)
    model.load_adapter(str(reference), adapter_name="ref")
    return [round(float(kl), 4) for kl in token_kl(model, tokenizer, samples)]


def sample_checkpoints(
    profile: Profile, folder: Path, prompts: pd.DataFrame, samples: int, arms: tuple[str, ...] = ARMS
) -> None:
    """Samples and KLs of the starting model, SFT and every checkpoint of every arm, in folder/samples."""
    out = folder / "samples"
    todo: list[tuple[str, Path | None]] = [("start", None), ("sft", folder / "sft")]
    for arm in arms:
        for checkpoint in sorted((folder / arm / "checkpoints").glob("checkpoint-*"), key=_step):
            todo.append((f"{arm}-{_step(checkpoint)}", checkpoint))
    for name, adapter in todo:
        frame = sample_adapter(profile, adapter, prompts, out / f"{name}.jsonl", samples, name)
        if adapter is not None and name != "sft" and not (out / f"{name}.kl.json").is_file():
            scratch = out / f"{name}.kl.part"
            scratch.write_text(json.dumps(sampled_kl(profile, adapter, folder / "sft", frame)), encoding="utf-8")
            os.replace(scratch, out / f"{name}.kl.json")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])
