"""How often the rule would call a claim reproduced, by simulation."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from ddpo_utils.course.recorded import load_plan
from ddpo_utils.settings import data_dir
from rule_power import effect_of, power_of_claim

SPREAD = [-0.2, -0.1, 0.0, 0.1, 0.2, 0.0]


def worlds(lost: float) -> pd.DataFrame:
    """Six seeds in which DPO loses so much, and DDPO differs from it by a spread around 0."""
    frames = []
    for arm, mean in {"start": lost, "dpo": 0.0, "ddpo": 0.0}.items():
        values = [mean + (gap if arm == "ddpo" else 0.0) for gap in SPREAD]
        frames.append(
            pd.DataFrame({"seed": range(6), "arm": arm, "kind": values, "usable": values})
        )
    return pd.concat(frames).assign(rho=0.0)


def claim(*tests: tuple[str, str]) -> dict:
    arms = ["ddpo", "dpo"]
    return {"tests": [{"measure": name, "arms": arms, "test": kind} for name, kind in tests]}


def test_an_effect_is_a_quarter_of_what_dpo_moved_and_points_where_the_test_hopes() -> None:
    for kind, expected in {"above": 0.5, "below": -0.5, "not below": 0.0}.items():
        test = claim(("kind", kind))["tests"][0]
        assert effect_of(worlds(2.0), test) == pytest.approx(expected)


def test_power_follows_the_effect_and_falls_with_each_further_test() -> None:
    one, two = claim(("kind", "above")), claim(("kind", "above"), ("usable", "not below"))
    assert power_of_claim(worlds(4.0), one, 0.1, 200) == 1.0
    nothing, some = (power_of_claim(worlds(lost), one, 0.1, 200) for lost in (0.0, 0.6))
    assert nothing < 0.15 < some
    assert power_of_claim(worlds(4.0), two, 0.1, 200) < 0.7
    assert power_of_claim(worlds(4.0), two, 1.0, 200) == 1.0


def test_the_record_has_every_claim_of_both_plans() -> None:
    record = json.loads((data_dir() / "results" / "rule_power.json").read_text(encoding="utf-8"))
    for name in ("tiny_stories", "second_round"):
        claims = [one["claim"] for one in load_plan(name)["claims"]]
        assert list(record[name]) == claims
        assert all(0 <= share <= 1 for share in record[name].values())
