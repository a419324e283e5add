"""Verdicts of the claims: contrasts, outcomes and the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from faults import refusal
from scipy import stats

from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.small_world.claims import (
    claims_table,
    contrast,
    matched_points,
    outcome,
    priced_quality,
    verdict_of,
)
from ddpo_utils.small_world.experiment import INVALID

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
FAULTY_CLAIMS = [  # what a claim holds, and what the refusal names
    ("a", "claims.json"),
    ({"claim": "a", "says": "x"}, "tests"),
    ({"claim": "a", "tests": [TEST]}, "says"),
    ({"tests": [TEST | {"measure": "none"}]}, "none"),
    ({"tests": [TEST | {"arms": ["dpo"]}]}, "claims.json"),
    ({"claim": 1, "says": 1, "tests": [TEST | {"test": "not below"}]}, "claims.json"),
]


@pytest.mark.parametrize(("claim", "named"), FAULTY_CLAIMS)
def test_broken_rules_are_refused_and_what_they_lack_is_named(claim: Any, named: str) -> None:
    results = results_of(dpo=[1.0, 1.1, 1.2], sft=[2.0, 2.1, 2.3])
    assert named in refusal(claims_table, results, {"margin": "x", "claims": [claim]})
    assert "margin" in refusal(claims_table, results, {"claims": []})
    assert "list" in refusal(claims_table, results, [])


def test_worlds_without_a_valid_sample_are_left_out_and_counted() -> None:
    results = results_of(ddpo=[1.0, 5.0, 9.0], dpo=[0.5, 4.4, NAN])
    assert contrast(results, "total", ["ddpo", "dpo"]).n == 2
    alone = contrast(results_of(ddpo=[1.0, 2.0], dpo=[0.5, NAN]), "total", ["ddpo", "dpo"])
    assert alone.n == 1
    assert outcome(alone, "above") == outcome(alone, "not below", 0.1) == "open"


OUTCOMES = {  # by test: low, high and outcome of an interval, with a margin of 0.14
    "above": [(0.1, 0.3, "holds"), (0.0, 0.0, "open"), (-0.3, -0.1, "fails")],
    "below": [(-0.3, -0.1, "holds"), (-0.1, 0.3, "open"), (0.1, 0.3, "fails")],
    "not below": [(-0.1, 0.3, "holds"), (-0.15, 0.3, "open"), (-0.3, -0.1, "open")],
}


@pytest.mark.parametrize("test", OUTCOMES)
def test_outcomes(test: str) -> None:
    for low, high, expected in OUTCOMES[test]:
        assert outcome(Interval((low + high) / 2, low, high, 10), test, margin=0.14) == expected
    assert outcome(Interval(-0.3, -0.4, -0.15, 10), "not below", margin=0.14) == "fails"


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


def test_a_control_is_read_off_its_path_where_it_meets_the_end_of_an_arm() -> None:
    def row(arm: str, steps: int, quality: float, total: float) -> dict[str, Any]:
        measures = {"valid": 10 * total, "quality": quality, "total": total}
        kl = None if arm == "sft" else 2 * quality**2
        return {"seed": 3, "arm": arm, "steps": steps, "kl": kl, **measures}

    ends = pd.DataFrame([row("sft", 9, 0.0, 5.0), row("dpo", 30, 1.0, 4.0)])
    ends = pd.concat([ends, pd.DataFrame([row("ddpo", 30, 0.5, 4.75)])])
    paths = pd.DataFrame([row("dpo", 20, 0.75, 4.25), row("dpo", 10, 0.25, 4.5)])  # in any order
    paths = pd.concat([paths, pd.DataFrame([row("orpo", 10, 9.0, 9.0)])])
    along = {"start": "sft", "quality": "quality", "diversity": "total"}
    points = matched_points(ends, paths, "ddpo", "dpo", **along).set_index("arm")
    at_equal_quality = points.loc["dpo at ddpo's quality"]
    assert at_equal_quality["quality"] == pytest.approx(0.5)
    assert at_equal_quality["total"] == pytest.approx(4.375)
    assert at_equal_quality["valid"] == pytest.approx(43.75)
    at_equal_diversity = points.loc["dpo at ddpo's total"]
    assert at_equal_diversity["total"] == pytest.approx(4.75)
    assert at_equal_diversity["quality"] == pytest.approx(0.125)
    at_equal_kl = points.loc["dpo at ddpo's KL between checkpoints"]
    assert at_equal_kl["quality"] == pytest.approx(0.25 + 0.5 * (0.5 - 0.125) / (1.125 - 0.125))
    assert (points["seed"] == 3).all() and points["reached"]["dpo at ddpo's quality"]
    assert not points["reached"]["dpo at ddpo's total"]  # it lies between the start and step 10


def test_a_path_that_never_has_a_level_says_so() -> None:
    both = {"quality": [0.0, 1.0, 2.0], "total": [5.0, 4.0, 5.5], "kl": [np.nan, 1.0, 2.0]}
    ends = pd.DataFrame({"seed": 3, "arm": ["sft", "dpo", "ddpo"], "steps": 9, **both})
    along = {"start": "sft", "quality": "quality", "diversity": "total"}
    points = matched_points(ends, ends.head(0), "ddpo", "dpo", **along)
    assert not points["reached"].any()
    assert points["quality"].tolist() == [1.0, 0.0, 1.0]  # the path's end, its start, its end


def test_the_price_of_an_invalid_sample() -> None:
    results = pd.DataFrame({"valid": [1.0, 0.5], "quality": [0.3, (0.2 + INVALID) / 2]})
    assert priced_quality(results, INVALID).tolist() == pytest.approx(results["quality"].tolist())
    assert priced_quality(results, -1.0).tolist() == pytest.approx([0.3, -0.4])
