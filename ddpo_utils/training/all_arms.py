"""An experiment: SFT once, then each arm from that adapter, all in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus.stories import load_prompts
from ..models.policy import load_policy
from ..models.sampling import sample_stories
from ..pairs import make_pairs
from ..settings import CourseError, Profile, course_errors, work_dir
from ..storage.adapters import check_adapter
from ..storage.files import short_digest
from .arms import (
    ARMS,
    Arm,
    all_stories,
    arm_weights,
    group_weights,
    short_enough,
    training_stories,
)
from .divpo import divpo_pairs
from .one_arm import check_batch, train_pairs, train_sft
from .run_folder import adapter_digest, is_plain_adapter, process

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["sample_adapter", "train", "train_arms"]

WATCHED_PROMPTS, WATCHED_STORIES = 8, 2  # prompts along which the KL is watched, stories of each


def train(
    profile: Profile, methods: Sequence[str], output: Path | None = None, sft: Path | None = None
) -> None:
    """Train the methods' arms, SFT first where it is missing and needed; print a line for each.

    Args:
        output: folder of the adapters (build/<profile>/adapters).
        sft: folder of an SFT adapter to start from (<output>/sft).
    """
    folder = output or work_dir(profile) / "adapters"
    if sft and not (sft / "config.yaml").is_file():
        check_adapter(sft)
    arms = [Arm.parse(method, profile.weights).name for method in methods]
    everything = all_stories(profile)
    stories, too_long = short_enough(profile, training_stories(profile, everything))
    main = process().is_main_process
    if main:
        left_out = f"{len(everything) - len(stories) - too_long:,} responses are not for training"
        if too_long:
            left_out += f", {too_long:,} are too long"
        print(f"{_data_facts(profile, stories, arms)}; {left_out}.")
        print(f"Arms, where they are not finished yet: {', '.join(arms)}.", flush=True)
    records = train_arms(profile, stories, folder, arms, sft, too_long=too_long)
    if not main:
        return
    for arm, record in records.items():
        place = sft if sft and arm == "sft" else folder / arm
        if not output and place != sft:
            place = Path(os.path.relpath(place))
        steps, minutes = len(record["log"]), record["seconds"] / 60
        print(f"{arm}: {steps} steps in {minutes:.1f} minutes; adapter in {place}")
        if "unused_responses" in record:
            unused, fewer = record["unused_responses"], record["unused_pairs"]
            print(f"{arm}: {unused} responses are in no pair; {fewer} pairs fewer than other arms")


def _data_facts(profile: Profile, stories: pd.DataFrame, arms: Sequence[str]) -> str:
    """Prompts, responses and pairs that are trained on, and whether DDPO is DPO there."""
    prompts = stories["prompt_id"].nunique()
    text = f"Training on {prompts:,} prompts with {len(stories):,} responses"
    if not set(arms) - {"sft"}:
        return text
    with course_errors():
        pairs = make_pairs(stories, min_gap=profile.min_gap, seed=profile.seed)
    text += f", {len(pairs):,} pairs ({len(stories) - 2 * len(pairs):,} responses are in none)"
    pairs_of_prompt = pairs.groupby("prompt_id").size()
    alone = (pairs_of_prompt == 1).sum()
    if alone:
        text += (
            f"; {alone:,} of {len(pairs_of_prompt):,} prompts have one pair, whose weights are 1: "
            "DDPO is DPO there"
        )
    return text


def train_arms(
    profile: Profile,
    stories: pd.DataFrame,
    folder: Path,
    arms: Sequence[str] = ARMS,
    sft: Path | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """The records of SFT on `stories` and of each arm, by name; adapters in folder/sft and so on.

    What is finished in these folders is kept, what was killed goes on. SFT is left out where all
    arms are ORPO's, which start from the starting model.

    Args:
        arms: names as `Arm.parse` takes them; none: SFT alone.
        sft: folder of the SFT adapter, to share it (folder/sft). An adapter that no run of this
            package made is used as it is, and has no record.
        facts: further entries of the records; with `too_long`, the stories are known to fit.
    """
    if "too_long" not in facts:
        stories, facts["too_long"] = short_enough(profile, stories)
    sft = sft or folder / "sft"
    parsed = {name: Arm.parse(name, profile.weights) for name in arms}
    parsed.pop("sft", None)
    runs = _prepared_runs(profile, stories, parsed) if parsed else {}
    records = {}
    from_sft = [arm for arm in parsed.values() if arm.starts_from_sft]
    if (from_sft or "sft" in arms or not arms) and not is_plain_adapter(sft):
        records["sft"] = train_sft(profile, stories, sft, **facts)
    watch = None
    if parsed and (is_plain_adapter(sft) or (sft / "run.json").is_file()):
        watch = _watched_stories(profile, stories, sft)
    for name, (pairs, weight, more) in runs.items():
        settings = replace(profile, weights=parsed[name].weights)
        records[name] = train_pairs(
            settings, pairs, weight, folder / name, sft, parsed[name], watch, **facts, **more
        )
    return records


def _prepared_runs(
    profile: Profile, stories: pd.DataFrame, arms: dict[str, Arm]
) -> dict[str, tuple[pd.DataFrame, Any, dict[str, int]]]:
    """(pairs, weights, further facts) of each arm.

    Prepared before SFT: a fault of scores, encoders or batch is found now, not after hours.
    """
    if stories["score"].isna().all():
        raise CourseError(
            "The responses have no score, and pairs need one: add a column score, name yours by "
            "--columns score=..., or train sft alone."
        )
    with course_errors():
        pairs = make_pairs(stories, min_gap=profile.min_gap, seed=profile.seed)
    check_batch(profile, pairs)
    weights = arm_weights(stories, pairs, profile, list(arms))
    runs = {}
    for name, arm in arms.items():
        runs[name] = pairs, weights[name], {}
        if arm.method == "divpo":
            deviation = partial(group_weights, profile=replace(profile, weights=arm.weights))
            chosen, unused = divpo_pairs(stories, deviation, profile.seed)
            check_batch(profile, chosen)
            facts = {"unused_responses": unused, "unused_pairs": len(pairs) - len(chosen)}
            runs[name] = chosen, None, facts
    return runs


def _watched_stories(profile: Profile, stories: pd.DataFrame, sft: Path) -> pd.DataFrame:
    """Stories sampled from SFT, along which the arms' KL is watched while they train."""
    prompts = load_prompts().tail(WATCHED_PROMPTS)
    if profile.data != "bundled":  # prompts of the training part; none of the test part
        known = stories.drop_duplicates("prompt_id")[["prompt_id", "prompt"]]
        prompts = known.sample(min(WATCHED_PROMPTS, len(known)), random_state=profile.seed)
    key = short_digest(
        adapter_digest(sft), profile.max_new_tokens, profile.sample_batch, profile.seed
    )
    with process().main_process_first():
        path = sft / f"watch-{key}.jsonl"
        return sample_adapter(profile, sft, prompts, path, WATCHED_STORIES, "sft")


def sample_adapter(
    profile: Profile,
    adapter: Path | None,
    prompts: pd.DataFrame,
    path: Path,
    samples: int,
    source: str,
    **decoding: float,
) -> pd.DataFrame:
    """Stories sampled from the profile's model with an adapter; see `sample_stories`."""
    model, tokenizer = load_policy(profile, adapter)
    return sample_stories(
        model,
        tokenizer,
        prompts,
        path,
        samples,
        profile.max_new_tokens,
        source,
        batch_size=profile.sample_batch,
        seed=profile.seed,
        **decoding,
    )
