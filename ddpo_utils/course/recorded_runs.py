"""The recorded runs: SFT and the three preference arms, their checkpoints' samples and KLs, made by one command.

    python -m ddpo_utils record                  writes data/adapters and data/results; about an hour on 2 cores
    python -m ddpo_utils record --seeds 43 44    further seeds of the same runs: data/results/seeds.json, .jsonl
    python -m ddpo_utils record --development    the trials that chose the settings: data/results/development.json

Every part that is already there is kept, so a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import decisions, development_prompts, load_prompts, load_stories
from ..models.policy import load_policy
from ..models.sampling import read_samples
from ..models.scoring import mean_logps
from ..settings import Profile, data_dir, get_profile, work_dir
from ..training.arms import ARMS, sample_adapter, sampled_kl, train_arms, training_stories
from ..training.reference import matched_step
from ..training.runs import run_facts, write_json, write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_results", "load_seeds", "record", "record_seeds"]


def checkpoints(
    folder: Path, steps: Sequence[int], arms: tuple[str, ...] = ARMS
) -> dict[str, Path]:
    """Folders of the arms' checkpoints after these steps, by the names that their samples get: "dpo-14" and so on."""
    return {
        f"{arm}-{step}": folder / arm / "checkpoints" / f"checkpoint-{step}"
        for arm in arms
        for step in steps
    }


def sample_models(
    profile: Profile,
    models: dict[str, Path | None],
    prompts: pd.DataFrame,
    out: Path,
    samples: int,
    sft: Path,
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
    from ..evaluation.usability import check_stories, prompt_table

    rules, folder, out = decisions(), work_dir("recorded"), {}
    stories = load_stories()
    held = stories[stories["prompt_id"].isin(development_prompts())].drop_duplicates("prompt_id")
    for name, settings in rules["candidates"].items():
        profile, own = get_profile("laptop", **rules["settings"] | settings), folder / name
        train_arms(profile, training_stories(profile), own, ("dpo",), folder / "sft")
        models = {"sft": folder / "sft", **checkpoints(own, [profile.steps], ("dpo",))}
        sample_models(profile, models, held, own / "development", samples, folder / "sft")
        for path in sorted((own / "development").glob("*.jsonl")):
            frame, kl = read_samples(path), path.with_suffix(".kl.json")
            table = prompt_table(frame, check_stories(frame), {"semantic": profile.semantic})
            row = {
                k: round(float(v), 3)
                for k, v in table[["usable", "words", "semantic"]].mean().items()
            }
            if kl.is_file():
                values = json.loads(kl.read_text(encoding="utf-8"))
                row["kl"] = round(sum(values) / len(values), 3)
            out[f"{name}/{path.stem}"] = row
    facts = run_facts(
        profile, command="python -m ddpo_utils record --development", samples_per_prompt=samples
    )
    write_json(data_dir() / "results" / "development.json", {**facts, "trials": out})


def _settings(**more: Any) -> Profile:
    """The laptop profile with the settings that data/decisions.json fixes."""
    rules = decisions()
    return get_profile("laptop", **rules["settings"] | rules["candidates"][rules["chosen"]] | more)


def _measure(profile: Profile, folder: Path, sft: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Samples of folder/samples with their mean log-prob under SFT (nats a token); their KLs, and the training
    authors' log-probs."""
    import pandas as pd

    frames, kls, scorer = [], {}, None

    def logps(path: Path, frame: pd.DataFrame) -> list[float]:
        nonlocal scorer
        if not path.is_file():
            scorer = scorer or load_policy(profile, sft)
            write_json(path, [round(float(v), 4) for v in mean_logps(*scorer, frame)])
        return json.loads(path.read_text(encoding="utf-8"))

    for path in sorted((folder / "samples").glob("*.jsonl")):
        frame = read_samples(path)
        if path.with_suffix(".kl.json").is_file():
            kls[path.stem] = json.loads(path.with_suffix(".kl.json").read_text(encoding="utf-8"))
        frame["logp"] = logps(path.with_suffix(".logp.json"), frame)
        frames.append(
            frame[["source", "prompt_id", "sample", "text", "tokens", "finished", "logp"]]
        )
    authors = logps(folder / "authors.logp.json", training_stories(profile))
    return pd.concat(frames, ignore_index=True), {"kl": kls, "authors_logp": authors}


def record(development: bool = False, samples: int = 4) -> None:
    """Make the recorded runs with the settings of data/decisions.json and store them under data/.

    data/adapters/<arm>: the final adapters in bfloat16, with run.json. data/results/samples.jsonl: samples of the
    starting model, SFT and the checkpoints after `sampled_steps` on the 40 test prompts, with their mean log-prob
    under SFT (nats a token). data/results/runs.json: what made them, training logs, KLs from SFT (nats a story, on
    one sample a prompt), and the training authors' log-probs under SFT.
    """
    if development:
        return develop()
    rules, profile, results = decisions(), _settings(), data_dir() / "results"
    sft, folder = work_dir("recorded") / "sft", work_dir("recorded") / rules["chosen"]
    runs = train_arms(profile, training_stories(profile), folder, sft=sft)
    models = {"start": None, "sft": sft, **checkpoints(folder, rules["sampled_steps"])}
    sample_models(profile, models, load_prompts(), folder / "samples", samples, sft)
    frame, measured = _measure(profile, folder, sft)
    facts = run_facts(profile, command="python -m ddpo_utils record", samples_per_prompt=samples)
    write_json(results / "runs.json", {**facts, "arms": runs, **measured})
    write_text(
        results / "samples.jsonl", frame.to_json(orient="records", lines=True, force_ascii=False)
    )
    for source in (sft, *(folder / arm for arm in ARMS)):
        _publish(source, data_dir() / "adapters" / source.name)


def record_seeds(seeds: Sequence[int], samples: int = 4) -> None:
    """The same runs from further seeds, SFT included: data/results/seeds.jsonl holds samples of each arm's last
    checkpoint and of DDPO's at matched KL; seeds.json what made them, KLs and log-probs as in runs.json. Seeds that
    are already there are kept."""
    results, known, frames = data_dir() / "results", {}, []
    if (results / "seeds.json").is_file():
        known = json.loads((results / "seeds.json").read_text(encoding="utf-8"))["seeds"]
        frames = [load_seeds()[1][list(SAMPLE)]]
    for seed in (seed for seed in seeds if "matched" not in known.get(str(seed), {})):
        profile, folder = _settings(seed=seed), work_dir("recorded") / f"seed-{seed}"
        runs = train_arms(profile, training_stories(profile), folder)
        matched = matched_step(runs["ddpo"]["kl"], runs["dpo"]["kl"])
        models = checkpoints(folder, [profile.steps]) | checkpoints(folder, [matched], ("ddpo",))
        sample_models(profile, models, load_prompts(), folder / "samples", samples, folder / "sft")
        frame, measured = _measure(profile, folder, folder / "sft")
        frames = [before[before["seed"] != seed] for before in frames] + [
            frame.assign(seed=seed)[list(SAMPLE)]
        ]
        for run in runs.values():
            del run["log"]
        known[str(seed)] = {"arms": runs, "matched": matched, **measured}
        facts = run_facts(
            profile,
            command="python -m ddpo_utils record --seeds " + " ".join(known),
            samples_per_prompt=samples,
        )
        lines = "".join(f.to_json(orient="records", lines=True, force_ascii=False) for f in frames)
        write_text(results / "seeds.jsonl", lines)  # before the record that names its seeds
        write_json(results / "seeds.json", {**facts, "seeds": known})


SAMPLE = ("seed", "source", "prompt_id", "sample", "text", "tokens", "finished", "logp")


def load_seeds() -> tuple[dict[str, Any], pd.DataFrame]:
    """The recorded runs of further seeds: seeds.json, and their samples with seed, prompt, arm and step."""
    folder = data_dir() / "results"
    runs = json.loads((folder / "seeds.json").read_text(encoding="utf-8"))
    samples = read_samples(folder / "seeds.jsonl").merge(
        load_prompts()[["prompt_id", "prompt"]], on="prompt_id"
    )
    samples = samples[samples["seed"].astype(str).isin(runs["seeds"])]
    parts = samples["source"].str.partition("-")
    return runs, samples.assign(arm=parts[0], step=parts[2].astype(int))


def load_results() -> tuple[dict[str, Any], pd.DataFrame]:
    """The recorded runs: data/results/runs.json, and the samples with prompt, arm and step.

    arm is start, sft, dpo, ddpo or shuffled; step is the checkpoint's, 0 for start and sft; last marks each arm's
    final checkpoint.
    """
    folder = data_dir() / "results"
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    samples = read_samples(folder / "samples.jsonl").merge(
        load_prompts()[["prompt_id", "prompt"]], on="prompt_id"
    )
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
    save_file(
        {k: v.to(torch.bfloat16) for k, v in tensors.items()}, target / "adapter_model.safetensors"
    )
    for name in ("adapter_config.json", "run.json"):
        shutil.copyfile(source / name, target / name)


def real_models() -> dict[str, str]:
    """What the recorded runs of a real model, of notebook 05, say of the same claims, in words: claims (a) and (b).

    Diversity is semantic, by the encoder that made no weights; intervals are over prompts for the one seed that has
    samples of SFT, over seeds and prompts where there are more.
    """
    from ..corpus.stories import decisions
    from ..evaluation.statistics import difference, verdict
    from ..evaluation.usability import check_stories, prompt_table
    from ..training.reference import matched_step

    runs, samples = load_results()
    seeds, more = load_seeds()
    limit = decisions()["logprob_quantile"]
    of_seed = {42: (runs, samples)} | {
        int(s): (run, more[more["seed"] == int(s)]) for s, run in seeds["seeds"].items()
    }
    tables: dict[str, dict[int, Any]] = {}
    for seed, (run, own) in of_seed.items():
        bounds = tuple(np.quantile(run["authors_logp"], [limit, 1 - limit]))
        steps = own.groupby("arm")["step"].max()
        steps["matched"] = matched_step(run["arms"]["ddpo"]["kl"], run["arms"]["dpo"]["kl"])
        for name in ("sft", "dpo", "shuffled", "matched"):
            arm = "ddpo" if name == "matched" else name
            some = own[(own["arm"] == arm) & (own["step"] == steps.get(name, -1))]
            if len(some):
                checks = check_stories(some, logprob_range=bounds)
                tables.setdefault(name, {})[seed] = prompt_table(
                    some, checks, {"semantic": "wordllama"}
                )
    lost = difference(tables["dpo"][42]["semantic"], tables["sft"][42]["semantic"])
    arms = {"ddpo": "matched", "dpo": "dpo", "shuffled": "shuffled"}
    values = [
        {
            arm: np.array([tables[place][seed][column] for seed in of_seed])
            for arm, place in arms.items()
        }
        for column in ("semantic", "usable")
    ]
    said = verdict(*values, decisions()["usable_margin"])
    return {
        "a": f"these two adapters: DPO - SFT {lost} (cosine distance)",
        "b": f"{said['verdict'].partition(' (')[0]}; {len(of_seed)} seeds: DDPO - DPO {said['to_dpo']}, "
        f"- shuffled {said['to_shuffled']} (cosine distance, matched KL)",
    }
