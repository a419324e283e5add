"""Make the recorded runs: SFT and the preference arms, their samples, KLs and log-probs.

    python data/make/recorded_runs.py                  adapters/, results/runs.json, samples.jsonl
    python data/make/recorded_runs.py --seeds 43 44    results/seeds.json, seeds.jsonl
    python data/make/recorded_runs.py --development    results/development.json

About an hour on 2 cores for each seed. What is finished is kept in build/recorded: after an
interruption, call again. The settings are those of data/decisions.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_utils.corpus.stories import decisions, development_prompts, load_prompts, load_stories
from ddpo_utils.evaluation.usability import (
    Thresholds,
    check_stories,
    course_prompts,
    prompt_table,
)
from ddpo_utils.models.policy import load_adapter, load_policy
from ddpo_utils.models.sampling import read_samples
from ddpo_utils.models.scoring import mean_logps, token_kl
from ddpo_utils.settings import Profile, get_profile
from ddpo_utils.storage.files import read_json, replacing, write_json, write_text
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.all_arms import sample_adapter, train_arms
from ddpo_utils.training.arms import ARMS, training_stories
from ddpo_utils.training.reference import matched_step
from ddpo_utils.training.run_folder import run_facts
from recording import SMOKE_SETTINGS, folders, parser, run

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "python data/make/recorded_runs.py"
SAMPLES = 4
DEVELOPMENT_SAMPLES = 8
SAMPLE_COLUMNS = ["source", "prompt_id", "sample", "text", "tokens", "finished", "logp"]


@dataclass(frozen=True)
class Job:
    """Size and place of a record.

    Args:
        rules: data/decisions.json.
        prompts: prompt_id and prompt of what is sampled.
        work: folder of what is kept between runs.
        data: folder of the record, with the subfolders adapters and results.
        samples: of each prompt; None: the record's own number.
    """

    rules: dict[str, Any]
    prompts: pd.DataFrame
    work: Path
    data: Path
    samples: int | None = None

    def profile(self, **overrides: Any) -> Profile:
        """The laptop profile with the settings fixed in the rules."""
        chosen = self.rules["candidates"][self.rules["chosen"]]
        return get_profile("laptop", **self.rules["settings"] | chosen | overrides)

    def facts(self, profile: Profile, flags: str, samples: int) -> dict[str, Any]:
        """What the record says of its making."""
        command = f"{COMMAND} {flags}".strip()
        return run_facts(profile, command=command, samples_per_prompt=samples)


def checkpoints(folder: Path, steps: Sequence[int], arms: Sequence[str] = ARMS) -> dict[str, Path]:
    """Folders of the arms' checkpoints after these steps, by name, such as "dpo-14"."""
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
    """Write samples of each model to out/<name>.jsonl, and KLs from SFT to out/<name>.kl.json.

    Args:
        models: name -> adapter folder, or None for the starting model.
    """
    for name, adapter in models.items():
        frame = sample_adapter(profile, adapter, prompts, out / f"{name}.jsonl", samples, name)
        is_arm = "-" in name
        if is_arm and not (out / f"{name}.kl.json").is_file():
            one_a_prompt = frame[frame["sample"] == 0]
            write_json(out / f"{name}.kl.json", sampled_kl(profile, adapter, sft, one_a_prompt))


def sampled_kl(profile: Profile, adapter: Path, sft: Path, samples: pd.DataFrame) -> list[float]:
    """KL(adapter || sft) along each of the adapter's own samples, in nats a story."""
    model, tokenizer = load_policy(profile, adapter)
    load_adapter(model, sft, "ref")
    return [round(float(kl), 4) for kl in token_kl(model, tokenizer, samples)]


def score_samples(profile: Profile, folder: Path, sft: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The samples in folder/samples with their mean log-prob under SFT (logp, nats a token), and a
    dict with their KLs (kl) and the log-probs of the training authors' stories (authors_logp)."""
    import pandas as pd

    @cache
    def scorer() -> tuple[Any, Any]:
        return load_policy(profile, sft)

    def logps(path: Path, frame: pd.DataFrame) -> list[float]:
        if not path.is_file():
            write_json(path, [round(float(v), 4) for v in mean_logps(*scorer(), frame)])
        return read_json(path)

    frames, kls = [], {}
    for path in sorted((folder / "samples").glob("*.jsonl")):
        frame = read_samples(path)
        if path.with_suffix(".kl.json").is_file():
            kls[path.stem] = read_json(path.with_suffix(".kl.json"))
        frame["logp"] = logps(path.with_suffix(".logp.json"), frame)
        frames.append(frame[SAMPLE_COLUMNS])
    authors = logps(folder / "authors.logp.json", training_stories(profile))
    return pd.concat(frames, ignore_index=True), {"kl": kls, "authors_logp": authors}


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    write_text(path, frame.to_json(orient="records", lines=True, force_ascii=False))


def publish(source: Path, target: Path) -> None:
    """Copy an adapter in bfloat16 (half the size) with its configuration and record."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source / "adapter_model.safetensors")
    half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    with replacing(target / "adapter_model.safetensors") as part:
        save_file(half, part)
    for name in ("adapter_config.json", "run.json"):
        shutil.copyfile(source / name, target / name)


def record_runs(job: Job) -> None:
    """Train all arms with the chosen settings and store adapters, samples, logs, KLs and log-probs.

    samples.jsonl has samples of the starting model, SFT and the arms' checkpoints after
    `sampled_steps`. KLs are from SFT, in nats a story, on one sample a prompt.
    """
    samples = job.samples or SAMPLES
    profile, sft, folder = job.profile(), job.work / "sft", job.work / job.rules["chosen"]
    runs = train_arms(profile, training_stories(profile), folder, sft=sft)
    models = {"start": None, "sft": sft, **checkpoints(folder, job.rules["sampled_steps"])}
    sample_models(profile, models, job.prompts, folder / "samples", samples, sft)
    frame, scores = score_samples(profile, folder, sft)
    record = {**job.facts(profile, "", samples), "arms": runs, **scores}
    write_json(job.data / "results" / "runs.json", record)
    write_frame(job.data / "results" / "samples.jsonl", frame)
    for source in (sft, *(folder / arm for arm in ARMS)):
        publish(source, job.data / "adapters" / source.name)


def record_seeds(job: Job, seeds: Sequence[int]) -> None:
    """Repeat the runs, SFT included, with further seeds; seeds on record are kept.

    seeds.jsonl has samples of each arm's last checkpoint and of DDPO's at matched KL.
    """
    import pandas as pd

    record, lines = job.data / "results" / "seeds.json", job.data / "results" / "seeds.jsonl"
    samples = job.samples or SAMPLES
    known, frames = {}, []
    if record.is_file():
        known = read_json(record)["seeds"]
        frames = [read_samples(lines)]
    for seed in seeds:
        if str(seed) in known:
            continue
        profile, folder = job.profile(seed=seed), job.work / f"seed-{seed}"
        runs = train_arms(profile, training_stories(profile), folder)
        matched = matched_step(runs["ddpo"]["kl"], runs["dpo"]["kl"])
        models = checkpoints(folder, [profile.steps]) | checkpoints(folder, [matched], ("ddpo",))
        sample_models(profile, models, job.prompts, folder / "samples", samples, folder / "sft")
        frame, scores = score_samples(profile, folder, folder / "sft")
        frames = [before[before["seed"] != seed] for before in frames]
        frames.append(frame.assign(seed=seed)[["seed", *SAMPLE_COLUMNS]])
        for arm in runs.values():
            del arm["log"]
        known[str(seed)] = {"arms": runs, "matched": matched, **scores}
        facts = job.facts(profile, "--seeds " + " ".join(known), samples)
        write_frame(lines, pd.concat(frames))  # before the record, which says which seeds are there
        write_json(record, {**facts, "seeds": known})


def record_development(job: Job) -> None:
    """Train plain DPO with each candidate; store what its last checkpoint's samples are worth.

    For SFT and DPO: the share of usable stories (without the log-prob check), KL from SFT (nats a
    story), semantic diversity and words, on the development prompts.
    """
    samples = job.samples or DEVELOPMENT_SAMPLES
    stories = load_stories()
    held_out = stories[stories["prompt_id"].isin(development_prompts())]
    prompts = held_out.drop_duplicates("prompt_id")
    sft = job.work / "sft"
    trials = {}
    for name, candidate in job.rules["candidates"].items():
        profile = get_profile("laptop", **job.rules["settings"] | candidate)
        folder = job.work / name
        train_arms(profile, training_stories(profile), folder, ("dpo",), sft)
        models = {"sft": sft, **checkpoints(folder, [profile.steps], ("dpo",))}
        out = folder / "development"
        sample_models(profile, models, prompts, out, samples, sft)
        for path in sorted(out.glob("*.jsonl")):
            trials[f"{name}/{path.stem}"] = _trial(path, profile, Thresholds.read(job.rules))
    facts = job.facts(profile, "--development", samples)
    write_json(job.data / "results" / "development.json", {**facts, "trials": trials})


def _trial(path: Path, profile: Profile, thresholds: Thresholds) -> dict[str, float]:
    """Means of a file of samples, and of its KLs where there are some."""
    frame = read_samples(path)
    checks = check_stories(frame, thresholds, course_prompts())
    table = prompt_table(frame, checks, {"semantic": profile.semantic})
    means = table[["usable", "words", "semantic"]].mean()
    row = {name: round(float(value), 3) for name, value in means.items()}
    if path.with_suffix(".kl.json").is_file():
        values = read_json(path.with_suffix(".kl.json"))
        row["kl"] = round(sum(values) / len(values), 3)
    return row


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="further seeds")
    flags.add_argument(
        "--development", action="store_true", help="the trials that chose the settings"
    )
    args = flags.parse_args()
    work, data = folders(args, "recorded")
    job = Job(decisions(), load_prompts(), work, data)
    if args.smoke:
        rules = decisions()
        rules |= {"settings": rules["settings"] | SMOKE_SETTINGS, "sampled_steps": [1, 2]}
        job = Job(rules, load_prompts().head(3), work, data, samples=2)
    name = "runs"
    if args.development or args.seeds:
        name = "development" if args.development else "seeds"
    with locked(data / "results" / f"{name}.json"):
        if args.development:
            record_development(job)
        elif args.seeds:
            record_seeds(job, args.seeds)
        else:
            record_runs(job)


if __name__ == "__main__":
    run(main)
