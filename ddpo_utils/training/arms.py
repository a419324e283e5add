"""The arms of an experiment: stories in, one SFT adapter and the preference arms out.

An arm is named by what it does: sft, dpo, ddpo (deviation by both encoders), ddpo-sem, ddpo-sty (by one), shuffled
(ddpo's weights dealt at random among the winners of each prompt: the control), divpo (DPO on pairs that deviation
chose) with divpo-sem and divpo-sty; and from the starting model in place of SFT orpo, dorpo, dorpo-sem, dorpo-sty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import development_prompts, load_prompts
from ..corpus.writing_prompts import stories_of
from ..models.policy import load_policy, load_tokenizer
from ..models.sampling import sample_stories
from ..models.scoring import token_kl
from ..pairs import make_pairs, shuffled_weights
from ..settings import CourseError, Profile, course_errors, weight_kinds, work_dir
from .divpo import divpo_pairs
from .orpo import train_orpo
from .recipes import group_weights, response_weights, train_pairs, train_sft
from .runs import adapter_digest, is_plain_adapter, process, short_digest

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ARMS",
    "all_stories",
    "arm_name",
    "arm_weights",
    "sample_adapter",
    "train_arms",
    "training_stories",
]

ARMS = ("dpo", "ddpo", "shuffled")
SUFFIX = {"both": "", "semantic": "-sem", "style": "-sty"}


def arm_name(method: str, weights: str = "both") -> str:
    """Name and folder of an arm: "ddpo" with weights "semantic" is "ddpo-sem"; sft, dpo and orpo have no weights."""
    weight_kinds(weights)  # refuses what there is not
    return method if method in ("sft", "dpo", "orpo") else method + SUFFIX[weights]


def of_arm(arm: str, profile: Profile) -> Profile:
    """The profile with the weights that the arm's name says."""
    kinds = {suffix: kind for kind, suffix in SUFFIX.items() if suffix}
    return replace(profile, weights=kinds.get(arm[-4:], profile.weights))


def all_stories(profile: Profile) -> pd.DataFrame:
    """The stories of the profile's data with their splits; r/writingPrompts is cleaned once, whichever run asks."""
    tokenizer = load_tokenizer(profile) if profile.data != "bundled" else None
    return stories_of(profile, tokenizer, work_dir(profile) / "data")


def training_stories(profile: Profile, stories: pd.DataFrame | None = None) -> pd.DataFrame:
    """What SFT, pairs and weights are made of, and nothing else: the training split; of the bundled stories the
    authors' alone, without the development part."""
    stories = all_stories(profile) if stories is None else stories
    train = stories["split"] == "train"
    if profile.data == "bundled":
        train &= (stories["source"] == "authors") & ~stories["prompt_id"].isin(
            development_prompts()
        )
    if not train.any():
        raise CourseError(
            f"{profile.data} holds no story of the training split: check its column `split`."
        )
    return stories[train]


def arm_weights(
    stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile, arms: Sequence[str] = ARMS
) -> dict[str, np.ndarray | None]:
    """Weights of the pairs by arm: None for DPO and ORPO (and DivPO, whose pairs are others), the winners' deviation
    for DDPO and DORPO, the same dealt anew within each prompt for shuffled weights."""
    out: dict[str, np.ndarray | None] = {}
    made: dict[str, np.ndarray] = {}
    for arm in arms:
        if arm.partition("-")[0] in ("dpo", "orpo", "divpo"):
            out[arm] = None
            continue
        own = of_arm(arm, profile)
        if own.weights not in made:
            made[own.weights] = (
                response_weights(stories, pairs, own).loc[pairs["chosen_row"]].to_numpy()
            )
        weight = made[own.weights]
        out[arm] = (
            shuffled_weights(pairs, weight, profile.seed) if arm.startswith("shuffled") else weight
        )
    return out


def train_arms(
    profile: Profile,
    stories: pd.DataFrame,
    folder: Path,
    arms: Sequence[str] = ARMS,
    sft: Path | None = None,
) -> dict[str, Any]:
    """SFT on `stories`, then each arm from that adapter, in folder/sft, folder/dpo and so on; returns the records.

    ORPO and DORPO begin from the starting model: where `arms` names nothing else, SFT is not trained. What is finished
    there is kept, what was broken off goes on; `sft` names another folder for the SFT adapter, to share it. An adapter
    there that no run of this package made is used as it is, and has no record. `arms` may be empty, or name "sft".
    """
    sft = sft or folder / "sft"
    needed = not arms or any(arm.partition("-")[0] not in ("orpo", "dorpo") for arm in arms)
    arms = [arm for arm in arms if arm != "sft"]
    if arms:  # before SFT: what is wrong with scores or encoders is said now, and not after hours
        with course_errors():
            pairs = make_pairs(stories, min_gap=profile.min_gap, seed=profile.seed)
        weights = arm_weights(stories, pairs, profile, arms)
    records = (
        {"sft": train_sft(profile, stories, sft)} if needed and not is_plain_adapter(sft) else {}
    )
    if arms:
        there = is_plain_adapter(sft) or (sft / "run.json").is_file()
        watch = _watched(profile, stories, sft) if there else None
    for arm in arms:
        own, method = of_arm(arm, profile), arm.partition("-")[0]
        if method in ("orpo", "dorpo"):
            records[arm] = train_orpo(own, pairs, weights[arm], folder / arm, arm, sft, watch)
        elif method == "divpo":
            few, unused = divpo_pairs(stories, partial(group_weights, profile=own), profile.seed)
            left = {"unused_responses": unused, "unused_pairs": len(pairs) - len(few)}
            records[arm] = train_pairs(own, few, None, folder / arm, sft, arm, watch, **left)
        else:
            records[arm] = train_pairs(own, pairs, weights[arm], folder / arm, sft, arm, watch)
    return records


def _watched(profile: Profile, stories: pd.DataFrame, sft: Path) -> pd.DataFrame:
    """Two of SFT's stories for each of eight prompts, along which the arms' KL is watched while they train."""
    prompts = load_prompts().tail(8)
    if profile.data != "bundled":  # prompts like those trained on; none of the test part
        own = stories.drop_duplicates("prompt_id")[["prompt_id", "prompt"]]
        prompts = own.sample(min(8, len(own)), random_state=profile.seed)
    name = short_digest(
        adapter_digest(sft), profile.max_new_tokens, profile.sample_batch, profile.seed
    )
    with process().main_process_first():
        return sample_adapter(profile, sft, prompts, sft / f"watch-{name}.jsonl", 2, "sft")


def sample_adapter(
    profile: Profile,
    adapter: Path | None,
    prompts: pd.DataFrame,
    path: Path,
    samples: int,
    source: str,
) -> pd.DataFrame:
    """Samples of the profile's model with an adapter, by the profile's length, batch and seed."""
    model, tokenizer = load_policy(profile, adapter)
    return sample_stories(
        model,
        tokenizer,
        prompts,
        path,
        samples,
        profile.max_new_tokens,
        profile.sample_batch,
        profile.seed,
        source,
    )


def sampled_kl(
    profile: Profile, adapter: Path, reference: Path, samples: pd.DataFrame
) -> list[float]:
    """KL(policy || reference) of each of the policy's own samples, in nats a story."""
    model, tokenizer = load_policy(profile, adapter)
    model.load_adapter(str(reference), adapter_name="ref")
    return [round(float(kl), 4) for kl in token_kl(model, tokenizer, samples)]
