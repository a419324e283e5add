"""The runs of the small world, by the rules of data/claims.json, which was fixed before any test world was looked at.

    python -m ddpo_utils record --world --development    tries each method's candidates on the tuning worlds
    python -m ddpo_utils record --world 1 2 3            runs test worlds; data/results/world/<seed>.json each

Stories, weights, pairs, trainers and sampling are those of every profile: the world brings a model, a frame of stories
with scores, and a parser. What is finished is kept, so a run that was broken off goes on; several processes may run
different seeds at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.policy import load_policy
from ..models.sampling import sample_stories
from ..pairs import make_pairs
from ..settings import CourseError, Profile, data_dir, get_profile, work_dir
from ..training.arms import train_arms
from ..training.recipes import response_weights, train_pairs, train_sft
from ..training.reference import matched_step
from ..training.runs import run_facts, write_json
from .grammar import World, all_prompts
from .language_model import make_model
from .measures import measure

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Seed", "load_world", "record_world", "rules", "tune"]

METHODS = {  # tuned as one -> the arms that take its settings
    "dpo": ("dpo",),
    "ddpo": ("ddpo", "ddpo-sem", "ddpo-sty", "shuffled"),
    "divpo": ("divpo",),
    "orpo": ("orpo",),
    "dorpo": ("dorpo",),
}


def rules() -> dict[str, Any]:
    """data/claims.json: sizes, settings, seeds, candidates, contrasts and margins, with explanations."""
    return json.loads((data_dir() / "claims.json").read_text(encoding="utf-8"))


@dataclass
class Seed:
    """One world with its model, stories and SFT adapter, all in `folder`; made when they are first asked for.

    Args:
        seed: of everything that is drawn.
        folder: where it lies; a folder belongs to one seed and one choice of sizes.
        sizes: numbers of prompts, samples, stories and steps of the model; those of the plan.
    """

    seed: int
    folder: Path
    sizes: dict[str, int] = field(default_factory=lambda: rules()["sizes"])

    @cached_property
    def prompts(self) -> list[str]:
        return all_prompts(self.seed)

    @cached_property
    def profile(self) -> Profile:
        self.folder.mkdir(parents=True, exist_ok=True)
        held_out, steps = self.sizes["test_prompts"], self.sizes["model_steps"]
        model = make_model(World(self.seed), self.folder / "model", held_out, steps)
        data = self.folder / "stories.jsonl"
        if not data.is_file():
            self.stories(World(self.seed)).to_json(data, orient="records", lines=True)
        return get_profile(
            "laptop", model=str(model), data=str(data), seed=self.seed, **rules()["settings"]
        )

    @cached_property
    def sft(self) -> Path:
        train_sft(self.profile, self.stories(World(self.seed)), self.folder / "sft")
        return self.folder / "sft"

    def stories(self, world: World, each: int = 12, prompts: int = 0) -> pd.DataFrame:
        """Training stories with scores; without `prompts` as many prompts as make the usual number of stories."""
        own = self.prompts[self.sizes["test_prompts"] :][: prompts or self.sizes["stories"] // each]
        return world.stories(own, each).assign(source="world", writer="", split="train")

    def cell(self, rho: float, arms: Sequence[str]) -> dict[str, Path]:
        """Train these arms at one correlation of quality with rarity; adapters by name."""
        folder, stories = self.folder / f"rho{rho:+.1f}", self.stories(World(self.seed, rho))
        for method, names in METHODS.items():
            some = [arm for arm in arms if arm in names]
            if some:
                train_arms(replace(self.profile, **tuned(method)), stories, folder, some, self.sft)
        return {arm: folder / arm for arm in arms}

    def few(self, each: int, name: str, floor: float = 0.0, top: bool = False) -> Path:
        """DDPO at rho 0 with `each` responses a prompt and as many pairs as ever: more prompts make up for it.

        Args:
            top: of every prompt take only the pairs with the best winners, half of them, from twice as many prompts.
        """
        folder, world, count = self.folder / "few" / name, World(self.seed), self.sizes["stories"]
        stories = self.stories(world, each, (2 if top else 1) * count // each)
        pairs = make_pairs(stories, seed=self.seed)
        profile = replace(self.profile, floor=floor, **tuned("ddpo"))
        weight = response_weights(stories, pairs, profile).loc[pairs["chosen_row"]].to_numpy()
        if top:
            won = stories["score"].loc[pairs["chosen_row"]].to_numpy()
            rank = (
                pairs.assign(won=-won).groupby("prompt_id")["won"].rank(method="first").to_numpy()
            )
            keep = rank <= each / 4
            pairs, weight = pairs[keep].reset_index(drop=True), weight[keep]
        train_pairs(profile, pairs, weight, folder, self.sft, "ddpo")
        return folder

    def sample(self, name: str, adapter: Path, temperature: float = 1.0) -> pd.DataFrame:
        """Samples of an adapter on the test prompts, without truncation: the distribution itself is what counts."""
        import pandas as pd

        prompts = self.prompts[: self.sizes["test_prompts"]]
        model, tokenizer = load_policy(self.profile, adapter)
        return sample_stories(
            model,
            tokenizer,
            pd.DataFrame({"prompt_id": prompts, "prompt": prompts}),
            self.folder / "samples" / f"{name}.jsonl",
            self.sizes["samples"],
            self.profile.max_new_tokens,
            self.profile.sample_batch,
            self.seed,
            name,
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
        )

    def row(
        self, rho: float, arm: str, adapter: Path, temperature: float = 1.0, name: str = ""
    ) -> dict[str, Any]:
        """One line of the results: what an arm's samples are worth in the world with this rho."""
        encoders = {
            "distance semantic": self.profile.judge_semantic,
            "distance style": self.profile.judge_style,
        }
        samples = self.sample(name or f"rho{rho:+.1f}-{arm}", adapter, temperature)
        figures = measure(samples, World(self.seed, rho), encoders)
        record, more = adapter / "run.json", {}
        if record.is_file():
            run = json.loads(record.read_text(encoding="utf-8"))
            more = {
                "steps": run["log"][-1]["step"],
                "kl": next(reversed(run.get("kl", {}).values()), None),
            }
            more |= {k: run[k] for k in ("pairs", "mean_weight") if k in run}
        return {
            "rho": rho,
            "arm": arm,
            **{k: None if v != v else round(v, 5) for k, v in figures.items()},
            **more,
        }


def tuned(method: str) -> dict[str, Any]:
    """The settings chosen for a method on the tuning worlds."""
    return rules()["chosen"].get(method, {})


def tune() -> None:
    """Every method with every candidate on the tuning worlds at rho 0: data/results/world_tuning.json."""
    plan, rows = rules(), []
    for seed in plan["tuning_seeds"]:
        for method, candidates in plan["candidates"].items():
            arm = method.removesuffix("-steps")
            for candidate in candidates:
                own = Seed(seed, work_dir("world") / f"seed-{seed}")
                tag = "-".join(f"{k}={v}" for k, v in candidate.items())
                folder = own.folder / "tuning" / tag
                profile = replace(own.profile, **candidate)
                train_arms(profile, own.stories(World(seed)), folder, [arm], own.sft)
                for hot in (1.0, *(plan["temperatures"] if method == "dpo" else ())):
                    name = f"tuning-{method}-{tag}" + f"-hot{hot}" * (hot != 1)
                    row = own.row(0.0, method, folder / arm, hot, name)
                    rows.append({"seed": seed, "candidate": candidate, "temperature": hot, **row})
                    print(json.dumps(rows[-1]), flush=True)
        rows.append(
            {
                "seed": seed,
                "candidate": {},
                "temperature": 1.0,
                **own.row(0.0, "sft", own.sft, name="sft"),
            }
        )
    facts = run_facts(own.profile, command="python -m ddpo_utils record --world --development")
    write_json(data_dir() / "results" / "world_tuning.json", {**facts, "rows": rows})


def run_seed(own: Seed, rho: float) -> list[dict[str, Any]]:
    """All arms of one test world at this rho, a row each; at 0 more of them than elsewhere in the sweep."""
    plan, folder = rules(), own.folder / f"rho{rho:+.1f}"
    adapters = own.cell(
        rho, plan["sweep_arms"] if rho else [arm for arms in METHODS.values() for arm in arms]
    )
    if rho == 0:  # DivPO has fewer pairs: once more with as many steps as the others take
        profile = replace(own.profile, **tuned("divpo-steps"))
        train_arms(profile, own.stories(World(own.seed)), folder / "steps", ["divpo"], own.sft)
        adapters["divpo-steps"] = folder / "steps" / "divpo"
        adapters |= {name: own.few(name=name, **how) for name, how in plan["few"].items()}
    kl = {
        arm: json.loads((adapters[arm] / "run.json").read_text(encoding="utf-8"))["kl"]
        for arm in ("dpo", "ddpo")
    }
    step = matched_step(kl["dpo"], kl["ddpo"])
    matched = adapters["dpo"] / "checkpoints" / f"checkpoint-{step}"
    rows = [own.row(rho, "sft", own.sft, name="sft")]
    rows += [own.row(rho, arm, adapter) for arm, adapter in adapters.items()]
    rows += [own.row(rho, "dpo-matched", matched) | {"steps": step, "kl": kl["dpo"][str(step)]}]
    return [*rows, own.row(rho, "dpo-hot", adapters["dpo"], plan["temperature"])]


def record_world(seeds: Sequence[int]) -> None:
    """Run the test worlds of these seeds and store each in data/results/world/<seed>.json; those there are kept.

    Raises:
        CourseError: no seed, one below 0, or one of the worlds that served for tuning.
    """
    plan = rules()
    if not seeds or min(seeds) < 0 or set(seeds) & set(plan["tuning_seeds"]):
        raise CourseError(
            f"Name test worlds, none below 0, such as {plan['seeds']}; {plan['tuning_seeds']} served for tuning."
        )
    for seed in seeds:
        path = data_dir() / "results" / "world" / f"{seed}.json"
        if not path.is_file():
            own = Seed(seed, work_dir("world") / f"seed-{seed}")
            rows = [row for rho in plan["rhos"] for row in run_seed(own, rho)]
            facts = run_facts(own.profile, command=f"python -m ddpo_utils record --world {seed}")
            write_json(path, {**facts, "rows": rows})
        print(f"world {seed}: {path.name}", flush=True)


def load_world() -> pd.DataFrame:
    """The recorded test worlds as one frame: seed, rho, arm and the figures of `measure`."""
    import pandas as pd

    frames = []
    for path in sorted(
        (data_dir() / "results" / "world").glob("*.json"), key=lambda p: int(p.stem)
    ):
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        frames.append(pd.DataFrame(rows).assign(seed=int(path.stem)))
    return pd.concat(frames, ignore_index=True)
