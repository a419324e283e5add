"""Evaluation as in the paper: adapters sampled on test prompts, measured, and compared.

    <folder>/<row>-<key>.jsonl          samples; another adapter or setting has another key, and a
                                        server's samples are <row>-served-<key>.jsonl
    <folder>/<row>-<key>.logp.json      their log-probs under SFT (nats a token); .kl.json the KL
                                        from SFT (nats a story); .reward.json their rewards
    <folder>/results.json, .csv, .md    figures and tables (see `results`)

All of it resumes after a kill, and under `accelerate launch` every process takes its share.
Source of the settings: arXiv 2503.17126, section 4.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import load_prompts
from ..corpus.text import words
from ..models.endpoint import Endpoint
from ..models.policy import public_name
from ..models.smollm2 import HUB_NAME
from ..settings import CourseError, Profile, data_dir, work_dir
from ..storage.adapters import adapter_digest
from ..storage.files import are_numbers, read_json, write_text
from ..storage.locks import locked
from ..training.arms import all_stories, short_enough, training_stories
from ..training.reference import matched_step
from ..training.run_folder import model_card, process, read_record
from .results import ROWS, make_results, show_table, write_results
from .reward_trial import FINAL
from .scores import (
    compare_with_sft,
    one_number_type,
    read_row,
    sample_rows,
    score_rewards,
)
from .usability import Thresholds, check_stories, course_prompts, measure_row, unfit_rules

if TYPE_CHECKING:
    import pandas as pd

POOL = 1000  # prompts among which a story must find its own, where the data have so many
TRAIN_RANGE = (50, 1000)  # training stories that say what is plausible: four times a row's
ALWAYS = {"start", "sft", "dpo", "shuffled", "ddpo-sem", "ddpo-sty", "ddpo"}  # rows, trained or not


def evaluation_prompts(profile: Profile, stories: pd.DataFrame) -> pd.DataFrame:
    """The test prompts to sample (prompt_id, prompt): `profile.sample_prompts`, or all if fewer.

    They are the first of an order drawn with the profile's seed; of the bundled data the first of
    the test prompts with stories and the 40 without. CourseError for fewer than two, or one that
    occurs in another part of the data as well.
    """
    import pandas as pd

    columns = ["prompt_id", "prompt"]
    test = stories.loc[stories["split"] == "test", columns].drop_duplicates("prompt_id")
    if profile.data == "bundled":
        test = pd.concat([test, load_prompts()[columns]])
    else:
        order = np.random.default_rng(profile.seed).permutation(len(test))
        test = test.sort_values("prompt_id").iloc[order]
    drawn = test.head(profile.sample_prompts).reset_index(drop=True)
    if len(drawn) < 2:
        raise CourseError(
            f"An evaluation needs two test prompts, and there are {len(drawn)}: mark "
            "more of the data with the split `test`, and set sample_prompts to 2 or more."
        )
    rest = stories[stories["split"] != "test"]
    same_words = drawn["prompt"].map(_bare).isin(rest["prompt"].drop_duplicates().map(_bare))
    same_id = drawn["prompt_id"].isin(rest["prompt_id"])
    leaked = drawn["prompt_id"][same_words | same_id]
    if len(leaked):
        raise CourseError(
            f"{len(leaked)} of the {len(drawn)} test prompts occur in the training part too, the "
            f"first as {leaked.iloc[0]!r}: give each prompt to one part alone."
        )
    return drawn


def _bare(prompt: str) -> str:
    """The prompt's words, which reposts share."""
    return " ".join(words(prompt)) or prompt.strip()


def adapters_of(profile: Profile) -> Path:
    """Folder of the profile's adapters: <work_dir>/adapters once one is trained, else the recorded
    ones, if they belong to the same model."""
    trained = work_dir(profile) / "adapters"
    if any(trained.glob("*/run.json")):
        return trained
    name = public_name(profile)
    if Path(name).name != Path(HUB_NAME).name:
        raise CourseError(
            f"There is no adapter of {name} yet: run notebook 04 first, or "
            f"`python -m ddpo_utils train --profile {profile.name}`."
        )
    return data_dir() / "adapters"


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _recorded_kl(folder: Path) -> dict[str, float]:
    """The KL from SFT (nats a story) by step that a run recorded; empty where it did not."""
    path = folder / "run.json"
    record = read_json(path) if path.is_file() else {}
    kl = record.get("kl", {}) if isinstance(record, dict) else None
    if not isinstance(kl, dict) or not all(map(str.isdecimal, kl)) or not are_numbers(kl.values()):
        raise CourseError(f"{path} is damaged: delete it, and train {folder.name} again.")
    return kl


def _matched_checkpoint(folder: Path) -> Path | None:
    """DPO's kept checkpoint that is nearest to the finished DDPO-both in KL from SFT.

    None where that is DPO's last one, or training did not record the KLs. CourseError for a damaged
    record: DPO's last checkpoint would silently take the place of the nearest.
    """
    dpo, ddpo = _recorded_kl(folder / "dpo"), _recorded_kl(folder / "ddpo")
    if not dpo or not ddpo:
        return None
    place = folder / "dpo" / "checkpoints"
    last = max(dpo, key=int)
    steps = [step for step in dpo if step == last or _is_adapter(place / f"checkpoint-{step}")]
    nearest = matched_step({step: dpo[step] for step in steps}, ddpo)
    return None if nearest == int(last) else place / f"checkpoint-{nearest}"


def find_adapters(folder: Path) -> dict[str, Path | None]:
    """The table's sampled rows with their adapters in `folder`; None: the starting model.

    Rows outside ALWAYS are left out if they were not trained, as is DPO at DDPO's KL if that is
    DPO's last checkpoint.
    """
    places: dict[str, Path | None] = {row: folder / row for row in ROWS}
    places |= {"start": None, "dpo-matched": _matched_checkpoint(folder)}
    found = {}
    for row, place in places.items():
        if row in ALWAYS or (place and place.is_dir()):
            found[row] = place
    return found


def _pool(profile: Profile, stories: pd.DataFrame, prompts: pd.DataFrame) -> list[str]:
    """Prompts among which a story must find its own: the course's, or those of the test part."""
    if profile.data == "bundled":
        return course_prompts()
    test = stories["prompt"][stories["split"] == "test"]
    pool = list(dict.fromkeys([*prompts["prompt"], *test]))
    return pool[: max(POOL, len(prompts))]


def _gold(profile: Profile, stories: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """The data's own responses (the authors', if bundled) to prompts that have two or more."""
    gold = stories[stories["split"] == "test"]
    gold = gold[gold["prompt_id"].isin(prompts["prompt_id"])]
    if profile.data == "bundled":
        gold = gold[gold["source"] == "authors"]
    sizes = gold.groupby("prompt_id")["text"].transform("size")
    return gold[sizes > 1].reset_index(drop=True)


def _require_fitting_rules(profile: Profile, train: pd.DataFrame, thresholds: Thresholds) -> None:
    """Raise CourseError where a rule of usable stories does not fit the data's own responses."""
    checks = check_stories(train, thresholds, train["prompt"].unique(), profile.semantic)
    for sentence in unfit_rules(checks, thresholds).values():
        raise CourseError(sentence)


def evaluate(
    profile: Profile,
    models: Mapping[str, Path | None],
    folder: Path,
    stories: pd.DataFrame,
    thresholds: Thresholds,
    reward: Path | None = None,
    server: Endpoint | None = None,
) -> dict[str, Any]:
    """Sample each model on the test prompts, measure, and write figures and tables into `folder`.

    Args:
        models: row -> adapter folder, None for the starting model (see `find_adapters`). A row
            without an adapter is left out, and the table says so.
        folder: of samples and tables; what exists there is not made again.
        stories: the profile's corpus with its splits: prompts, Gold, and what is plausible.
        reward: folder of a trial by `python -m ddpo_utils reward`; without one, or where the reward
            did not pass it, quality is not measured.
        server: samples in place of the local model (see `served_models`); its own `model` is not
            used. Log-probs and KLs are the local model's all the same.

    Returns:
        The content of results.json: rows with means and 95% intervals over prompts, paired
        differences, verdicts, notes, values by prompt, and names of the rows' sample files.
        CourseError where there is too little to evaluate, a file is damaged, another process is at
        work in `folder`, or a rule does not fit the data's own responses.
    """
    missing = [row for row, adapter in models.items() if adapter and not _is_adapter(adapter)]
    found = {row: adapter for row, adapter in models.items() if row not in missing}
    main = process().is_main_process
    if not any(found.values()):
        raise CourseError("There is no adapter to evaluate: train one first, or check --adapters.")
    if profile.samples < 2:
        raise CourseError("Diversity needs two samples per prompt: raise the setting samples.")
    if reward and not _is_adapter(reward / FINAL):
        raise CourseError(f"There is no reward in {reward}: run `python -m ddpo_utils reward`.")
    if missing and main:
        print("left out, without an adapter:", ", ".join(ROWS.get(row, row) for row in missing))
    digests = {row: adapter_digest(adapter) for row, adapter in found.items()}
    prompts = evaluation_prompts(profile, stories)
    train = training_stories(profile, stories)
    wanted = np.clip(4 * len(prompts) * profile.samples, *TRAIN_RANGE)
    train = train.sample(min(len(train), int(wanted)), random_state=profile.seed)
    train, _ = short_enough(profile, train)  # training left the others out
    if main and profile.data != "bundled":
        _require_fitting_rules(profile, train, thresholds)
    with locked(folder):
        profile = one_number_type(profile, folder)
        paths = sample_rows(profile, found, prompts, folder, server)
        frames = {row: read_row(path, prompts) for row, path in paths.items()}
        gold = _gold(profile, stories, prompts)
        if gold["prompt_id"].nunique() > 1:
            frames = {"gold": gold, **frames}
        kl = {}
        plausible = None
        if "sft" in found:
            logp, kl = compare_with_sft(profile, found, {"train": train, **frames}, folder)
            low, high = thresholds.logprob_range(logp["train"])
            plausible = round(low, 4), round(high, 4)
            frames = {row: frame.assign(logp=logp[row]) for row, frame in frames.items()}
        if main:
            rewards, quality = score_rewards(profile, {"train": train, **frames}, folder, reward)
            spread = float(np.std(rewards.pop("train"))) if rewards else None
            pool = _pool(profile, stories, prompts)
            tables = {}
            for row, frame in frames.items():
                checks = check_stories(frame, thresholds, pool, profile.semantic, plausible)
                tables[row] = measure_row(profile, frame, checks, kl.get(row), rewards.get(row))
            facts = {
                "prompts": len(prompts),
                "quality": quality,
                "missing": missing,
                "thresholds": asdict(thresholds),
                "plausible": plausible,
                "training_stories": len(train),
                "pool": len(pool),
                "on_topic": thresholds.nearest_prompts(len(pool)),
                "adapters": digests,
                "files": {row: path.name for row, path in paths.items()},
                "served": {row: frames[row]["source"].unique().tolist() for row in paths if server},
            }
            results = make_results(profile, frames, tables, thresholds, spread, facts)
            write_results(results, folder)
        process().wait_for_everyone()
        return read_json(folder / "results.json")


def evaluate_adapters(
    profile: Profile,
    thresholds: Thresholds,
    adapters: Path | None = None,
    output: Path | None = None,
    reward: Path | None = None,
    server: Endpoint | None = None,
) -> dict[str, Any]:
    """`evaluate` the profile's adapters on its data, print the table, and add it to their cards.

    The defaults are `adapters_of` the profile and <work_dir>/evaluation.
    """
    adapters = adapters or adapters_of(profile)
    output = output or work_dir(profile) / "evaluation"
    models = find_adapters(adapters)
    _warn_of_other_data(profile, adapters)
    stories = all_stories(profile)
    results = evaluate(profile, models, output, stories, thresholds, reward, server)
    if process().is_main_process:
        show_table(results)
        print(f"samples and table are in {os.path.relpath(output)}")
        table = (output / "results.md").read_text(encoding="utf-8")
        for row in results["adapters"]:
            card = adapters / row / "README.md"
            if card.is_file() and (adapters / row / "run.json").is_file():
                write_text(card, model_card(read_record(adapters / row), table))
    return results


def _warn_of_other_data(profile: Profile, adapters: Path) -> None:
    """Warn where an arm was trained on data other than those of the evaluation's prompts."""
    for path in sorted(adapters.glob("*/run.json")):
        data = read_record(path.parent).get("settings", {}).get("data", "")
        if data and Path(data).name != Path(profile.data).name:
            warnings.warn(
                f"{path.parent.name} was trained on {data}, and prompts and Gold are those of "
                f"{profile.data}: give --data if they should be the same.",
                stacklevel=3,
            )
