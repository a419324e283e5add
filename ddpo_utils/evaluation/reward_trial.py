"""The trial of a reward: how well does it order pairs of prompts and writers that it never saw?

python -m ddpo_utils reward        the trial, and the reward trained on all training stories
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..settings import CourseError, Profile, progress_bar, work_dir
from ..storage.files import are_numbers, read_json, read_numbers, write_json
from ..storage.locks import locked
from ..training.arms import training_stories
from ..training.run_folder import run_facts
from .reward import Target, load_reward, public_backbone, score_stories, train_reward
from .statistics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

PARTS = 3  # of prompts and of writers: nine folds, each fitted on about four ninths of the stories
FINAL = "regression/final"  # folder of the reward trained on all training stories
# masks of stories: of a held-out prompt, of a held-out writer
Splits = Sequence[tuple[np.ndarray, np.ndarray]]
# for each split the scores of its held-out prompts' stories, in their order
Scores = Sequence[Sequence[float]]
Accuracy = dict[str, Interval | None]  # of `reward_accuracy`


def reward_splits(
    stories: pd.DataFrame, prompt_parts: int = 6, writer_parts: int = 4, seed: int = 0
) -> Splits:
    """Held-out prompts crossed with held-out writers, dealt at random; 0 parts hold no writer out.

    A reward is fitted on stories with neither a held-out prompt nor a held-out writer.
    """
    rng = np.random.default_rng(seed)
    prompts, writers = stories["prompt_id"].to_numpy(), stories["writer"].to_numpy()
    held_writers: list[Any] = [[]]
    if writer_parts:
        held_writers = np.array_split(rng.permutation(np.unique(writers)), writer_parts)
    held_prompts = np.array_split(rng.permutation(np.unique(prompts)), prompt_parts)
    splits = []
    for prompt_part in held_prompts:
        for writer_part in held_writers:
            splits.append((np.isin(prompts, prompt_part), np.isin(writers, writer_part)))
    return splits


def trial_splits(stories: pd.DataFrame, seed: int) -> Splits:
    """The folds of a trial: prompts in 3 parts crossed with writers in 3.

    Where writers are not known, or too few, one fold holds out a tenth of the prompts.
    """
    writers = stories["writer"].fillna("").astype(str)
    if (writers != "").all() and writers.nunique() >= 2 * PARTS:
        return reward_splits(stories, PARTS, PARTS, seed)
    return reward_splits(stories, 10, 0, seed)[:1]


def held_pairs(
    stories: pd.DataFrame, splits: Splits, scores: Scores, unseen_writers: bool
) -> pd.DataFrame:
    """The held-out pairs of all splits: two stories of one prompt with different scores.

    With `unseen_writers` both are by held-out writers, else by writers that are not held out.

    Returns:
        One row per pair: prompt_id, right (bool: the better story has the higher reward).
    """
    import pandas as pd

    parts = [pd.DataFrame({"prompt_id": [], "right": np.zeros(0, dtype=bool)})]
    for (in_prompt, in_writer), rewards in zip(splits, scores, strict=True):
        held = stories.loc[in_prompt, ["prompt_id", "score"]].assign(reward=rewards)
        held = held[in_writer[in_prompt] == unseen_writers]
        pairs = held.merge(held, on="prompt_id", suffixes=("", "_other"))
        pairs = pairs[pairs["score"] > pairs["score_other"]]
        right = pairs["reward"] > pairs["reward_other"]
        parts.append(pairs[["prompt_id"]].assign(right=right))
    return pd.concat(parts, ignore_index=True)


def reward_accuracy(stories: pd.DataFrame, splits: Splits, scores: Scores) -> Accuracy:
    """Share of held-out pairs ordered correctly: mean over prompts with its interval.

    On "unseen prompts" (of known writers, or where no writer is known) and on "unseen prompts and
    writers"; None where fewer than two prompts have such pairs.
    """
    figures: Accuracy = {}
    for name, unseen in (("unseen prompts", False), ("unseen prompts and writers", True)):
        pairs = held_pairs(stories, splits, scores, unseen)
        by_prompt = pairs.groupby("prompt_id")["right"].mean()
        figures[name] = mean_interval(by_prompt) if len(by_prompt) > 1 else None
    return figures


def decisive_accuracy(figures: Accuracy) -> Interval:
    """Of a reward's accuracies the one that decides: on unseen writers, where writers are known."""
    return figures["unseen prompts and writers"] or figures["unseen prompts"]


def _fold(
    profile: Profile,
    stories: pd.DataFrame,
    split: tuple[np.ndarray, np.ndarray],
    folder: Path,
    target: Target,
) -> tuple[list[float], dict[str, Any]]:
    """A reward trained outside the split: its scores there, and its training in short.

    Only the final reward keeps its weights.
    """
    in_prompt, in_writer = split
    record = train_reward(profile, stories[~in_prompt & ~in_writer], folder, target)
    path = folder / f"scores-{record['run']}.json"
    if not path.is_file():
        reward = load_reward(profile, folder)
        rewards = score_stories(profile, *reward, stories[in_prompt])
        write_json(path, [round(float(score), 5) for score in rewards])
        if folder.name != "final":
            (folder / "adapter_model.safetensors").unlink()
    scores = read_numbers(path, int(in_prompt.sum()))
    if len(scores) < in_prompt.sum():
        raise CourseError(f"{path} is cut off: delete the folder {folder}, and run again.")
    losses = [round(entry["loss"], 4) for entry in record["log"]]
    return scores, {"stories": record["stories"], "steps": record["steps"], "loss": losses}


def _run_trial(
    profile: Profile, root: Path, stories: pd.DataFrame, splits: Splits, target: Target
) -> dict[str, Any]:
    """Fit the reward on every fold and the final one; what the record holds of them."""
    scores, training, folds = [], [], []
    for number, (in_prompt, in_writer) in enumerate(progress_bar(splits, desc="folds")):
        folder = root / (FINAL if len(splits) == 1 else f"regression/fold-{number}")
        row, brief = _fold(profile, stories, (in_prompt, in_writer), folder, target)
        scores.append(row)
        training.append(brief)
        prompts = stories["prompt_id"][in_prompt]
        writers = stories["writer"][in_writer]
        folds.append({"prompts": sorted(set(prompts)), "writers": sorted(set(writers))})
    if len(splits) > 1:
        train_reward(profile, stories, root / FINAL, target)
    accuracy = reward_accuracy(stories, splits, scores)
    return {
        "folds": folds,
        "training": {"regression": training},
        "accuracy": {"regression": accuracy},
        "scores": {"regression": scores},
    }


def record_reward(profile: Profile, bound: float, output: Path | None = None) -> dict[str, Any]:
    """The trial of a language model's reward on held-out pairs, printed and recorded.

    The reward is then trained on all training stories. It passes its trial if the lower end of the
    decisive accuracy is at least `bound`. reward.json goes into `output`, by default
    <work_dir>/reward. Every finished fold is kept, so an interrupted trial goes on. Where no writer
    is known there is one fold, and its reward is the final one. Raises CourseError where there are
    too few stories, or another process is at work in `output`.
    """
    stories = training_stories(profile)
    # judges' scores have a bounded scale and are not compressed, votes are
    target = Target.fit(stories["score"], 0 if "judge_scores" in stories else 100)
    splits = trial_splits(stories, profile.seed)
    values = target(stories["score"])
    truth = [values[in_prompt] for in_prompt, _ in splits]
    if reward_accuracy(stories, splits, truth)["unseen prompts"] is None:
        raise CourseError(
            "A trial needs stories with different scores for two held-out prompts: give 20 prompts "
            "or more, or writers."
        )
    root = output or work_dir(profile) / "reward"
    with locked(root):
        record = run_facts(
            profile,
            command=f"python -m ddpo_utils reward --profile {profile.name}",
            backbone=public_backbone(profile),
            seed=profile.seed,
            stories=len(stories),
            prompts=int(stories["prompt_id"].nunique()),
            target=asdict(target),
            bound=bound,
            final=FINAL,
            **_run_trial(profile, root, stories, splits, target),
        )
        write_json(root / "reward.json", json.loads(json.dumps(record, default=asdict)))
    trial = load_trial(root)
    figures = trial["accuracy"]["regression"]
    print("share of held-out pairs ordered correctly:")
    for name, interval in figures.items():
        print(f"{name:28} {interval or '-'}")
    passed = decisive_accuracy(figures).low >= bound
    verdict = "may be used" if passed else "quality is not measured"
    print(f"the lower end must reach {bound}: {verdict}; record and reward are in {root}")
    return trial


def load_trial(folder: Path) -> dict[str, Any]:
    """The record of a trial, <folder>/reward.json, with Intervals as such."""
    from pydantic import ConfigDict, TypeAdapter

    path = folder / "reward.json"
    record = read_json(path)
    figures = TypeAdapter(
        dict[str, dict[str, Interval | None]], config=ConfigDict(allow_inf_nan=False)
    )
    try:
        record["accuracy"] = figures.validate_python(record["accuracy"])
        for said in record.get("calibration", {}).values():  # in records of code before 2.0
            said |= figures.validate_python({"": {"error": said["error"]}})[""]
        numbers = [record["bound"], *asdict(Target(**record["target"])).values()]
        numbers.append(decisive_accuracy(record["accuracy"]["regression"]).low)
        if isinstance(record["backbone"], str) and are_numbers(numbers):
            return record
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise CourseError(f"{path} is damaged: delete it, and run `python -m ddpo_utils reward` again.")
