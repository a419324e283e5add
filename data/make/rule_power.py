"""How often would the rule call a claim reproduced? results/rule_power.json, by simulation.

    python data/make/rule_power.py

A claim holds if all its tests hold, so its power is below that of each. Here every difference that
a claim tests is as large as SHARE of what DPO (for DORPO's claims ORPO) lost or gained against its
start in that measure; usable or valid samples, which are tested for "not below", differ by 0. Each
repeat draws as many seeds as were recorded, with replacement, from the seeds' own differences,
centred. The spread is that of the test seeds, so this was computed after the verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ddpo_utils.course.recorded import load_plan, load_second_round, load_tiny_stories
from ddpo_utils.evaluation.statistics import mean_interval
from ddpo_utils.settings import get_profile
from ddpo_utils.small_world.claims import contrast, outcome, verdict_of
from ddpo_utils.storage.files import write_json
from ddpo_utils.training.run_folder import run_facts
from recording import folders, parser, run

COMMAND = "python data/make/rule_power.py"
SHARE = 0.25
REPEATS = 2000
EXPERIMENTS = {"tiny_stories": load_tiny_stories, "second_round": load_second_round}


def effect_of(results: pd.DataFrame, test: Mapping[str, Any]) -> float:
    """The simulated difference of a test, with the sign that the test hopes for."""
    if test["test"] == "not below":
        return 0.0
    method = "orpo" if test["arms"][0].startswith("dorpo") else "dpo"
    start = "sft" if method == "dpo" and "sft" in set(results["arm"]) else "start"
    moved = SHARE * abs(contrast(results, test["measure"], (method, start)).mean)
    return -moved if test["test"] == "below" else moved


def power_of_claim(
    results: pd.DataFrame, claim: Mapping[str, Any], margin: float, repeats: int = REPEATS
) -> float:
    """Share of the repeats in which the rule says "reproduced"."""
    columns = []
    for test in claim["tests"]:
        values = results.pivot(index="seed", columns="arm", values=test["measure"])
        first, second = (values[arm].astype(float) for arm in test["arms"])
        columns.append(first - second)
    gaps = pd.concat(columns, axis=1).dropna().to_numpy()
    gaps = gaps - gaps.mean(0) + [effect_of(results, test) for test in claim["tests"]]
    rng = np.random.default_rng(0)
    reproduced = 0
    for _ in range(repeats):
        drawn = gaps[rng.integers(0, len(gaps), len(gaps))]
        outcomes = []
        for test, own in zip(claim["tests"], drawn.T, strict=True):
            outcomes.append(outcome(mean_interval(own), test["test"], margin))
        reproduced += verdict_of(outcomes) == "reproduced"
    return reproduced / repeats


def main() -> None:
    args = parser(__doc__).parse_args()
    _, data = folders(args, "rule_power")
    record = run_facts(get_profile("laptop"), command=COMMAND)
    del record["settings"], record["model"]  # nothing is trained
    record |= {"share": SHARE, "repeats": REPEATS}
    for name, load in EXPERIMENTS.items():
        ends, _ = load()
        plan = load_plan(name)
        record[name] = {}
        for claim in plan["claims"]:
            power = power_of_claim(ends, claim, plan["margin"])
            record[name][claim["claim"]] = round(power, 3)
        print(name, record[name], flush=True)
    write_json(data / "results" / "rule_power.json", record)


if __name__ == "__main__":
    run(main)
