"""Make the recorded trial of rewards: ridge, a lookup of the writer, and the language model's.

    python data/make/reward_trial.py      results/reward.json

All are tried on the same folds. Every finished fold is kept in build/recorded/reward: after an
interruption, call again. The stored record also holds a calibration, made by earlier code from the
same scores; it is kept as long as the accuracies are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge

from ddpo_utils.corpus.stories import decisions
from ddpo_utils.embeddings.encoders import load_encoder
from ddpo_utils.evaluation.reward import Target
from ddpo_utils.evaluation.reward_trial import (
    Accuracy,
    Scores,
    Splits,
    decisive_accuracy,
    record_reward,
    reward_accuracy,
    trial_splits,
)
from ddpo_utils.settings import Profile, data_dir, get_profile
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.arms import training_stories
from recording import SMOKE_SETTINGS, folders, parser, run

COMMAND = "python data/make/reward_trial.py"


def ridge_scores(features: np.ndarray, values: np.ndarray, splits: Splits) -> Scores:
    """Scores of a ridge regression from (N, d) features to (N,) values."""
    scores = []
    for in_prompt, in_writer in splits:
        train = ~in_prompt & ~in_writer
        model = Ridge(alpha=1.0).fit(features[train], values[train])
        scores.append(model.predict(features[in_prompt]))
    return scores


def choose_reward(accuracy: Mapping[str, Accuracy], bound: float) -> dict[str, Any]:
    """Which reward is the best, and whether it passed its trial.

    `accuracy` maps each reward to its `reward_accuracy`. It passes if the lower end of the decisive
    accuracy is at least `bound`. One that passes goes before one that does not, then the mean
    decides, and among equals the first.

    Returns:
        reward (name), passed (bool), quality ("quality to be compared" or "quality not measured").
    """
    decisive = {name: decisive_accuracy(figures) for name, figures in accuracy.items()}

    def merit(name: str) -> tuple[bool, float]:
        return decisive[name].low >= bound, decisive[name].mean

    best = max(decisive, key=merit)
    passed = decisive[best].low >= bound
    quality = "quality to be compared" if passed else "quality not measured"
    return {"reward": best, "passed": passed, "quality": quality}


def make_trial(profile: Profile, bound: float, folder: Path) -> dict[str, Any]:
    """The record of all three rewards on the bundled stories."""
    trial = record_reward(profile, bound, folder)
    stories = training_stories(profile)
    splits = trial_splits(stories, profile.seed)
    texts = stories["text"].tolist()
    rows = [load_encoder(name).encode(texts) for name in (profile.semantic, profile.style)]
    writers, names = stories["writer"].factorize()
    features = {"ridge": np.hstack(rows), "writer": np.eye(len(names))[writers]}
    values = Target(**trial["target"])(stories["score"])
    scores, accuracy = {}, {}
    for name, columns in features.items():
        scores[name] = []
        for row in ridge_scores(columns, values, splits):
            scores[name].append([round(float(score), 5) for score in row])
        accuracy[name] = reward_accuracy(stories, splits, scores[name])
    accuracy["writer"]["unseen prompts and writers"] = None  # it knows nothing there
    accuracy |= trial["accuracy"]
    candidates = {name: accuracy[name] for name in ("ridge", "regression")}
    record = trial | {"command": COMMAND, "accuracy": accuracy, "scores": scores | trial["scores"]}
    record["choice"] = choose_reward(candidates, bound)
    return json.loads(json.dumps(record, default=asdict))


def main() -> None:
    args = parser(__doc__).parse_args()
    work, data = folders(args, "recorded")
    fixed = decisions()
    settings = fixed["settings"] | (SMOKE_SETTINGS if args.smoke else {})
    with locked(data / "results" / "reward.json"):
        profile = get_profile("laptop", **settings)
        record = make_trial(profile, fixed["reward_bound"], work / "reward")
        stored = read_json(data_dir() / "results" / "reward.json")
        if record["accuracy"] == stored["accuracy"]:
            record["calibration"] = stored["calibration"]
        write_json(data / "results" / "reward.json", record)


if __name__ == "__main__":
    run(main)
