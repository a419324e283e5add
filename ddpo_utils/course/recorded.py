"""What data/results and data/claims.json hold, for the notebooks; data/make/ makes the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import decisions, load_prompts
from ..evaluation.statistics import Interval, detectable, difference, verdict
from ..evaluation.usability import Thresholds, check_stories, course_prompts, prompt_table
from ..models.sampling import read_samples
from ..settings import data_dir
from ..small_world.claims import claims_table, contrast, matched_points
from ..storage.files import read_json
from ..training.reference import matched_step
from .plots import in_words

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "claims_text",
    "contrast_table",
    "load_plan",
    "load_results",
    "load_rivals",
    "load_second_round",
    "load_seeds",
    "load_tiny_stories",
    "load_world",
    "real_models",
    "trust_table",
]

MATCHED = (("ddpo", "dpo"), ("ddpo", "shuffled"))  # arm, and control whose path is compared with it
TINY_MATCHED = (*MATCHED, ("ddpo", "dpo-beta"), ("dorpo", "orpo"), ("dorpo", "dorpo-shuffled"))
KINDS = {"matter": "semantic", "manner": "style", "wording": "wording"}  # in the record: here
# By the rule it had "yes". Read afterwards, people's judgements of 1,000 pairs (novelty.json) agree
# with its threshold in 0.44 of cases, and always answering "different" gets 0.67.
WITHDRAWN = {"distinct-4, MiniLM": "no: its threshold fails people's labels"}


def _results(name: str) -> Path:
    return data_dir() / "results" / name


def load_plan(name: str) -> dict[str, Any]:
    """An experiment's plan in data/: its seeds, settings, arms, claims and margin.

    "claims" is the first round in the small world, "second_round" the second; "tiny_stories" are
    the runs on a real model's own stories.
    """
    return read_json(data_dir() / f"{name}.json")


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


def load_second_round() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The worlds of the second round: (ends of the arms, checkpoints before them).

    The ends hold the matched points too, such as "dpo at ddpo's quality".
    """
    import pandas as pd

    ends, paths = [], []
    for seed in load_plan("second_round")["seeds"]:
        file = _results("second_round") / f"{seed}.json"
        if file.is_file():
            record = read_json(file)
            ends.append(pd.DataFrame(record["rows"]).assign(seed=seed))
            paths.append(pd.DataFrame(record["paths"]).assign(seed=seed))
    end = pd.concat(ends, ignore_index=True)
    path = pd.concat(paths, ignore_index=True)
    along = {"quality": "quality of the valid", "diversity": "total"}
    pairs = [*[(*pair, "sft") for pair in MATCHED], ("dorpo", "orpo", "start")]
    points = [matched_points(end, path, *pair, **along) for pair in pairs]
    return pd.concat([end, *points], ignore_index=True), path


def load_tiny_stories() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs on tiny stories: (ends of the arms, checkpoints before them).

    Each row holds a seed, an arm, its steps and the means over prompts of the measures of
    data/make/tiny_stories.py. The ends hold the matched points too, and "dpo-matched", the
    checkpoint of DPO nearest to DDPO in KL.
    """
    import pandas as pd

    plan = load_plan("tiny_stories")
    of_runs = []
    for seed in plan["seeds"]:
        path = _results("tiny_stories") / f"{seed}.json"
        rows = read_json(path)["rows"] if path.is_file() else []
        if not set(plan["first_tier"]) <= {row["arm"] for row in rows}:
            continue  # not made, or not to the end
        for row in rows:
            run = {"seed": seed, "arm": row["arm"], "steps": row["step"], "kl": row.get("kl")}
            of_runs.append(run | dict(pd.DataFrame(row["prompts"]).astype(float).mean()))
    means = pd.DataFrame(of_runs).astype({"kl": float})
    last = means.groupby(["seed", "arm"])["steps"].transform("max")
    ends = means[means["steps"] == last]
    paths = means[means["steps"] < last]
    parts = [ends, _at_equal_kl(means)]
    for diversity in ("semantic, judge", "style, judge"):
        along = {"start": "start", "quality": "typical", "diversity": diversity}
        parts += [matched_points(ends, paths, *pair, **along) for pair in TINY_MATCHED]
    everything = pd.concat(parts, ignore_index=True).assign(rho=0.0)
    # the points at equal quality and KL are the same for both kinds of diversity
    return everything.drop_duplicates(["seed", "arm"]), paths


def _at_equal_kl(means: pd.DataFrame) -> pd.DataFrame:
    """For every seed DPO's checkpoint whose KL is nearest to that of DDPO's end."""
    import pandas as pd

    rows = []
    for _, of_seed in means.groupby("seed"):
        dpo = of_seed[of_seed["arm"] == "dpo"].set_index("steps", drop=False)
        ddpo = of_seed[of_seed["arm"] == "ddpo"].set_index("steps", drop=False)
        step = matched_step(dpo["kl"].to_dict(), ddpo["kl"].to_dict())
        rows.append(dpo.loc[[step]])
    return pd.concat(rows).assign(arm="dpo-matched")


def _plain(text: str, said: Mapping[str, str] | None) -> str:
    """The text with `said`'s words in place of the plan's."""
    for word, other in (said or {}).items():
        text = text.replace(word, other)
    return text


def contrast_table(
    results: pd.DataFrame,
    measures: Sequence[str],
    pairs: Sequence[Sequence[str]],
    said: Mapping[str, str] | None = None,
    rho: float = 0.0,
) -> pd.DataFrame:
    """`contrast` as text, pairs by measures; `said` holds words to use in place of the plan's."""
    import pandas as pd

    rows = {}
    for pair in pairs:
        row = {}
        for measure in measures:
            row[_plain(measure, said)] = str(contrast(results, measure, pair, rho))
        rows[in_words(_plain(" - ".join(pair), said))] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def claims_text(
    results: pd.DataFrame, plan: Mapping[str, Any], said: Mapping[str, str] | None = None
) -> str:
    """The plan's claims with their tests and verdicts, and how often a path reaches them.

    "finds" is how far beyond its bound the truth must lie for a test to hold in 80% of repeats.
    `said` as in `contrast_table`.
    """
    table = claims_table(results, plan)
    tested = " ".join(table["contrast"])
    table["contrast"] = [in_words(_plain(text, said)) for text in table["contrast"]]
    width = table["contrast"].str.len().max()
    lines = []
    for claim, tests in table.groupby("claim", sort=False):
        lines.append(f"({claim}) {_plain(tests['says'].iloc[0], said)}")
        for test in tests.itertuples():
            found = f"{test.interval!s:24} {test.test:15} {test.outcome:5}"
            compared = f"{_plain(test.measure, said):20} {test.contrast:{width}}"
            lines.append(f"   {compared} {found} finds {detectable(test.interval):.3f}")
        lines.append(f"   -> {tests['verdict'].iloc[0]}")
    if "reached" in results:
        for point, reached in results.dropna(subset="reached").groupby("arm")["reached"]:
            name = in_words(_plain(point, said))
            if point in tested:
                lines.append(f"{name:{width}} reached in {sum(reached)} of {len(reached)}")
    return "\n".join(lines)


def trust_table() -> pd.DataFrame:
    """What each measure of diversity gave on sets whose order is known, one row a measure.

    Kind by kind, the recommended measures first and the best first.

    Returns:
        A frame with kind; authors, assistant (mean scores); room (from the authors to the largest
        possible score, as a share of the gap); auc, paired and the contrasts as Intervals over
        prompts; failed (tests); recommendation (by the rule in data/make/measures.py, but for
        WITHDRAWN).
    """
    import pandas as pd

    rows = {}
    order = {}
    for name, recorded in read_json(_results("measures.json"))["measures"].items():
        row = {}
        for key, value in recorded.items():
            row[key] = Interval(*value) if isinstance(value, list) else value
        if row["room"] is None:
            row["room"] = np.inf
        tests = row.pop("tests")
        failed = [test for test, passed in tests.items() if not passed]
        row["failed"] = ", ".join(failed)
        row["recommendation"] = WITHDRAWN.get(name, row["recommendation"])
        place = list(KINDS).index(row["kind"])
        row["kind"] = KINDS[row["kind"]]
        refused = row["recommendation"].startswith("no")
        order[name] = (place, refused, len(failed), -row["auc"].low, -row["paired"].low)
        rows[name] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.loc[sorted(order, key=order.get)]


def real_models() -> dict[str, str]:
    """What the recorded runs of a real model say of claims (a) and (b), in words.

    Diversity is semantic, by the encoder that made no weights. The intervals are over prompts for
    claim (a), since only seed 42 has samples of SFT, and over seeds and prompts for claim (b).
    """
    runs, samples = load_results()
    further, more = load_seeds()
    thresholds = Thresholds.read(decisions())
    tables = [_tables(runs, samples, thresholds)]
    for seed, run in further["seeds"].items():
        tables.append(_tables(run, more[more["seed"] == int(seed)], thresholds))

    def by_seed(column: str) -> dict[str, np.ndarray]:
        """Arm -> matrix (seeds, prompts)."""
        matrices = {}
        for arm in ("ddpo", "dpo", "shuffled"):
            matrices[arm] = np.array([table[arm][column] for table in tables])
        return matrices

    lost = difference(tables[0]["dpo"]["semantic"], tables[0]["sft"]["semantic"])
    usable = by_seed("usable")
    stories = int(samples.groupby(["source", "prompt_id"]).size().min())
    result = verdict(by_seed("semantic"), usable, thresholds.usable_margin, stories=stories)
    decided = result["verdict"].partition(" (")[0]
    return {
        "a": f"one seed: DPO - SFT {lost} (cosine distance)",
        "b": f"{decided}; {len(tables)} seeds: DDPO - DPO {result['to_dpo']}, "
        f"- shuffled {result['to_shuffled']} (cosine distance, matched KL)",
    }


def _tables(
    run: dict[str, Any], samples: pd.DataFrame, thresholds: Thresholds
) -> dict[str, pd.DataFrame]:
    """Arm -> its prompts: the last checkpoint's, but DDPO's at the KL of DPO."""
    steps = samples.groupby("arm")["step"].max().drop("start", errors="ignore")
    kl = {arm: run["arms"][arm]["kl"] for arm in ("ddpo", "dpo")}
    steps["ddpo"] = matched_step(kl["ddpo"], kl["dpo"])
    plausible = thresholds.logprob_range(run["authors_logp"])
    tables = {}
    for arm, step in steps.items():
        stories = samples[(samples["arm"] == arm) & (samples["step"] == step)]
        checks = check_stories(stories, thresholds, course_prompts(), logprob_range=plausible)
        tables[arm] = prompt_table(stories, checks, {"semantic": "wordllama"})
    return tables
