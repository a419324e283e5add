"""Train arms on a real model's own tiny stories, whose quality is known, by data/tiny_stories.json.

    python data/make/tiny_stories.py 1 2 3         first tier: results/tiny_stories/<seed>.json each
    python data/make/tiny_stories.py --more 1 2    the arms of the second tier
    python data/make/tiny_stories.py --orpo 1 2    ORPO, DORPO and its control
    python data/make/tiny_stories.py --develop 91 92    candidates on development seeds and prompts

SmolLM2 as it comes writes the stories and is the reference. Each seed draws everything anew:
stories, pairs, order of training, test samples. What is finished is kept in build/tiny_stories:
after an interruption, call again. Several processes may make different seeds at the same time.
A seed of the first tier takes at most 45 minutes on 2 cores with bfloat16 arithmetic, and hours on
a CPU without it, since the first two tiers compute in bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ddpo_utils.corpus.text import first_words, words
from ddpo_utils.course.recorded import load_plan
from ddpo_utils.deviation import diversity, raw_deviation
from ddpo_utils.embeddings.encoders import embed_corpus
from ddpo_utils.evaluation.statistics import mean_interval
from ddpo_utils.models.policy import load_adapter, load_policy, lora_config, number_type
from ddpo_utils.models.scoring import mean_logps, token_kl
from ddpo_utils.settings import CourseError, Profile, get_profile, progress_bar
from ddpo_utils.small_world.short_sampling import sample_short
from ddpo_utils.small_world.tiny_stories import (
    common_words,
    story_quality,
    tiny_prompts,
    typical_quality,
)
from ddpo_utils.storage.files import read_json, read_jsonl, write_json, write_jsonl
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.all_arms import train_arms
from ddpo_utils.training.run_folder import run_facts
from recording import folders, parser, run

COMMAND = "python data/make/tiny_stories.py"
PROMPTS_AT_ONCE = 40
MEASURES = {"minilm": "semantic", "stylometric": "style"}  # made the weights
MEASURES |= {"wordllama": "semantic, judge", "delta": "style, judge"}
CUT = 12  # words at which diversity is compared at equal length
FLAGS = {"first_tier": "", "second_tier": "--more", "orpo_tier": "--orpo"}
OWN_SAMPLES = 2  # a prompt, along which the KL of an arm's end is measured


@dataclass(frozen=True)
class Run:
    """One seed: its stories, arms and samples; what is finished in `folder` is kept."""

    seed: int
    folder: Path
    plan: Mapping[str, Any]

    def profile(self, **overrides: Any) -> Profile:
        settings = {"data": str(self.folder / "stories.jsonl"), "seed": self.seed}
        return get_profile("laptop", **settings | self.plan["settings"] | overrides)

    @cached_property
    def start(self) -> Path:
        """An adapter that changes nothing: the reference in the form that the arms start from."""
        from peft import get_peft_model

        folder = self.folder / "start"
        if not (folder / "adapter_config.json").is_file():
            model, _ = load_policy(self.profile())
            torch.manual_seed(self.seed)
            get_peft_model(model, lora_config(self.profile())).save_pretrained(folder)
        return folder

    def sample(
        self, name: str, adapter: Path | None, split: str, copies: int, temperature: float = 0.0
    ) -> pd.DataFrame:
        """Samples on the split's prompts, with `logp`: their mean log-prob under the reference."""
        path = self.folder / "samples" / f"{name}.jsonl"
        if not path.is_file():
            prompts = tiny_prompts(split).head(self.plan["prompts"][split])
            model, tokenizer = load_policy(self.profile(), adapter)
            model.to(number_type(self.profile())).eval()  # the adapter too
            frames = []
            starts = range(0, len(prompts), PROMPTS_AT_ONCE)
            for start in progress_bar(starts, desc=f"samples of {name}", leave=False):
                part = prompts.iloc[start : start + PROMPTS_AT_ONCE]
                answers = sample_short(
                    model,
                    tokenizer,
                    part["prompt"].tolist(),
                    copies,
                    self.plan["settings"]["max_new_tokens"],
                    seed=1000 * self.seed + start,
                    temperature=temperature or self.plan["temperature"],
                )
                repeated = part.loc[part.index.repeat(copies)].reset_index(drop=True)
                frames.append(repeated.join(pd.DataFrame(answers)))
            frame = pd.concat(frames, ignore_index=True)
            reference, tokenizer = load_policy(self.profile())
            told = frame["text"] != ""
            frame["logp"] = np.nan
            frame.loc[told, "logp"] = mean_logps(reference, tokenizer, frame[told])
            write_jsonl(path, json.loads(frame.to_json(orient="records")))
        frame = pd.DataFrame(read_jsonl(path))
        return frame.assign(logp=frame["logp"].astype(float))

    @cached_property
    def standard(self) -> tuple[float, float]:
        """Mean and standard deviation of the reference's log-probs on its own training stories."""
        logps = self.sample("train", None, "train", self.plan["responses"])["logp"]
        return float(logps.mean()), float(logps.std())

    def scored(self, stories: pd.DataFrame) -> pd.DataFrame:
        """The stories with the parts of their quality; an empty one is as bad as the worst."""
        parts = story_quality(stories, common_words())
        logps = stories["logp"].fillna(stories["logp"].min())
        typical = typical_quality(parts["quality"], logps, *self.standard)
        return stories.join(parts.assign(typical=typical))

    def stories(self) -> pd.DataFrame:
        """The training stories with scores; empty ones and copies within a prompt are left out."""
        frame = self.scored(self.sample("train", None, "train", self.plan["responses"]))
        frame = frame[frame["text"] != ""].drop_duplicates(["prompt_id", "text"])
        frame = frame.assign(score=frame[self.plan["score"]], source="own", writer="")
        frame = frame.assign(split="train").reset_index(drop=True)
        path = Path(self.profile().data)
        if not path.is_file():
            write_jsonl(path, json.loads(frame.to_json(orient="records")))
        return frame

    def train(self, arm: str, folder: str = "arms", **settings: Any) -> Path:
        """An arm's adapter, trained with the method's settings and these."""
        method = "ddpo" if arm.startswith(("ddpo", "shuffled")) else arm.partition("-")[0]
        chosen = self.plan["chosen"].get(method, {})
        if not chosen | settings:
            raise CourseError(
                f"The plan has chosen nothing for {method}: try its candidates (--develop) and "
                "write the choice into data/tiny_stories.json."
            )
        profile = self.profile(**chosen | settings)
        place = self.folder / folder
        train_arms(profile, self.stories(), place, [arm], self.start, too_long=0)
        return place / arm

    def own_kl(self, adapter: Path, samples: pd.DataFrame) -> float:
        """KL from the reference along the adapter's own samples, in nats a story."""
        some = samples[samples["text"] != ""].groupby("prompt_id").head(OWN_SAMPLES)
        model, tokenizer = load_policy(self.profile(), adapter)
        load_adapter(model, self.start, "ref")
        return float(token_kl(model, tokenizer, some).mean())


def by_prompt(stories: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt, sorted by id, of an arm's samples: quality, diversity, lengths, usable.

    A story is usable if the model ended it, it uses two of the three words, and half of its
    sequences are its own.
    """
    usable = stories["finished"] & (stories["told"] > 0.5) & (stories["own"] >= 0.5)
    names = ["quality", "typical", "told", "form", "own", "readable", "finished", "logp"]
    frame = stories.assign(usable=usable, words=[len(words(text)) for text in stories["text"]])
    groups = frame["prompt_id"].to_numpy()
    table = frame.groupby("prompt_id")[[*names, "usable", "words"]].mean()
    for encoder, measure in MEASURES.items():
        whole = embed_corpus(frame["text"].tolist(), encoder)
        cut = embed_corpus([first_words(text, CUT) for text in frame["text"]], encoder)
        table[measure] = diversity(whole, groups)
        table[f"{measure}, {CUT} words"] = diversity(cut, groups)
        enough = frame[usable].groupby("prompt_id").size()
        enough = enough[enough > 1].index
        kept = usable.to_numpy() & np.isin(groups, enough)
        table[f"{measure}, usable"] = np.nan
        if kept.any():
            table.loc[enough, f"{measure}, usable"] = diversity(whole[kept], groups[kept])
    return table


def rounded(table: pd.DataFrame) -> dict[str, list[float | None]]:
    """Column -> its values, one a prompt, as JSON holds them."""
    return {
        name: [None if np.isnan(value) else round(float(value), 4) for value in table[name]]
        for name in table
    }


def record_arm(
    run_: Run, name: str, adapter: Path | None, split: str, copies: int, **facts: Any
) -> dict[str, Any]:
    """A row of the record: an arm's figures prompt by prompt."""
    temperature = facts.get("temperature", 0.0)
    label = f"{split}-{name}-{facts['step']}" + (f"-{temperature}" if temperature else "")
    samples = run_.scored(run_.sample(label, adapter, split, copies, temperature))
    return {"arm": name, **facts, "samples": copies, "prompts": rounded(by_prompt(samples))}


def path_of(run_: Run, name: str, adapter: Path) -> list[dict[str, Any]]:
    """The rows of an arm's checkpoints before its end, on the test prompts."""
    kl = read_json(adapter / "run.json")["kl"]
    rows = []
    for step in sorted(kl, key=int)[:-1]:
        checkpoint = adapter / "checkpoints" / f"checkpoint-{step}"
        facts = {"step": int(step), "kl": round(kl[step], 4)}
        copies = run_.plan["path_samples"]
        rows.append(record_arm(run_, name, checkpoint, "test", copies, **facts))
    return rows


def end_of(run_: Run, name: str, adapter: Path, split: str) -> dict[str, Any]:
    """The row of an arm's end, with the KL along its own samples, and what its run did."""
    record = read_json(adapter / "run.json")
    step = max(record["kl"], key=int)
    copies = run_.plan["samples"]
    facts = {"step": int(step), "kl": round(record["kl"][step], 4)}
    end = record_arm(run_, name, adapter, split, copies, **facts)
    samples = run_.sample(f"{split}-{name}-{step}", adapter, split, copies)
    norms = [entry["grad_norm"] for entry in record["log"] if "grad_norm" in entry]
    return end | {
        "own_kl": round(run_.own_kl(adapter, samples), 3),
        "clipped_share": record["clipped_share"],
        "mean_weight": record["mean_weight"],
        "effective_pairs": record["effective_pairs"],
        "seconds": record["seconds"],
        "norms": [round(norm, 2) for norm in norms],
    }


def record_seed(run_: Run, tier: str, data: Path) -> None:
    """Make the rows of the tier's arms that results/tiny_stories/<seed>.json lacks."""
    path = data / "results" / "tiny_stories" / f"{run_.seed}.json"
    command = " ".join(filter(None, (COMMAND, FLAGS[tier], str(run_.seed))))
    with locked(path):
        recorded = read_json(path) if path.is_file() else {}
        rows = recorded.get("rows", [])
        known = {row["arm"] for row in rows}
        if "start" not in known:
            rows.append(record_arm(run_, "start", None, "test", run_.plan["samples"], step=0))
        missing = [name for name in run_.plan[tier] if name not in known]
        made = run_facts(run_.profile(), command=command)
        for name in missing:
            settings = dict(run_.plan[tier][name])
            arm = settings.pop("arm", name)
            temperature = settings.pop("temperature", 0.0)
            adapter = run_.train(arm, name if settings else "arms", **settings)
            if temperature:
                step = read_json(adapter / "run.json")["log"][-1]["step"]
                facts = {"step": step, "temperature": temperature}
                copies = run_.plan["samples"]
                rows.append(record_arm(run_, name, adapter, "test", copies, **facts))
            else:
                rows += path_of(run_, name, adapter)
                rows.append(end_of(run_, name, adapter, "test"))
            if "stories" not in made:  # after training: an arm without settings is refused first
                made["stories"] = facts_of(run_)
            recorded |= made if tier == "first_tier" else {tier: made}
            write_json(path, recorded | {"rows": rows}, indent=None)
            print(f"seed {run_.seed}: {name}", flush=True)


def facts_of(run_: Run) -> dict[str, Any]:
    """How quality and deviation go together in the training stories, and how many are cut."""
    stories = run_.stories()
    facts: dict[str, Any] = {"count": len(stories), "cut": 1 - float(stories["finished"].mean())}
    for encoder, measure in list(MEASURES.items())[:2]:
        embeddings = embed_corpus(stories["text"].tolist(), encoder)
        raw = raw_deviation(embeddings, stories["prompt_id"].to_numpy())
        for score in ("quality", "typical"):
            correlation = np.corrcoef(raw, stories[score])[0, 1]
            facts[f"correlation of {score} with {measure} deviation"] = round(correlation, 3)
    return facts


def record_development(run_: Run, methods: Sequence[str], data: Path) -> None:
    """Train the methods' candidates that development.json lacks; each row is stored at once."""
    plan, seed = run_.plan, run_.seed
    path = data / "results" / "tiny_stories" / "development.json"
    rows = read_json(path)["rows"] if path.is_file() else []
    known = [(row["arm"], row["candidate"]) for row in rows if row["seed"] == seed]
    if ("start", {}) not in known:
        row = record_arm(run_, "start", None, "development", plan["samples"], step=0)
        store_development(path, run_, {"seed": seed, "candidate": {}} | row)
    for method in methods:
        for candidate in plan["candidates"][method]:
            if (method, candidate) in known:
                continue
            tag = "-".join(f"{key}={value}" for key, value in candidate.items())
            adapter = run_.train(method, f"development/{tag}", **candidate)
            row = end_of(run_, f"{method}-{tag}", adapter, "development") | {"arm": method}
            store_development(path, run_, {"seed": seed, "candidate": candidate} | row)
            score = np.mean(row["prompts"][plan["score"]])
            print(f"{seed} {method} {tag}: score {score:.3f}, KL {row['kl']}", flush=True)


def store_development(path: Path, run_: Run, row: dict[str, Any]) -> None:
    """Add a row to development.json, with its number type and code; other facts are the first's."""
    facts = run_facts(run_.profile(), command=f"{COMMAND} --develop")
    row |= {"dtype": run_.plan["settings"]["dtype"], "code": facts["code"]}
    with locked(path):  # another process may have added another seed's
        recorded = read_json(path) if path.is_file() else {}
        rows = sorted([*recorded.get("rows", []), row], key=lambda row: row["seed"])
        pairs = [row for row in rows if row["arm"] in ("dpo", "ddpo")]
        tried = sum(len(run_.plan["candidates"][method]) for method in ("dpo", "ddpo"))
        power = recorded.get("power", {})
        if not power and len(pairs) == tried * len(run_.plan["development_seeds"]):
            power = power_of(rows, len(run_.plan["seeds"]))
        write_json(path, {**facts, **recorded, "power": power, "rows": rows}, indent=None)


def power_of(rows: Sequence[Mapping[str, Any]], seeds: int, draws: int = 4000) -> dict[str, Any]:
    """Whether so many seeds find a DDPO - DPO as large as a quarter of what DPO loses.

    The spread between seeds is that of DDPO - DPO at the same rate on the development seeds, pooled
    over the rates; each draw is a set of seeds with that spread, and counts where its 95% t
    interval lies above 0.
    """
    found = {}
    for measure in ("semantic, judge", "style, judge"):
        values = {}
        for row in rows:
            key = (row["arm"], str(row["candidate"]), row["seed"])
            values[key] = float(np.mean(row["prompts"][measure]))
        lost, gaps = [], {}
        for (arm, candidate, seed), value in values.items():
            if arm == "dpo":
                lost.append(values["start", "{}", seed] - value)
            elif arm == "ddpo":
                gaps.setdefault(candidate, []).append(value - values["dpo", candidate, seed])
        variances = [np.var(own, ddof=1) for own in gaps.values()]
        spread = float(np.sqrt(np.mean(variances)))
        effect = float(np.mean(lost)) / 4
        drawn = np.random.default_rng(0).normal(effect, spread, (draws, seeds))
        hits = [mean_interval(own).low > 0 for own in drawn]
        facts = {"effect": effect, "spread between seeds": spread, "found": float(np.mean(hits))}
        found[measure] = {name: round(value, 4) for name, value in facts.items()}
    return found


def smaller(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan at trial size."""
    sizes = {"responses": 4, "samples": 2, "path_samples": 2}
    sizes["prompts"] = {"train": 6, "development": 2, "test": 2}
    short = {"steps": 2, "checkpoint_every": 1, "max_new_tokens": 12, "batch_size": 4}
    short |= {"micro_batch": 4, "dtype": "float32"}  # bfloat16 is slow on many processors
    sizes["settings"] = plan["settings"] | short
    sizes["candidates"] = {method: tried[:1] for method, tried in plan["candidates"].items()}
    return plan | sizes


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("seeds", nargs="*", type=int, metavar="SEED", help="seeds to make")
    flags.set_defaults(tier="first_tier")
    for tier, flag in list(FLAGS.items())[1:]:
        flags.add_argument(
            flag, dest="tier", action="store_const", const=tier, help=f"arms of the plan's {tier}"
        )
    flags.add_argument("--develop", action="store_true", help="the trials that chose the settings")
    args = flags.parse_args()
    work, data = folders(args, "tiny_stories")
    plan = load_plan("tiny_stories")
    plan = smaller(plan) if args.smoke else plan
    known = plan["development_seeds" if args.develop else "seeds"]
    if not args.seeds or not set(args.seeds) <= set(known):
        raise CourseError(f"Name seeds of data/tiny_stories.json: of {known}.")
    for seed in args.seeds:
        folder = work / f"seed-{seed}"
        own = Run(seed, folder, plan)
        settings = plan["settings"] | plan["orpo_settings"]
        exact = Run(seed, folder / "orpo", plan | {"settings": settings})
        if args.develop:
            record_development(own, ("dpo", "ddpo"), data)
            record_development(exact, ("orpo", "dorpo"), data)
        else:
            record_seed(exact if args.tier == "orpo_tier" else own, args.tier, data)


if __name__ == "__main__":
    run(main)
