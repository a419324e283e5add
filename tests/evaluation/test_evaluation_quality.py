"""Quality in the evaluation: a reward speaks if it passed its trial, and the verdict asks for more than diversity."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import samples_of

from ddpo_utils import CourseError, Profile
from ddpo_utils.evaluation.evaluate import evaluate, find_adapters
from ddpo_utils.evaluation.report import show_table
from ddpo_utils.evaluation.results import MEASURES, _verdicts
from ddpo_utils.evaluation.reward import load_reward
from ddpo_utils.models.sampling import read_samples
from ddpo_utils.training.runs import write_json

pytest_plugins = ["evaluation_fixtures"]


@pytest.fixture
def trial(profile: Profile, tiny_folder: Path, tmp_path: Path) -> Path:
    """A reward's trial that it passed, with an adapter whose head is not 0."""
    model, _ = load_reward(replace(profile, reward=str(tiny_folder)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "score" in name:
                torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "trial" / "regression" / "final")
    interval = {"mean": 0.7, "low": 0.65, "high": 0.75, "n": 20}
    write_json(
        tmp_path / "trial" / "reward.json",
        {
            "final": "regression/final",
            "bound": 0.6,
            "backbone": tiny_folder.name,
            "calibration": {},
            "target": {"low": -2.0, "high": 40.0, "times": 0},
            "accuracy": {
                "ridge": {"unseen prompts": interval, "unseen prompts and writers": None},
                "regression": {"unseen prompts": interval, "unseen prompts and writers": None},
            },
        },
    )
    return tmp_path / "trial"


def rewarded(profile: Profile, tiny_folder: Path, **more: Any) -> Profile:
    return replace(profile, reward=str(tiny_folder), **more)


def test_a_reward_that_passed_scores_the_samples_and_gold_keeps_its_votes(
    copy, profile, tiny_folder, adapters, stories, trial, run, capsys
):
    from ddpo_utils.evaluation.reward import score_stories

    results = evaluate(
        rewarded(profile, tiny_folder), find_adapters(adapters), copy, stories, trial
    )
    frame = read_samples(samples_of(copy, "dpo"))
    scores = score_stories(rewarded(profile, tiny_folder), trial / "regression" / "final", frame)
    expected = pd.Series(scores).groupby(frame["prompt_id"]).mean()
    assert (
        results["by_prompt"]["dpo"]["reward"] == pytest.approx(expected.tolist(), abs=1e-4)
        and expected.std() > 0
    )
    gold = stories[stories["prompt_id"].isin(results["by_prompt"]["gold"]["prompt_id"])]
    votes = (2 * (gold["score"] + 2) / 42 - 1).groupby(gold["prompt_id"]).mean()
    assert results["by_prompt"]["gold"]["reward"] == pytest.approx(votes.tolist(), abs=1e-4)
    assert results["quality"].startswith(
        "reward: regression on tiny (it orders 0.700 [0.650, 0.750]"
    )
    assert (
        "reward" in results["differences"]["ddpo - dpo"]
        and "reward" not in run[0]["differences"]["ddpo - dpo"]
    )
    show_table(results)
    assert len(re.findall(r"^ +reward +semantic", capsys.readouterr().out, re.MULTILINE)) == 2


@pytest.mark.parametrize("fault", ["failed", "another backbone", "unseen writers", "none there"])
def test_a_reward_that_did_not_pass_does_not_speak(
    copy, profile, tiny_folder, adapters, stories, trial, fault
):
    record = json.loads((trial / "reward.json").read_text())
    said = "did not pass its trial"
    if fault == "failed":
        record["accuracy"]["regression"]["unseen prompts"]["low"] = 0.59
    elif fault == "unseen writers":  # well known writers do not count where unseen ones are known
        record["accuracy"]["regression"]["unseen prompts and writers"] = {
            "mean": 0.6,
            "low": 0.5,
            "high": 0.7,
            "n": 9,
        }
    elif fault == "another backbone":
        record["backbone"], said = "somebody/else", "is of somebody/else, another backbone"
    write_json(trial / "reward.json", record)
    models = {"sft": adapters / "sft", "dpo": adapters / "dpo"}
    if fault == "none there":
        trial = trial / "nowhere"
        with pytest.raises(CourseError, match=r"no reward's trial in .*nowhere.*ddpo_utils reward"):
            evaluate(rewarded(profile, tiny_folder), models, copy, stories, trial)
        return
    results = evaluate(rewarded(profile, tiny_folder), models, copy, stories, trial)
    assert results["quality"].startswith("quality not measured") and said in results["quality"]
    assert not any("reward" in table for table in results["by_prompt"].values())


@pytest.mark.parametrize(
    "effect, lost, said",
    [
        (0.2, 0.0, "effect of deviation; at equal quality"),
        (0.2, 0.2, "no effect shown"),
        (0.0, 0.0, "no effect shown"),
    ],
)
@pytest.mark.parametrize("worse", [0.0, 0.5])
def test_the_verdict_asks_for_diversity_usable_stories_and_quality(effect, lost, said, worse):
    rng = np.random.default_rng(0)
    noise = {
        row: pd.DataFrame(rng.normal(0, 0.01, (40, 6)), columns=[*MEASURES, "usable", "reward"])
        for row in ("dpo", "shuffled", "ddpo")
    }
    tables = {row: frame.assign(kl=1.0) for row, frame in noise.items()}
    tables["ddpo"] = tables["ddpo"].assign(
        **{name: tables["ddpo"][name] + effect for name in MEASURES},
        usable=tables["ddpo"]["usable"] - lost,
        reward=tables["ddpo"]["reward"] - worse,
    )
    for spread, quality in (
        (1.0, "equal quality not shown" if worse else "at equal quality"),
        (None, "not measured"),
    ):
        verdicts = _verdicts(tables, spread)["measures"]
        assert all(text.startswith(said.partition(";")[0]) for text in verdicts.values())
        assert all(quality in text for text in verdicts.values()) == (effect > lost)
    assert _verdicts({**tables, "shuffled": tables["shuffled"].drop(columns="kl")}, None) == {}
    assert _verdicts({row: tables[row] for row in ("dpo", "ddpo")}, None) == {}
