"""One small world as an experiment: its model, SFT, the arms, their samples and what is counted.

Weights, pairs, trainers and sampling are those of every profile. The world adds a language model,
stories with scores, and a parser that reads what a sample tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..deviation import diversity
from ..embeddings.encoders import load_encoder
from ..settings import Profile, get_profile
from ..storage.files import read_json, replacing
from ..training.all_arms import sample_adapter, train_arms
from ..training.arms import Arm
from ..training.one_arm import train_sft
from .grammar import DIMENSIONS, World, all_prompts, parse
from .language_model import make_model

NO_TRUNCATION = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
INVALID = -3.0  # quality of an invalid sample; one of the grammar's stories in seventy is worse
COMPARED = 6  # valid samples of a prompt among which distinct modes are counted
RESPONSES = 12  # a prompt


@dataclass(frozen=True)
class Seed:
    """One world with its model, stories and SFT adapter; what is finished in `folder` is kept."""

    seed: int  # of everything that is drawn
    folder: Path  # of one seed and one choice of sizes
    sizes: Mapping[str, int]  # test_prompts, samples (of each), stories (to train on), model_steps
    settings: Mapping[str, Any]  # of the profile, for all arms
    chosen: Mapping[str, Mapping[str, Any]]  # further settings of a method, by its name

    @cached_property
    def prompts(self) -> list[str]:
        return all_prompts(self.seed)

    def profile(self, **overrides: Any) -> Profile:
        """The settings of this world's runs."""
        settings = {
            "model": str(self.folder / "model"),
            "data": str(self.folder / "stories.jsonl"),
            "seed": self.seed,
        }
        return get_profile("laptop", **settings | self.settings | overrides)

    def stories(self, rho: float = 0.0, each: int = RESPONSES, prompts: int = 0) -> pd.DataFrame:
        """Training stories with scores, of as many prompts as make the usual number of stories."""
        first = self.sizes["test_prompts"]
        last = first + (prompts or self.sizes["stories"] // each)
        stories = World(self.seed, rho).stories(self.prompts[first:last], each)
        return stories.assign(source="world", writer="", split="train")

    def sft(self) -> Path:
        """The SFT adapter's folder; model, stories and adapter are made at the first call."""
        self.folder.mkdir(parents=True, exist_ok=True)
        profile, sizes = self.profile(), self.sizes
        world = World(self.seed)
        make_model(world, Path(profile.model), sizes["test_prompts"], sizes["model_steps"])
        stories = self.stories()
        if not Path(profile.data).is_file():
            with replacing(profile.data) as part:
                stories.to_json(part, orient="records", lines=True)
        train_sft(profile, stories, self.folder / "sft")
        return self.folder / "sft"

    def train(self, rho: float, arms: Sequence[str]) -> dict[str, Path]:
        """The adapters of these arms, trained at one correlation of quality with rarity."""
        folder = self.folder / f"rho{rho:+.1f}"
        stories = self.stories(rho)
        sft = self.sft()
        of_method: dict[str, list[str]] = {}
        for arm in arms:  # a method's settings serve all of its arms
            of_method.setdefault(Arm.parse(arm).method, []).append(arm)
        for method, names in of_method.items():
            profile = self.profile(**self.chosen.get(method, {}))
            train_arms(profile, stories, folder, names, sft)
        return {arm: folder / arm for arm in arms}

    def sample(self, name: str, adapter: Path | None, temperature: float = 1.0) -> pd.DataFrame:
        """An adapter's samples on the test prompts, without truncation of the distribution."""
        import pandas as pd

        texts = self.prompts[: self.sizes["test_prompts"]]
        return sample_adapter(
            self.profile(),
            adapter,
            pd.DataFrame({"prompt_id": texts, "prompt": texts}),
            self.folder / "samples" / f"{name}.jsonl",
            self.sizes["samples"],
            name,
            temperature=temperature,
            **NO_TRUNCATION,
        )

    def row(
        self, rho: float, arm: str, adapter: Path | None, temperature: float = 1.0, name: str = ""
    ) -> dict[str, Any]:
        """One line of the results: the figures of an arm's samples, and its run's steps and KL.

        Without an adapter the samples are the starting model's.
        """
        profile = self.profile()
        encoders = {
            "distance semantic": profile.judge_semantic,
            "distance style": profile.judge_style,
        }
        name = name or f"rho{rho:+.1f}-{arm}"
        samples = self.sample(name, adapter, temperature)
        figures = count_samples(samples, World(self.seed, rho), encoders)
        row: dict[str, Any] = {"rho": rho, "arm": arm}
        for key, value in figures.items():
            row[key] = None if np.isnan(value) else round(value, 5)
        if adapter and (adapter / "run.json").is_file():
            run = read_json(adapter / "run.json")
            row["steps"] = run["log"][-1]["step"]
            row["kl"] = next(reversed(run.get("kl", {}).values()), None)
            for key in ("pairs", "mean_weight", "clipped_share"):
                if key in run:
                    row[key] = run[key]
        return row


def parse_samples(samples: pd.DataFrame, world: World) -> pd.DataFrame:
    """The samples (prompt, text) with valid, plot, voice, ending, vivid and quality."""
    names = [*DIMENSIONS, "vivid"]
    pairs = zip(samples["text"], samples["prompt"], strict=True)
    stories = [parse(text, prompt) or {} for text, prompt in pairs]
    frame = samples.drop(columns=names, errors="ignore")
    frame = frame.join(pd.DataFrame(stories, index=samples.index, columns=names))
    valid = frame["plot"].notna()
    frame = frame.assign(valid=valid, quality=INVALID)
    if valid.any():
        frame.loc[valid, "quality"] = world.quality(frame[valid])
    return frame


def entropy(modes: Any) -> float:
    """Entropy of modes in nats from counts, corrected for their number: + (modes seen - 1) / 2n.

    Source: Miller, "Note on the bias of information estimates", 1955.
    """
    from scipy import stats

    _, counts = np.unique(np.asarray(modes, dtype=str), return_counts=True)
    return float(stats.entropy(counts) + (len(counts) - 1) / (2 * counts.sum()))


def count_samples(
    samples: pd.DataFrame, world: World, encoders: Mapping[str, str]
) -> dict[str, float]:
    """Means over prompts, each of equal weight, of samples' figures; NaN where none is valid.

    The keys: valid (share of samples), quality, quality of the valid, vivid (share of adjectives),
    words; entropies in nats: plot, voice, ending, semantic (plot + ending), style (voice), total;
    modes (distinct triples among COMPARED valid samples of a prompt); one distance per encoder.

    Args:
        samples: prompt_id, prompt and text, the same number of samples for every prompt.
        encoders: measure name -> encoder name, for the mean pairwise cosine distance.
    """
    frame = parse_samples(samples, world)
    valid = frame[frame["valid"]]
    by_prompt = valid.groupby("prompt_id")
    figures = {
        "valid": frame["valid"].mean(),
        "quality": frame["quality"].mean(),
        "quality of the valid": by_prompt["quality"].mean().mean(),
        "vivid": by_prompt["vivid"].mean().mean() / 2,
        "words": frame["text"].str.split().str.len().mean(),
    }
    size = by_prompt["prompt_id"].transform("size")
    for name in DIMENSIONS:
        figures[name] = valid[size > 1].groupby("prompt_id")[name].agg(entropy).mean()
    figures["semantic"] = figures["plot"] + figures["ending"]
    figures["style"] = figures["voice"]
    figures["total"] = figures["semantic"] + figures["style"]
    compared = valid[size >= COMPARED].groupby("prompt_id").head(COMPARED)
    different = compared.drop_duplicates(["prompt_id", *DIMENSIONS])
    figures["modes"] = different.groupby("prompt_id").size().mean()
    prompt_ids = frame["prompt_id"].to_numpy()
    for name, encoder in encoders.items():
        embeddings = load_encoder(encoder).encode(frame["text"].tolist())
        figures[name] = np.mean(diversity(embeddings, prompt_ids))
    return {name: float(value) for name, value in figures.items()}
