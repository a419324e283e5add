"""The second round of the small world: its plan, and the rows that a world gives."""

from __future__ import annotations

import json

import pandas as pd

import second_round
from ddpo_utils.course.recorded import load_plan
from ddpo_utils.evaluation.statistics import Interval
from ddpo_utils.settings import data_dir
from ddpo_utils.small_world.claims import outcome
from ddpo_utils.storage.files import read_json

POINTS = ("dpo at ddpo's", "shuffled at ddpo's", "orpo at dorpo's")


def test_the_plan_uses_new_worlds_and_arms_that_are_made() -> None:
    first, plan = load_plan("claims"), load_plan("second_round")
    old = {*first["seeds"], *first["tuning_seeds"], *plan["pilot_seeds"]}
    assert len(plan["seeds"]) == len(set(plan["seeds"])) >= 20
    assert not old & set(plan["seeds"]) and set(plan["clipping_seeds"]) <= set(plan["seeds"])
    assert set(plan["paths"]) <= set(second_round.ARMS)
    arms = {*second_round.ARMS, "sft", "start", "dpo-rate", "dpo-matched", "orpo-matched"}
    arms |= {f"{point} {measure}" for point in POINTS for measure in ("quality", "total")}
    for claim in plan["claims"]:
        for test in claim["tests"]:
            assert set(test["arms"]) <= arms
            assert outcome(Interval(0, -1, 1, 2), test["test"], plan["margin"]) == "open"


def test_the_settings_follow_from_the_recorded_trials_by_the_second_rule_too() -> None:
    plan, chosen = load_plan("second_round"), load_plan("claims")["chosen"]
    rows = pd.DataFrame(read_json(data_dir() / "results" / "world_tuning.json")["rows"])
    rows = rows[rows["temperature"] == 1].assign(candidate=rows["candidate"].map(json.dumps))
    mean = rows.groupby(["arm", "candidate"])[["valid", "quality of the valid"]].mean()
    least = mean.loc[("sft", "{}"), "valid"] - plan["validity_margin"]
    for method in ("dpo", "ddpo", "orpo", "dorpo"):
        tried = mean.loc[method]
        best = tried[tried["valid"] >= least]["quality of the valid"].idxmax()
        assert json.loads(best) == chosen[method]


def test_the_matched_row_is_nearest_in_kl() -> None:
    path = [{"arm": "dpo", "steps": step, "kl": kl} for step, kl in ((8, 0.1), (16, 0.4), (24, 2))]
    found = second_round.matched_row(path, {"arm": "ddpo", "steps": 24, "kl": 0.5})
    assert found == {"arm": "dpo-matched", "steps": 16, "kl": 0.4}
