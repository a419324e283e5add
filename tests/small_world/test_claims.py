"""Verdicts of the claims: contrasts, outcomes and the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from faults import refusal
from scipy import stats

from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.small_world.claims import claims_table, contrast, outcome, verdict_of

NAN = float("nan")


def results_of(**arms: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame(arms).rename_axis("seed").reset_index()
    frame = frame.melt("seed", var_name="arm", value_name="total")
    return frame.assign(rho=0.0, quality=frame["total"])


def test_a_contrast_is_paired_by_world() -> None:
    results = results_of(ddpo=[1.0, 5.0, 9.0], dpo=[0.5, 4.4, 8.2])
    found, expected = contrast(results, "total", ["ddpo", "dpo"]), np.array([0.5, 0.6, 0.8])
    low, high = stats.t.interval(0.95, 2, expected.mean(), stats.sem(expected))
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean(), low, high))
    shuffled = results.sample(frac=1, random_state=0)
    assert contrast(shuffled, "total", ["ddpo", "dpo"]) == found


def test_faults_name_the_item() -> None:
    results = results_of(ddpo=[1, 2], dpo=[1, 2])
    assert "'orpo' at rho 0" in refusal(contrast, results, "total", ["orpo", "dpo"])
    assert "'beside'" in refusal(outcome, Interval(0, -1, 1, 10), "beside")


TEST = {"measure": "total", "arms": ["dpo", "sft"], "test": "below"}
NOT = {"test": "not below"}


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({}, "margin"),
        ([], "list"),
        ({"margin": 0.1}, "claims"),
        ({"margin": 0.1, "claims": ["a"]}, "claims.json"),
        ({"margin": 0.1, "claims": [{"claim": "a", "says": "x"}]}, "tests"),
        ({"margin": 0.1, "claims": [{"claim": "a", "tests": [TEST]}]}, "says"),
        ({"margin": 0.1, "claims": [{"tests": [TEST | {"measure": "none"}]}]}, "none"),
        ({"margin": 0.1, "claims": [{"tests": [TEST | {"arms": ["dpo"]}]}]}, "claims.json"),
        (
            {"margin": "x", "claims": [{"claim": 1, "says": 1, "tests": [TEST | NOT]}]},
            "claims.json",
        ),
    ],
)
def test_broken_rules_are_refused_and_what_they_lack_is_named(rules: Any, named: str) -> None:
    results = results_of(dpo=[1.0, 1.1, 1.2], sft=[2.0, 2.1, 2.3])
    assert named in refusal(claims_table, results, rules)


def test_worlds_without_a_valid_sample_are_left_out_and_counted() -> None:
    results = results_of(ddpo=[1.0, 5.0, 9.0], dpo=[0.5, 4.4, NAN])
    assert contrast(results, "total", ["ddpo", "dpo"]).n == 2
    alone = contrast(results_of(ddpo=[1.0, 2.0], dpo=[0.5, NAN]), "total", ["ddpo", "dpo"])
    assert alone.n == 1
    assert outcome(alone, "above") == outcome(alone, "not below", 0.1) == "open"


@pytest.mark.parametrize(
    ("low", "high", "test", "expected"),
    [
        (0.1, 0.3, "above", "holds"),
        (-0.1, 0.3, "above", "open"),
        (-0.3, -0.1, "above", "fails"),
        (-0.3, -0.1, "below", "holds"),
        (0.1, 0.3, "below", "fails"),
        (-0.1, 0.3, "not below", "holds"),
        (-0.15, 0.3, "not below", "open"),
        (-0.3, -0.1, "not below", "open"),
        (-0.4, -0.15, "not below", "fails"),
    ],
)
def test_outcomes(low: float, high: float, test: str, expected: str) -> None:
    assert outcome(Interval((low + high) / 2, low, high, 10), test, margin=0.14) == expected


def test_verdicts_and_the_table_of_claims() -> None:
    assert verdict_of([]) == verdict_of(["holds", "open"]) == "undecided"
    fewer = {"measure": "total", "arms": ["dpo", "sft"], "test": "below"}
    worse = {"measure": "quality", "arms": ["dpo", "sft"], "test": "not below"}
    claims = [{"claim": "a", "says": "x", "tests": [fewer, worse]}]
    rules = {"margin": 0.14, "claims": [*claims, {"claim": "d", "says": "y", "tests": [fewer]}]}
    results = results_of(dpo=[1.0, 1.1, 1.2], sft=[2.0, 2.1, 2.3])
    table = claims_table(results, rules)
    columns = ["claim", "contrast", "test", "outcome", "verdict"]
    assert table[columns].to_numpy().tolist() == [
        ["a", "dpo - sft", "below 0", "holds", "not reproduced"],
        ["a", "dpo - sft", "not below -0.14", "fails", "not reproduced"],
        ["d", "dpo - sft", "below 0", "holds", "reproduced"],
    ]
