"""Evaluation as in the paper: trained adapters sampled on test prompts, measured, and set against each other.

    <folder>/<row>-<key>.jsonl      samples; another adapter or setting has another key and goes into another file
    <folder>/*.logp.jsonl, .kl.jsonl    what the SFT model says of them (see `plausibility`)
    <folder>/results.json, .csv, .md    figures (see `evaluation_results`) and table (see `evaluation_table`)

All of it resumes after a kill, and under `accelerate launch` every process takes its share. Source of the settings:
arXiv 2503.17126, section 4 (1,000 test prompts, 4 samples each; quality, semantic and style diversity by prompt).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import load_prompts
from ..corpus.text import words
from ..models.policy import load_policy, number_type, public_name
from ..models.sampling import DECODING, read_samples, sample_stories
from ..models.smollm2 import HUB_NAME
from ..settings import CourseError, Profile, data_dir, work_dir
from ..storage.files import short_digest, write_json, write_text
from ..training.arms import all_stories, training_stories
from ..training.reference import matched_step
from ..training.runs import adapter_digest, model_card, process
from .plausibility import compare_with_sft
from .report import make_notes, show_table, write_tables
from .results import ROWS, Material, find_trial, make_results

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["adapters_of", "evaluate", "evaluate_adapters", "evaluation_prompts", "find_adapters"]

POOL = 1000  # prompts among which a story must find its own, where the data have so many
RANGE = (
    50,
    1000,
)  # training stories whose log-probs under SFT say what is plausible: four times a row's, but so many


def evaluation_prompts(profile: Profile, stories: pd.DataFrame) -> pd.DataFrame:
    """The prompts to sample: `profile.sample_prompts` of the test split, drawn at random with the profile's seed.

    Of the bundled data the first so many of the six test prompts with stories and the 40 without, in that order. A
    smaller number draws a part of a larger one's prompts; where there are fewer, all are taken.

    Args:
        stories: the profile's corpus, with its splits.

    Returns:
        A frame with prompt_id and prompt.

    Raises:
        CourseError: fewer than two test prompts, or one that occurs in the training (or development) part as well.
    """
    import pandas as pd

    test = stories[stories["split"] == "test"].drop_duplicates("prompt_id")[["prompt_id", "prompt"]]
    if profile.data == "bundled":
        drawn = pd.concat([test, load_prompts()[["prompt_id", "prompt"]]]).head(
            profile.sample_prompts
        )
    else:
        order = np.random.default_rng(profile.seed).permutation(len(test))
        drawn = test.sort_values("prompt_id").iloc[order[: profile.sample_prompts]]
    if len(drawn) < 2:
        raise CourseError(
            f"An evaluation needs two test prompts at least, and there are {len(drawn)}: raise sample_prompts, or mark "
            "more of the data with the split `test`."
        )
    train = stories[stories["split"] != "test"]  # the development prompts are among them
    known = {_bare(prompt) for prompt in train["prompt"].unique()}
    leaked = drawn["prompt"].map(_bare).isin(known) | drawn["prompt_id"].isin(train["prompt_id"])
    if leaked.any():
        raise CourseError(
            f"{leaked.sum()} of the {len(drawn)} test prompts occur in the training part too, the first as "
            f"{drawn['prompt_id'][leaked].iloc[0]!r}: give each prompt, reposts included, to one part alone."
        )
    return drawn.reset_index(drop=True)


def _bare(prompt: str) -> str:
    """What two prints of one prompt have in common: its words."""
    return " ".join(words(prompt)) or prompt.strip()


def adapters_of(profile: Profile) -> Path:
    """Where the profile's adapters lie: <work_dir>/adapters once one is trained there, else those of data/adapters.

    Raises:
        CourseError: none is trained yet, and the recorded ones are of another model.
    """
    own = work_dir(profile) / "adapters"
    if any(own.glob("*/run.json")):
        return own
    if public_name(profile).rpartition("/")[2] != HUB_NAME.rpartition("/")[2]:
        raise CourseError(
            f"There is no adapter of {public_name(profile)} yet: run notebook 04 first, or "
            f"`python -m ddpo_utils train --profile {profile.name}`."
        )
    return data_dir() / "adapters"


def _matched(folder: Path) -> Path | None:
    """The checkpoint of DPO that is nearest to the finished DDPO-both in KL from SFT, by what training watched along
    the same stories; None where that is DPO's last, or the KLs are not known."""
    try:
        records = {
            arm: json.loads((folder / arm / "run.json").read_text(encoding="utf-8"))
            for arm in ("dpo", "ddpo")
        }
        dpo, ddpo = (records[arm]["kl"] for arm in ("dpo", "ddpo"))
        last = max(dpo, key=int)
    except (OSError, ValueError, LookupError):
        return None
    place = folder / "dpo" / "checkpoints"
    kept = {
        step: kl
        for step, kl in dpo.items()
        if step == last or (place / f"checkpoint-{step}" / "adapter_config.json").is_file()
    }
    nearest = matched_step(kept, ddpo) if ddpo else int(last)
    return None if nearest == int(last) else place / f"checkpoint-{nearest}"


def find_adapters(folder: Path) -> dict[str, Path | None]:
    """The table's sampled rows with their adapters' places in `folder`: the starting model (None), SFT, the arms.

    Shuffled weights of one encoder, DivPO and ORPO's arms are rows where they were trained, and DPO at DDPO's KL where
    it is not DPO's last.
    """
    places = {row: folder / row for row in ROWS if row != "gold"} | {
        "start": None,
        "dpo-matched": _matched(folder),
    }
    always = {"start", "sft", "dpo", "shuffled", "ddpo-sem", "ddpo-sty", "ddpo"}
    return {
        row: place for row, place in places.items() if row in always or (place and place.is_dir())
    }


def _settled(profile: Profile, folder: Path) -> Profile:
    """The profile with one number type for all that goes into `folder`: "auto" may rest on a timing, which can turn
    out otherwise in another process or on another day."""
    if profile.dtype != "auto":
        return profile
    path = folder / "number_type.json"
    if process().is_main_process and not path.is_file():
        write_json(path, str(number_type(profile)).removeprefix("torch."))
    process().wait_for_everyone()
    return replace(profile, dtype=json.loads(path.read_text(encoding="utf-8")))


def _sample(
    profile: Profile, row: str, adapter: Path | None, prompts: pd.DataFrame, folder: Path
) -> Path:
    """This process's share of the row's samples; a finished file is left alone, and no model is loaded for it.

    Prompts go longest first: batches hold little padding then, and memory runs out at once or never.
    """
    prompts = prompts.iloc[np.argsort(-prompts["prompt"].str.len().to_numpy(), kind="stable")]
    key = short_digest(
        public_name(profile),
        profile.tokenizer,
        profile.quantize,
        profile.dtype,
        adapter_digest(adapter),
        DECODING,
        prompts.to_numpy().tolist(),
        profile.samples,
        profile.max_new_tokens,
        profile.sample_batch,
        profile.seed,
    )
    path = folder / f"{row}-{key}.jsonl"
    if not path.is_file() or path.read_bytes().count(b"\n") < len(prompts) * profile.samples:
        model, tokenizer = load_policy(profile, adapter)
        sample_stories(
            model,
            tokenizer,
            prompts,
            path,
            profile.samples,
            profile.max_new_tokens,
            source=row,
            batch_size=profile.sample_batch,
            seed=profile.seed,
            rank=process().process_index,
            ranks=process().num_processes,
        )
    return path


def _gold(profile: Profile, stories: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """What people wrote for these prompts (of the bundled data: the authors), where there are two responses or more."""
    own = stories[stories["prompt_id"].isin(prompts["prompt_id"]) & (stories["split"] == "test")]
    if profile.data == "bundled":
        own = own[own["source"] == "authors"]
    return own[own.groupby("prompt_id")["text"].transform("size") > 1].reset_index(drop=True)


def evaluate(
    profile: Profile,
    models: Mapping[str, Path | None],
    folder: Path,
    stories: pd.DataFrame,
    reward: Path | None = None,
) -> dict[str, Any]:
    """Sample each model on the test prompts with the paper's settings, measure, and write the table into `folder`.

    Args:
        profile: model, encoders, numbers of prompts and samples, lengths, seed. Under `accelerate launch` each process
            calls this, samples its share of the batches, and gets the same results.
        models: row -> adapter folder, None for the starting model (see `find_adapters`). A row whose adapter is
            missing is left out, and the table says so.
        folder: of samples and table; what is there already is not made again.
        stories: the profile's corpus with its splits: prompts, Gold, and what is plausible come from it.
        reward: folder of a trial by `python -m ddpo_utils reward`; without one, or where the reward did not pass it,
            quality is not measured.

    Returns:
        The results as in results.json: rows with means and 95% intervals over prompts, paired differences, verdicts,
        notes, the values by prompt, and the names of the rows' files of samples in `folder`.

    Raises:
        CourseError: no adapter at all, test prompts that occur in training, one sample a prompt, or what sampling,
            encoders and reward raise.
    """
    found = {
        row: path
        for row, path in models.items()
        if path is None or (path / "adapter_config.json").is_file()
    }
    missing = [row for row in models if row not in found]
    if not any(found.values()):
        raise CourseError(
            "There is no adapter to evaluate: train with `python -m ddpo_utils train`, or check --adapters."
        )
    if profile.samples < 2:
        raise CourseError(
            "Diversity needs two samples a prompt at least: raise the setting samples."
        )
    if reward:
        find_trial(profile, reward)  # said before anything is sampled
    if missing and process().is_main_process:
        print(
            "left out, without an adapter: " + ", ".join(ROWS.get(row, row) for row in missing),
            flush=True,
        )
    prompts, profile = evaluation_prompts(profile, stories), _settled(profile, folder)
    paths = {row: _sample(profile, row, adapter, prompts, folder) for row, adapter in found.items()}
    process().wait_for_everyone()
    gold, frames = (
        _gold(profile, stories, prompts),
        {row: read_samples(path) for row, path in paths.items()},
    )
    if gold["prompt_id"].nunique() > 1:
        frames = {"gold": gold, **frames}
    train = training_stories(profile, stories)
    number = min(len(train), int(np.clip(4 * len(prompts) * profile.samples, *RANGE)))
    material = Material(frames, train.sample(number, random_state=profile.seed), missing)
    if "sft" in found:
        logp, material.kl, material.plausible = compare_with_sft(
            profile, found, frames, material.train, folder
        )
        material.frames = {row: frame.assign(logp=logp[row]) for row, frame in frames.items()}
    if profile.data != "bundled":
        pool = list(
            dict.fromkeys([*prompts["prompt"], *stories["prompt"][stories["split"] == "test"]])
        )
        material.pool = pool[: max(POOL, len(prompts))]
    if process().is_main_process:
        results = make_results(profile, material, len(prompts), reward)
        results |= {
            "notes": make_notes(results),
            "adapters": {row: adapter_digest(adapter) for row, adapter in found.items()},
            "files": {row: path.name for row, path in paths.items()},
        }
        write_tables(results, folder)
    process().wait_for_everyone()
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def evaluate_adapters(
    profile: Profile,
    adapters: Path | None = None,
    output: Path | None = None,
    reward: Path | None = None,
) -> dict[str, Any]:
    """`evaluate` for the command line: the adapters of the profile on its data. Prints the table and
    writes it into the adapters' model cards.

    Args:
        adapters: their folder (see `adapters_of`). output: of samples and table (<work_dir>/evaluation).
        reward: see `evaluate`.
    """
    adapters, output = adapters or adapters_of(profile), output or work_dir(profile) / "evaluation"
    results = evaluate(profile, find_adapters(adapters), output, all_stories(profile), reward)
    if process().is_main_process:
        show_table(results)
        print(f"samples and table are in {os.path.relpath(output)}")
        table = (output / "results.md").read_text(encoding="utf-8")
        for row in results["adapters"]:
            card, record = adapters / row / "README.md", adapters / row / "run.json"
            if card.is_file() and record.is_file():
                write_text(card, model_card(json.loads(record.read_text(encoding="utf-8")), table))
    return results
