"""The recorded runs: SFT and the three preference arms, their checkpoints' samples and KLs, made by one command.

    python -m ddpo_utils record                  writes data/adapters and data/results; about an hour on 2 cores
    python -m ddpo_utils record --development    the trials that chose the settings: data/results/development.json

Every part that is already there is kept, so a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .corpus import decisions, development_prompts, load_prompts, load_stories, make_pairs
from .policy import load_policy
from .profiles import Profile, data_dir, get_profile, work_dir
from .recipes import response_weights, run_facts, shuffled_weights, train_pairs, train_sft
from .sampling import read_samples, sample_stories
from .scoring import mean_logps, token_kl

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["arm_weights", "load_results", "record", "sample_models", "train_arms", "training_stories"]

ARMS = ("dpo", "ddpo", "shuffled")


def training_stories() -> pd.DataFrame:
    """What SFT, pairs and weights are made of: the authors' stories of the training prompts without the development
    part, and nothing else."""
    stories = load_stories()
    train = (stories["source"] == "authors") & (stories["split"] == "train")
    return stories[train & ~stories["prompt_id"].isin(development_prompts())]


def arm_weights(stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """Weights of the winners by arm: None for DPO, `both` for DDPO, the same dealt anew within each prompt."""
    weight = response_weights(stories, pairs, profile).loc[pairs["chosen_row"]].to_numpy()
    return {"dpo": None, "ddpo": weight, "shuffled": shuffled_weights(pairs, weight, profile.seed)}


def train_arms(
    profile: Profile, stories: pd.DataFrame, folder: Path, arms: tuple[str, ...] = ARMS, sft: Path | None = None
) -> dict[str, Any]:
    """SFT on `stories`, then each arm from that adapter, in folder/sft, folder/dpo and so on; returns the records.

    What is finished there is kept; `sft` names another folder for the SFT adapter, to share it.
    """
    records, sft = {}, sft or folder / "sft"
    if not (sft / "run.json").is_file():
        train_sft(profile, stories, sft)
    pairs = make_pairs(stories, seed=profile.seed)
    weights = arm_weights(stories, pairs, profile)
    watch = sample_adapter(profile, sft, load_prompts().tail(8), sft / "watch.jsonl", 2, "sft")
    for arm in arms:
        if not (folder / arm / "run.json").is_file():
            train_pairs(profile, pairs, weights[arm], folder / arm, sft, arm, watch)
    for path in (sft, *(folder / arm for arm in arms)):
        records[path.name] = json.loads((path / "run.json").read_text(encoding="utf-8"))
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


def write_json(path: Path, value: Any) -> None:
    """Write in one step: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(scratch, path)


def checkpoints(folder: Path, steps: Sequence[int], arms: tuple[str, ...] = ARMS) -> dict[str, Path]:
    """Folders of the arms' checkpoints after these steps, by the names that their samples get: "dpo-14" and so on."""
    return {f"{arm}-{step}": folder / arm / "checkpoints" / f"checkpoint-{step}" for arm in arms for step in steps}


def sample_models(
    profile: Profile, models: dict[str, Path | None], prompts: pd.DataFrame, out: Path, samples: int, sft: Path
) -> None:
    """Samples of each model (adapter folder, or None for the starting model) in out/<name>.jsonl, and for the arms
    their KLs from SFT in out/<name>.kl.json."""
    for name, adapter in models.items():
        frame = sample_adapter(profile, adapter, prompts, out / f"{name}.jsonl", samples, name)
        if "-" in name and not (out / f"{name}.kl.json").is_file():
            once = frame[frame["sample"] == 0]  # one story a prompt
            write_json(out / f"{name}.kl.json", sampled_kl(profile, adapter, sft, once))


def develop(samples: int = 8) -> None:
    """The trials that chose the settings: SFT, and plain DPO with each candidate of data/decisions.json.

    data/results/development.json gets, for SFT and the last checkpoint, the share of usable stories (without the
    log-prob check), the KL from SFT (nats a story), semantic diversity and words on the development prompts.
    """
    from .metrics import check_stories, prompt_table

    rules, folder, out = decisions(), work_dir("recorded"), {}
    stories = load_stories()
    held = stories[stories["prompt_id"].isin(development_prompts())].drop_duplicates("prompt_id")
    for name, settings in rules["candidates"].items():
        profile, own = get_profile("laptop", **rules["settings"] | settings), folder / name
        train_arms(profile, training_stories(), own, ("dpo",), folder / "sft")
        models = {"sft": folder / "sft", **checkpoints(own, [profile.steps], ("dpo",))}
        sample_models(profile, models, held, own / "development", samples, folder / "sft")
        for path in sorted((own / "development").glob("*.jsonl")):
            frame, kl = read_samples(path), path.with_suffix(".kl.json")
            table = prompt_table(frame, check_stories(frame), {"semantic": profile.semantic})
            row = {k: round(float(v), 3) for k, v in table[["usable", "words", "semantic"]].mean().items()}
            if kl.is_file():
                values = json.loads(kl.read_text(encoding="utf-8"))
                row["kl"] = round(sum(values) / len(values), 3)
            out[f"{name}/{path.stem}"] = row
    facts = run_facts(profile, command="python -m ddpo_utils record --development", samples_per_prompt=samples)
    write_json(data_dir() / "results" / "development.json", {**facts, "trials": out})


def record(development: bool = False, samples: int = 4) -> None:
    """Make the recorded runs with the settings of data/decisions.json and store them under data/.

    data/adapters/<arm>: the final adapters in bfloat16, with run.json. data/results/samples.jsonl: samples of the
    starting model, SFT and the checkpoints after `sampled_steps` on the 40 test prompts, with their mean log-prob
    under SFT (nats a token). data/results/runs.json: what made them, training logs, KLs from SFT (nats a story, on
    one sample a prompt), and the training authors' log-probs under SFT.
    """
    if development:
        return develop()
    rules, stories = decisions(), training_stories()
    profile = get_profile("laptop", **rules["settings"] | rules["candidates"][rules["chosen"]])
    sft, folder = work_dir("recorded") / "sft", work_dir("recorded") / rules["chosen"]
    runs = train_arms(profile, stories, folder, sft=sft)
    models = {"start": None, "sft": sft, **checkpoints(folder, rules["sampled_steps"])}
    sample_models(profile, models, load_prompts(), folder / "samples", samples, sft)

    model, tokenizer = load_policy(profile, sft)
    paths = sorted((folder / "samples").glob("*.jsonl"))
    results, lines, kls = data_dir() / "results", [], {}
    for path in paths:
        frame, known = read_samples(path), path.with_suffix(".logp.json")
        if not known.is_file():
            write_json(known, [round(float(v), 4) for v in mean_logps(model, tokenizer, frame)])
        if path.with_suffix(".kl.json").is_file():
            kls[path.stem] = json.loads(path.with_suffix(".kl.json").read_text(encoding="utf-8"))
        frame["logp"] = json.loads(known.read_text(encoding="utf-8"))
        keep = ["source", "prompt_id", "sample", "text", "tokens", "finished", "logp"]
        lines.append(frame[keep].to_json(orient="records", lines=True, force_ascii=False))
    authors = folder / "authors.logp.json"
    if not authors.is_file():
        write_json(authors, [round(float(v), 4) for v in mean_logps(model, tokenizer, stories)])
    facts = run_facts(profile, command="python -m ddpo_utils record", samples_per_prompt=samples)
    logps = json.loads(authors.read_text(encoding="utf-8"))
    write_json(results / "runs.json", {**facts, "arms": runs, "kl": kls, "authors_logp": logps})
    (results / "samples.part").write_text("".join(lines), encoding="utf-8")
    os.replace(results / "samples.part", results / "samples.jsonl")
    for source in (sft, *(folder / arm for arm in ARMS)):
        _publish(source, data_dir() / "adapters" / source.name)


def load_results() -> tuple[dict[str, Any], pd.DataFrame]:
    """The recorded runs: data/results/runs.json, and the samples with prompt, arm and step.

    arm is start, sft, dpo, ddpo or shuffled; step is the checkpoint's, 0 for start and sft; last marks each arm's
    final checkpoint.
    """
    folder = data_dir() / "results"
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    samples = read_samples(folder / "samples.jsonl").merge(load_prompts()[["prompt_id", "prompt"]], on="prompt_id")
    parts = samples["source"].str.partition("-")
    samples["arm"], samples["step"] = parts[0], parts[2].replace("", "0").astype(int)
    samples["last"] = samples["step"] == samples.groupby("arm")["step"].transform("max")
    return runs, samples


def _publish(source: Path, target: Path) -> None:
    """The adapter in bfloat16 (half the size), its configuration and its record, without paths of this machine."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source / "adapter_model.safetensors")
    save_file({k: v.to(torch.bfloat16) for k, v in tensors.items()}, target / "adapter_model.safetensors")
    for name in ("adapter_config.json", "run.json"):
        shutil.copyfile(source / name, target / name)
