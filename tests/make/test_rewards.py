"""The recorded trial: which reward is chosen, and that the record follows from its scores."""

from __future__ import annotations

import pytest

import reward_trial
from ddpo_utils.corpus.stories import decisions
from ddpo_utils.evaluation.reward_trial import reward_accuracy, trial_splits
from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.settings import data_dir, get_profile
from ddpo_utils.storage.files import read_json
from ddpo_utils.training.arms import training_stories
from reward_trial import choose_reward, make_trial


@pytest.mark.parametrize(
    ("ridge", "new", "chosen", "passed"),
    [
        ((0.49, 0.42), (0.55, 0.48), "new", False),  # better, and still below the bound
        ((0.66, 0.59), (0.65, 0.61), "new", True),  # the bound goes before the mean
        ((0.70, 0.60), (0.70, 0.60), "ridge", True),  # at the bound; of equals the first
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_the_choice_follows_the_figures(ridge, new, chosen, passed, known):
    figures = {}
    for name, (mean, low) in {"ridge": ridge, "new": new}.items():
        figure = Interval(mean, low, 2 * mean - low, 19)
        # where writers are known, known ones have no say
        better = Interval(0.9, 0.8, 1.0, 19) if name == "ridge" else Interval(0.7, 0.6, 0.8, 19)
        figures[name] = {
            "unseen prompts": better if known else figure,
            "unseen prompts and writers": figure if known else None,
        }
    got = choose_reward(figures, 0.6)
    assert (got["reward"], got["passed"]) == (chosen, passed)


def test_the_recorded_trial_follows_from_its_scores(monkeypatch):
    """All but the language model is made again; its scores are those of the record."""
    stored, rules = read_json(data_dir() / "results" / "reward.json"), decisions()
    profile = get_profile("laptop", **rules["settings"])
    stories = training_stories(profile)
    splits, scores = trial_splits(stories, profile.seed), stored["scores"]["regression"]
    own = {"accuracy": {"regression": reward_accuracy(stories, splits, scores)}}
    own |= {"target": stored["target"], "scores": {"regression": scores}}
    monkeypatch.setattr(reward_trial, "record_reward", lambda *_: own)
    made = make_trial(profile, rules["reward_bound"], None)
    assert made["choice"] == stored["choice"]
    assert made["accuracy"]["regression"] == stored["accuracy"]["regression"]
    for name in ("ridge", "writer"):
        got, expected = made["accuracy"][name], stored["accuracy"][name]
        same = pytest.approx(expected["unseen prompts"]["mean"], abs=0.01)
        assert got["unseen prompts"]["mean"] == same
