"""Verdicts of the claims: contrasts, outcomes, the rule; the plan that was fixed beforehand can be run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.settings import data_dir, get_profile
from ddpo_utils.small_world.claims import claims_table, contrast, outcome, verdict_of
from ddpo_utils.small_world.experiment import METHODS, rules


def frame(**arms: list[float]) -> pd.DataFrame:
    rows = [
        {"seed": seed, "rho": 0.0, "arm": arm.replace("_", "-"), "total": value, "quality": value}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_contrast_is_paired_by_world() -> None:
    results = frame(ddpo=[1.0, 5.0, 9.0], dpo=[0.5, 4.4, 8.2])
    found, expected = contrast(results, "total", ["ddpo", "dpo"]), np.array([0.5, 0.6, 0.8])
    low, high = stats.t.interval(0.95, 2, expected.mean(), stats.sem(expected))
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean(), low, high))
    shuffled = results.sample(frac=1, random_state=0)
    assert contrast(shuffled, "total", ["ddpo", "dpo"]) == found


def test_an_arm_that_was_not_run_is_named() -> None:
    with pytest.raises(ValueError, match="'orpo' at rho 0"):
        contrast(frame(ddpo=[1, 2], dpo=[1, 2]), "total", ["orpo", "dpo"])


def test_worlds_without_a_valid_sample_are_left_out_and_counted() -> None:
    results = frame(ddpo=[1.0, 5.0, 9.0], dpo=[0.5, 4.4, float("nan")])
    assert contrast(results, "total", ["ddpo", "dpo"]).n == 2
    alone = contrast(frame(ddpo=[1.0, 2.0], dpo=[0.5, float("nan")]), "total", ["ddpo", "dpo"])
    assert alone.n == 1 and outcome(alone, "above") == outcome(alone, "not below", 0.1) == "open"


@pytest.mark.parametrize(
    ("low", "high", "test", "expected"),
    [
        (0.1, 0.3, "above", "holds"),
        (-0.1, 0.3, "above", "open"),
        (-0.3, -0.1, "above", "fails"),
        (-0.3, -0.1, "below", "holds"),
        (-0.3, 0.1, "below", "open"),
        (0.1, 0.3, "below", "fails"),
        (-0.1, 0.3, "not below", "holds"),
        (-0.15, 0.3, "not below", "open"),
        (-0.3, -0.1, "not below", "open"),
        (-0.4, -0.15, "not below", "fails"),
    ],
)
def test_outcomes(low: float, high: float, test: str, expected: str) -> None:
    assert outcome(Interval((low + high) / 2, low, high, 10), test, margin=0.14) == expected


def test_there_are_no_other_tests() -> None:
    with pytest.raises(ValueError, match="'beside'"):
        outcome(Interval(0, -1, 1, 10), "beside")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["holds", "holds"], "reproduced"),
        (["holds", "open"], "undecided"),
        (["holds", "open", "fails"], "not reproduced"),
        ([], "undecided"),
    ],
)
def test_verdicts(outcomes: list[str], expected: str) -> None:
    assert verdict_of(outcomes) == expected


def test_a_table_of_claims() -> None:
    own: dict[str, Any] = {
        "margin": 0.14,
        "claims": [
            {
                "claim": "a",
                "says": "x",
                "tests": [{"measure": "total", "arms": ["dpo", "sft"], "test": "below"}],
            },
            {
                "claim": "d",
                "says": "y",
                "tests": [{"measure": "quality", "arms": ["ddpo-k4", "dpo"], "test": "above"}],
            },
        ],
    }
    results = frame(dpo=[1.0, 1.1, 1.2], sft=[2.0, 2.1, 2.3])
    table = claims_table(results, own)
    assert table[["claim", "contrast", "outcome", "verdict"]].to_numpy().tolist() == [
        ["a", "dpo - sft", "holds", "reproduced"]
    ]
    assert claims_table(results.assign(total=-results["total"]), own)["verdict"].tolist() == [
        "not reproduced"
    ]


def test_the_plan_can_be_run_as_it_stands() -> None:
    plan = rules()
    get_profile("laptop", **plan["settings"])
    for method, settings in plan["chosen"].items():
        assert settings in plan["candidates"][method]
        get_profile("laptop", **settings)
    assert (
        len({len(candidates) for candidates in plan["candidates"].values()}) == 1
    )  # the same budget for every method
    assert not set(plan["seeds"]) & set(plan["tuning_seeds"])
    assert 0.0 in plan["rhos"]
    assert min(plan["rhos"]) < 0 < max(plan["rhos"])
    arms = {arm for arms in METHODS.values() for arm in arms} | {
        "sft",
        "dpo-matched",
        "dpo-hot",
        "divpo-steps",
    }
    arms |= set(plan["few"])
    for claim in plan["claims"]:
        for test in claim["tests"]:
            assert set(test["arms"]) <= arms
            assert outcome(Interval(0, -1, 1, 2), test["test"], plan["margin"]) == "open"


def test_the_chosen_settings_follow_from_the_recorded_trials_by_the_rule() -> None:
    plan, path = rules(), data_dir() / "results" / "world_tuning.json"
    rows = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"])
    assert set(rows["seed"]) == set(plan["tuning_seeds"]) and (rows["rho"] == 0).all()
    rows["candidate"] = rows["candidate"].map(json.dumps)
    mean = rows.groupby(["arm", "candidate", "temperature"])[["quality", "total"]].agg(
        lambda v: v.mean(skipna=False)
    )
    for method, candidates in plan["candidates"].items():
        qualities = {
            json.dumps(c): mean.loc[(method, json.dumps(c), 1.0), "quality"] for c in candidates
        }
        assert json.loads(max(qualities, key=qualities.get)) == plan["chosen"][method]
    chosen = {method: json.dumps(settings) for method, settings in plan["chosen"].items()}
    wanted = mean.loc[("ddpo", chosen["ddpo"], 1.0), "total"]
    gaps = {
        t: abs(mean.loc[("dpo", chosen["dpo"], t), "total"] - wanted) for t in plan["temperatures"]
    }
    assert min(gaps, key=gaps.get) == plan["temperature"]
