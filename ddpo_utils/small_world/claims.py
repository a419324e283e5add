"""The paper's claims as contrasts between arms, and the rule that makes a verdict of them.

The contrasts stand in data/claims.json, which was fixed before a test world was run. Each is the mean over worlds of a
measure's difference between two arms of the same world, with its 95% t interval; the unit is the world (its own tables,
model, pairs and samples). A test of a contrast has one of three outcomes:

    above           holds if the interval lies above 0, fails if below it
    below           holds if the interval lies below 0, fails if above it
    not below       holds if the interval lies above -margin (non-inferiority), fails if below -margin

and is open otherwise. A claim is reproduced if all its tests hold, not reproduced if one fails, undecided otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.statistics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["claims_table", "contrast", "outcome", "verdict_of"]


def contrast(
    results: pd.DataFrame, measure: str, arms: Sequence[str], rho: float = 0.0
) -> Interval:
    """Mean and 95% interval over worlds of measure(arms[0]) - measure(arms[1]).

    Args:
        results: of `world_runs.load_world`: seed, rho, arm and the measures.

    Worlds in which a measure is not defined (no sample of an arm was valid) are left out, and counted in the
    interval's n; where fewer than two are left, the interval is without bounds.

    Raises:
        ValueError: no world has such an arm.
    """
    cell = results[np.isclose(results["rho"], rho)].pivot(
        index="seed", columns="arm", values=measure
    )
    missing = [arm for arm in arms if arm not in cell]
    if missing:
        raise ValueError(f"No world has the arm {missing[0]!r} at rho {rho}: record it first.")
    gaps = (cell[arms[0]] - cell[arms[1]]).astype(float).dropna()
    if len(gaps) < 2:
        return Interval(float(gaps.mean()), -np.inf, np.inf, len(gaps))
    return mean_interval(gaps)


def outcome(interval: Interval, test: str, margin: float = 0.0) -> str:
    """What a test says of a contrast: "holds", "fails" or "open".

    Raises:
        ValueError: there is no such test.
    """
    if test == "below":
        interval = Interval(-interval.mean, -interval.high, -interval.low, interval.n)
    elif test not in ("above", "not below"):
        raise ValueError(f"A test is above, below or not below; got {test!r}.")
    bound = -margin if test == "not below" else 0.0
    return "holds" if interval.low > bound else "fails" if interval.high < bound else "open"


def verdict_of(outcomes: Sequence[str]) -> str:
    """reproduced, not reproduced or undecided, from the outcomes of a claim's tests."""
    if "fails" in outcomes:
        return "not reproduced"
    return "reproduced" if outcomes and set(outcomes) == {"holds"} else "undecided"


def claims_table(results: pd.DataFrame, rules: Mapping[str, Any], rho: float = 0.0) -> pd.DataFrame:
    """Every test of every claim whose arms were run at this rho, one a row: claim, says, measure, contrast, interval,
    test, outcome, and the claim's verdict. (The arms with few responses were run at rho 0 alone.)"""
    import pandas as pd

    rows = []
    for claim in rules["claims"]:
        own = []
        for test in claim["tests"]:
            if not set(test["arms"]) <= set(results.loc[np.isclose(results["rho"], rho), "arm"]):
                continue
            interval = contrast(results, test["measure"], test["arms"], rho)
            said = outcome(interval, test["test"], rules["margin"])
            what = (
                f"{test['test']} -{rules['margin']}"
                if test["test"] == "not below"
                else f"{test['test']} 0"
            )
            about = {"claim": claim["claim"], "says": claim["says"], "measure": test["measure"]}
            own.append(
                about
                | {
                    "contrast": " - ".join(test["arms"]),
                    "interval": interval,
                    "test": what,
                    "outcome": said,
                }
            )
        verdict = verdict_of([row["outcome"] for row in own])
        rows += [{**row, "verdict": verdict} for row in own]
    return pd.DataFrame(rows)
