"""Does a reward earn its use? Rewards fitted on the same folds, asked about prompts and writers that they never saw.

    python -m ddpo_utils reward        with the profile laptop it writes data/results/reward.json, else build/<profile>

Every fold that is finished is kept, so a trial that was broken off goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import decisions
from ..embeddings.encoders import load_encoder
from ..settings import CourseError, Profile, data_dir, get_profile, progress_bar, work_dir
from ..storage.files import write_json
from ..training.runs import run_facts
from .reward import Target, public_backbone, score_stories
from .reward_training import OBJECTIVES, train_reward
from .reward_trial import choose_reward, reward_accuracy, reward_calibration, trial_splits
from .statistics import Interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_trial", "record_reward"]

RECORD = "results/reward.json"


def _ridge(
    features: np.ndarray, values: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    from sklearn.linear_model import Ridge

    return lambda train, held: (
        Ridge(alpha=1.0).fit(features[train], values[train]).predict(features[held])
    )


def _fold(
    profile: Profile,
    stories: pd.DataFrame,
    split: tuple[np.ndarray, np.ndarray],
    folder: Path,
    objective: str,
    target: Target,
) -> tuple[list[float], dict[str, Any]]:
    """A reward trained outside the split: its scores of the held-out prompts' stories, and its training in short.
    Only the final reward keeps its weights."""
    in_prompt, in_writer = split
    record = train_reward(profile, stories[~in_prompt & ~in_writer], folder, objective, target)
    known = folder / "scores.json"
    if not known.is_file():  # train_reward clears the folder of another training
        write_json(known, _rounded(score_stories(profile, folder, stories[in_prompt])))
        if folder.name != "final":
            (folder / "adapter_model.safetensors").unlink()
    losses = [round(entry["loss"], 4) for entry in record["log"]]
    brief = {"stories": record["stories"], "steps": record["steps"], "loss": losses}
    return json.loads(known.read_text(encoding="utf-8")), brief


def _rounded(scores: np.ndarray) -> list[float]:
    return [round(float(score), 5) for score in scores]


def record_reward(
    profile: Profile, objectives: Sequence[str] = OBJECTIVES, output: Path | None = None
) -> dict[str, Any]:
    """Try part 1's ridge reward, a lookup of the writer and a language model's reward on the same folds; train the
    better language model on all training stories; write the record and return it.

    Only training stories are read. The profile laptop, as it stands in the table, gets the settings of the recorded
    runs (data/decisions.json; none was chosen by the trial) and its record goes to data/results/reward.json.

    Args:
        profile: names backbone and data. objectives: of the language model's reward.
        output: folder of the adapters, folds and else the record, by default <work_dir>/reward. The final adapter is
            <output>/<objective>/final; where one fold is all (no writer known), that fold's, which saw nine tenths of
            the prompts.

    Raises:
        CourseError: too few stories for a trial, or what `train_reward` and `score_stories` raise.
    """
    from ..training.arms import training_stories

    recorded = profile == get_profile("laptop")
    if recorded:
        profile = replace(profile, **decisions()["settings"])
    stories = training_stories(profile)
    votes = (
        "judge_scores" not in stories
    )  # judges' scores have a bounded scale and are not compressed
    target = Target.fit(stories["score"], 100 if votes else 0)
    splits, values = trial_splits(stories, profile.seed), target(stories["score"])
    if (
        reward_accuracy(stories, splits, [values[p].tolist() for p, _ in splits])["unseen prompts"]
        is None
    ):
        raise CourseError(
            "A trial needs pairs on two held-out prompts at least: give 20 prompts or more, or writers' names."
        )
    root, alone = output or work_dir(profile) / "reward", len(splits) == 1
    features = np.hstack(
        [
            load_encoder(n).encode(stories["text"].tolist())
            for n in (profile.semantic, profile.style)
        ]
    )
    plain = {"ridge": _ridge(features, values)}
    if not alone:
        plain["writer"] = _ridge(
            np.eye(stories["writer"].nunique())[stories["writer"].factorize()[0]], values
        )
    scores: dict[str, list[list[float]]] = {name: [] for name in (*plain, *objectives)}
    training: dict[str, list[dict[str, Any]]] = {name: [] for name in objectives}
    for number, split in enumerate(progress_bar(splits, desc="folds")):
        for name, fitted in plain.items():
            scores[name].append(_rounded(fitted(~split[0] & ~split[1], split[0])))
        for name in objectives:
            folder = root / name / ("final" if alone else f"fold-{number}")
            row, brief = _fold(profile, stories, split, folder, name, target)
            scores[name].append(row)
            training[name].append(brief)

    accuracy = {name: reward_accuracy(stories, splits, rows) for name, rows in scores.items()}
    if not alone:
        accuracy["writer"]["unseen prompts and writers"] = None  # it knows nothing there
    bound, rewards = decisions()["reward_bound"], ("ridge", *objectives)
    learnt = choose_reward({name: accuracy[name] for name in objectives}, bound)["reward"]
    if not alone:
        train_reward(profile, stories, root / learnt / "final", learnt, target)
    record = run_facts(
        profile,
        command=f"python -m ddpo_utils reward --profile {profile.name}",
        backbone=public_backbone(profile),
        seed=profile.seed,
        stories=len(stories),
        prompts=int(stories["prompt_id"].nunique()),
        target=asdict(target),
        folds=[
            {
                "prompts": sorted(set(stories["prompt_id"][p])),
                "writers": sorted(set(stories["writer"][w])),
            }
            for p, w in splits
        ],
        training=training,
        bound=bound,
        accuracy=accuracy,
        calibration={
            name: reward_calibration(stories, splits, scores[name], target, name == "bradley-terry")
            for name in rewards
        },
        choice=choose_reward({name: accuracy[name] for name in rewards}, bound),
        final=f"{learnt}/final",
        scores=scores,
    )
    write_json(
        data_dir() / RECORD if recorded and output is None else root / "reward.json", _plain(record)
    )
    return record


def load_trial(profile: Profile, folder: Path | None = None) -> dict[str, Any]:
    """A trial's record: of `folder` (<work_dir>/reward), else the recorded one of the profile laptop; its accuracies
    and calibration errors are Intervals."""
    own = (folder or work_dir(profile) / "reward") / "reward.json"
    record = json.loads((own if own.is_file() else data_dir() / RECORD).read_text(encoding="utf-8"))
    for figures in record["accuracy"].values():
        figures.update({name: Interval(**value) for name, value in figures.items() if value})
    for figures in record["calibration"].values():
        figures["error"] = Interval(**figures["error"])
    return record


def _plain(value: Any) -> Any:
    """Intervals as dicts, so that JSON holds them."""
    if isinstance(value, Interval):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
