"""What data/results and data/claims.json hold, for the notebooks; data/make/ makes the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import decisions, load_prompts
from ..evaluation.statistics import Interval, difference, verdict
from ..evaluation.usability import Thresholds, check_stories, course_prompts, prompt_table
from ..models.sampling import read_samples
from ..settings import data_dir
from ..storage.files import read_json
from ..training.reference import matched_step

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "load_results",
    "load_rivals",
    "load_seeds",
    "load_world",
    "real_models",
    "rules",
    "trust_table",
]

KINDS = ("matter", "manner", "wording")


def _results(name: str) -> Path:
    return data_dir() / "results" / name


def rules() -> dict[str, Any]:
    """data/claims.json: the small world's sizes, settings, seeds, candidates, claims, margin."""
    return read_json(data_dir() / "claims.json")


def _samples(name: str) -> pd.DataFrame:
    """Recorded samples with prompt, arm and step; "dpo-14" is dpo after 14 steps, "sft" after 0."""
    prompts = load_prompts()[["prompt_id", "prompt"]]
    samples = read_samples(_results(name)).merge(prompts, on="prompt_id")
    parts = samples["source"].str.partition("-")
    return samples.assign(arm=parts[0], step=parts[2].replace("", "0").astype(int))


def load_results() -> tuple[dict[str, Any], pd.DataFrame]:
    """The recorded runs: runs.json, and the samples with prompt, arm, step and last.

    arm is start, sft, dpo, ddpo or shuffled; step is the checkpoint's, 0 for start and sft; last
    marks each arm's final checkpoint.
    """
    samples = _samples("samples.jsonl")
    samples["last"] = samples["step"] == samples.groupby("arm")["step"].transform("max")
    return read_json(_results("runs.json")), samples


def load_seeds() -> tuple[dict[str, Any], pd.DataFrame]:
    """The runs of further seeds: seeds.json, and the samples with seed, prompt, arm and step."""
    return read_json(_results("seeds.json")), _samples("seeds.jsonl")


def load_rivals() -> tuple[dict[str, Any], pd.DataFrame]:
    """rivals.json, and the stories of the rivals and of the recorded models at their last step."""
    import pandas as pd

    _, trained = load_results()
    trained = trained[trained["last"]].assign(source=trained["arm"])
    prompts = load_prompts()[["prompt_id", "prompt"]]
    rivals = read_samples(_results("rivals.jsonl")).merge(prompts, on="prompt_id")
    return read_json(_results("rivals.json")), pd.concat([trained, rivals], ignore_index=True)


def load_world() -> pd.DataFrame:
    """The recorded test worlds: seed, rho, arm and the figures of `experiment.count_samples`."""
    import pandas as pd

    paths = sorted(_results("world").glob("*.json"), key=lambda path: int(path.stem))
    frames = [pd.DataFrame(read_json(path)["rows"]).assign(seed=int(path.stem)) for path in paths]
    return pd.concat(frames, ignore_index=True)


def trust_table() -> pd.DataFrame:
    """What each measure of diversity answered to sets whose order is known, one row a measure.

    The rule in data/make/measures.py sorts the rows: kind by kind, the recommended ones first and
    the best first.

    Returns:
        A frame with kind; authors, assistant (mean scores); room (from the authors to the largest
        possible score, as a share of the gap); auc, paired and the contrasts as Intervals over
        prompts; failed (tests); recommendation.
    """
    import pandas as pd

    rows = {}
    for name, recorded in read_json(_results("measures.json"))["measures"].items():
        tests = recorded.pop("tests")
        row = {}
        for key, value in recorded.items():
            row[key] = Interval(*value) if isinstance(value, list) else value
        row["room"] = np.inf if row["room"] is None else row["room"]
        row["failed"] = ", ".join(test for test, passed in tests.items() if not passed)
        rows[name] = row

    def place(name: str) -> tuple[Any, ...]:
        row = rows[name]
        refused = row["recommendation"].startswith("no")
        failures = len(row["failed"].split(", ")) if row["failed"] else 0
        return KINDS.index(row["kind"]), refused, failures, -row["auc"].low, -row["paired"].low

    ordered = {name: rows[name] for name in sorted(rows, key=place)}
    return pd.DataFrame.from_dict(ordered, orient="index")


def real_models() -> dict[str, str]:
    """What the recorded runs of a real model say of claims (a) and (b), in words.

    Diversity is semantic, by the encoder that made no weights. The intervals are over prompts for
    claim (a), since only seed 42 has samples of SFT, and over seeds and prompts for claim (b).
    """
    runs, samples = load_results()
    seeds, more = load_seeds()
    thresholds, pool = Thresholds.read(decisions()), course_prompts()
    recorded = {42: (runs, samples)}
    for seed, run in seeds["seeds"].items():
        recorded[int(seed)] = run, more[more["seed"] == int(seed)]
    tables: dict[tuple[str, int], pd.DataFrame] = {}
    for seed, (run, stories) in recorded.items():
        plausible = thresholds.logprob_range(run["authors_logp"])
        last = stories.groupby("arm")["step"].max()
        kl = {arm: run["arms"][arm]["kl"] for arm in ("ddpo", "dpo")}
        steps = {arm: last[arm] for arm in ("sft", "dpo", "shuffled") if arm in last}
        steps["ddpo"] = matched_step(kl["ddpo"], kl["dpo"])
        for arm, step in steps.items():
            chosen = stories[(stories["arm"] == arm) & (stories["step"] == step)]
            checks = check_stories(chosen, thresholds, pool, logprob_range=plausible)
            tables[arm, seed] = prompt_table(chosen, checks, {"semantic": "wordllama"})
    lost = difference(tables["dpo", 42]["semantic"], tables["sft", 42]["semantic"])
    values = []
    for column in ("semantic", "usable"):
        by_arm = {}
        for arm in ("ddpo", "dpo", "shuffled"):
            by_arm[arm] = np.array([tables[arm, seed][column] for seed in recorded])
        values.append(by_arm)
    result = verdict(*values, thresholds.usable_margin)
    decided = result["verdict"].partition(" (")[0]
    return {
        "a": f"these two adapters: DPO - SFT {lost} (cosine distance)",
        "b": f"{decided}; {len(recorded)} seeds: DDPO - DPO {result['to_dpo']}, "
        f"- shuffled {result['to_shuffled']} (cosine distance, matched KL)",
    }
