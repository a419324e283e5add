"""The paper's claims as contrasts between arms, and the rule that makes verdicts of them.

A contrast is the mean over worlds of a measure's difference between two arms, with its 95% t
interval; the unit is the world with its own tables, model, pairs and samples. The tests:

    above        holds if the interval is above 0, fails if it is below
    below        holds if the interval is below 0, fails if it is above
    not below    holds if the interval is above -margin (non-inferiority), fails if it is below

A test that neither holds nor fails is open. A claim is reproduced if all its tests hold, not
reproduced if one fails, and undecided otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.statistics import Interval, mean_interval
from ..settings import CourseError
from .experiment import INVALID
from .frontier import at_diversity, at_quality


def contrast(
    results: pd.DataFrame, measure: str, arms: Sequence[str], rho: float = 0.0
) -> Interval:
    """Mean and 95% interval over worlds of measure(arms[0]) - measure(arms[1]).

    `results` has seed, rho, arm and the measures. Worlds in which the measure is not defined (an
    arm has no valid sample) are left out; n counts the others. With fewer than two the interval
    has no bounds. CourseError where no world has such an arm.
    """
    at_rho = results[np.isclose(results["rho"], rho)]
    values = at_rho.pivot(index="seed", columns="arm", values=measure)
    for arm in arms:
        if arm not in values:
            raise CourseError(f"No world has the arm {arm!r} at rho {rho}: record it first.")
    first, second = arms
    gaps = (values[first] - values[second]).astype(float).dropna()
    if len(gaps) < 2:
        return Interval(float(gaps.mean()), -np.inf, np.inf, len(gaps))
    return mean_interval(gaps)


def matched_points(
    ends: pd.DataFrame,
    paths: pd.DataFrame,
    arm: str,
    control: str,
    start: str,
    quality: str,
    diversity: str,
) -> pd.DataFrame:
    """Rows of the control, for every seed that has both, where its path meets the arm's end.

    They are named "<control> at <arm>'s quality", "... <diversity>", "... KL between checkpoints",
    and hold every measure there (see `frontier`). `reached` is false where no checkpoint has the
    level: at equal diversity a point before the first checkpoint stands in, else the end.

    Args:
        ends: seed, arm, steps and the measures, one row an arm.
        paths: the same, one row a checkpoint before the end; both have kl, NaN for the start.
        start: arm in `ends` from which the control's path starts.
        quality, diversity: the measures at which the two are compared.
    """
    numeric = ends.select_dtypes("number").columns
    measures = [name for name in numeric if name not in ("seed", "steps", "rho", "kl")]
    rows = []
    for seed, of_seed in ends.groupby("seed"):
        of_arm = of_seed.set_index("arm")
        if not {arm, control} <= set(of_arm.index):
            continue  # a seed without this control
        own = paths[(paths["seed"] == seed) & (paths["arm"] == control)].sort_values("steps")
        trained = pd.concat([own, of_arm.loc[[control]]])
        path = pd.concat([of_arm.loc[[start]], trained])
        path = path[path[diversity].notna()].fillna({"kl": 0.0})  # the start's
        end = of_arm.loc[arm]
        kinds = {"quality": (quality, at_quality), diversity: (diversity, at_diversity)}
        kinds["KL between checkpoints"] = ("kl", at_quality)
        for kind, (level, at_level) in kinds.items():
            row = {"seed": seed, "rho": 0.0, "arm": f"{control} at {arm}'s {kind}"}
            row["reached"] = bool(trained[level].max() >= end[level])
            for measure in measures:
                row[measure] = at_level(path[level], end[level], path[measure])
            rows.append(row)
    return pd.DataFrame(rows)


def priced_quality(results: pd.DataFrame, price: float) -> pd.Series:
    """Mean quality of all samples where an invalid one counts as `price` in place of INVALID."""
    return results["quality"] + (price - INVALID) * (1 - results["valid"])


def outcome(interval: Interval, test: str, margin: float = 0.0) -> str:
    """What a test (else CourseError) says of a contrast: "holds", "fails" or "open"."""
    low, high = interval.low, interval.high
    if test == "below":  # the mirror image of "above"
        low, high = -high, -low
    elif test not in ("above", "not below"):
        raise CourseError(f"A test is above, below or not below; got {test!r}.")
    bound = -margin if test == "not below" else 0.0
    if low > bound:
        return "holds"
    return "fails" if high < bound else "open"


def verdict_of(outcomes: Sequence[str]) -> str:
    """reproduced, not reproduced or undecided, from the outcomes of a claim's tests."""
    if "fails" in outcomes:
        return "not reproduced"
    return "reproduced" if set(outcomes) == {"holds"} else "undecided"


def claims_table(results: pd.DataFrame, rules: Mapping[str, Any]) -> pd.DataFrame:
    """One row a test at rho 0: claim, says, measure, contrast, interval, test, outcome, verdict.

    Args:
        results: as for `contrast`.
        rules: with `claims` and `margin`, as in data/claims.json.

    Raises:
        CourseError: the rules or the results lack a part; it is named.
    """
    table = []
    try:
        margin = rules["margin"]
        for claim in rules["claims"]:
            rows = []
            for test in claim["tests"]:
                interval = contrast(results, test["measure"], test["arms"])
                bound = f"-{margin}" if test["test"] == "not below" else "0"
                row = {
                    "claim": claim["claim"],
                    "says": claim["says"],
                    "measure": test["measure"],
                    "contrast": " - ".join(test["arms"]),
                    "interval": interval,
                    "test": f"{test['test']} {bound}",
                    "outcome": outcome(interval, test["test"], margin),
                }
                rows.append(row)
            verdict = verdict_of([row["outcome"] for row in rows])
            table += [row | {"verdict": verdict} for row in rows]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CourseError(
            f"The results or the rules of the claims lack a part ({error}): compare the rules with "
            "data/claims.json."
        ) from None
    return pd.DataFrame(table)
