"""Which measure of diversity can be trusted? Each one's answers to sets whose order is known (contrasts.py).

    python -m ddpo_utils record --measures       data/results/measures.json, in a minute or two

What a trustworthy measure does was written here before any of the answers was read. Every measure is turned so that
larger means more diverse. Separation is the AUC: how often a set of four by four authors scores above one of the
assistant's, over all pairs of prompts; beside it stands the paired difference over prompts in its own standard
deviations. The answer to a contrast is a share of the gap between authors and assistant: 0 is the authors' level, -1
the assistant's. Intervals are over prompts (bootstrap). With the tolerance of a quarter of the gap:

    separates     the lower end of the AUC's interval is at least 0.75, half way from chance to certainty
    sameness      four paraphrases of one story score as low as the assistant: the upper end is at most -0.75
    plots         of matter alone: one plot in four voices scores low by the same bound
    voices        of manner alone: one voice on four prompts scores low by the same bound
    length        the first 25 and 50 words score as the whole stories: both intervals lie within 0.25 of 0
    gibberish     random words are not rewarded: both upper ends are at most 0.25
    off topic     nor are stories of other prompts: both upper ends are at most 0.25 (of manner: the one story alone)

The recommendation follows by rule. A measure that fails `separates` or `sameness` is not a measure of diversity here:
"no". The others are recommended with what their failures ask for: `length`, "at a common length"; `gibberish` or `off
topic`, "beside the share of usable stories"; `plots`, "not for plots"; `voices`, "not for voices across prompts". Of
each kind (matter, manner, wording) the one with the fewest failures comes first; of equals the one whose AUC's interval
begins higher, then the difference's.

Amended twice after the first reading. (1) A bounded measure whose authors lie within 0.25 of the gap below its largest
value cannot fail the last three tests, so it does not pass them either: it "says nothing above the authors". Without
this, distinct-4 would come first in matter. (2) `voices` was the test of sameness for measures of manner; all three
failed it (the stylometric distance by a hair's breadth), so that none was recommended. Now it is a test of its own.

The style encoders were fitted on the authors' stories of these prompts, which flatters them here; no encoder but
MiniLM and the stylometric one made weights in this course.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..deviation import diversity
from ..embeddings.encoders import load_encoder
from ..evaluation.lexical import compression_ratio, ngram_diversity, rouge_homogenisation, self_bleu
from ..evaluation.statistics import Interval, bootstrap_interval
from ..evaluation.variety import distinct_k, vendi_score
from ..settings import CourseError, data_dir, get_profile
from ..training.runs import run_facts, write_json
from .contrasts import CONTRASTS, SIZE, Sets, build_contrasts, distinct_threshold

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MEASURES",
    "Measure",
    "judge",
    "load_measures",
    "measure_sets",
    "recommend",
    "record_measures",
    "separation",
    "share",
    "trust_table",
]

DRAWS, SEED, TOLERANCE, LEAST_AUC = 20, 0, 0.25, 0.75
SPREAD = SIZE / (SIZE - 1)  # mean pairwise distance of rows that sum to 0, the largest there is


@dataclass(frozen=True)
class Measure:
    """A measure of one set: of matter, manner or wording; score takes the encoder's rows, or without one the texts."""

    kind: str
    score: Callable[[Any], float]
    encoder: str = ""
    sign: int = 1  # -1: a larger score means less diverse
    most: float = np.inf  # what the most diverse set could reach, after the sign


def _share_of_classes(threshold: float) -> Callable[[np.ndarray], float]:
    return lambda rows: distinct_k(rows, threshold) / SIZE


DISTINCT = "distinct-4, MiniLM"  # its threshold is chosen as it is recorded
MEASURES = {
    "distance, MiniLM": Measure("matter", diversity, "minilm", most=SPREAD),
    "distance, wordllama": Measure("matter", diversity, "wordllama", most=SPREAD),
    "Vendi, MiniLM": Measure("matter", vendi_score, "minilm", most=SIZE),
    DISTINCT: Measure("matter", _share_of_classes(0.0), "minilm", most=1),
    "distance, stylometric": Measure("manner", diversity, "stylometric", most=SPREAD),
    "distance, Delta": Measure("manner", diversity, "delta", most=SPREAD),
    "Vendi, stylometric": Measure("manner", vendi_score, "stylometric", most=SIZE),
    "compression ratio": Measure("wording", compression_ratio, sign=-1),
    "ROUGE-L": Measure("wording", rouge_homogenisation, sign=-1, most=0),
    "self-BLEU": Measure("wording", self_bleu, sign=-1, most=0),
    "n-gram diversity": Measure("wording", ngram_diversity, most=4),
}


def measure_sets(measure: Measure, sets: Sets) -> dict[str, dict[str, np.ndarray]]:
    """The measure of every set, larger = more diverse: contrast -> prompt -> (sets,)."""
    prepare: Callable[[list[str]], Any] = list
    if measure.encoder:
        every = (four for by_prompt in sets.values() for s in by_prompt.values() for four in s)
        texts = list(dict.fromkeys(chain.from_iterable(every)))
        rows = dict(zip(texts, load_encoder(measure.encoder).encode(texts), strict=True))
        prepare = lambda four: np.stack([rows[text] for text in four])
    return {
        name: {
            p: np.array([measure.sign * measure.score(prepare(four)) for four in s])
            for p, s in by_prompt.items()
        }
        for name, by_prompt in sets.items()
    }


def separation(
    authors: Sequence[np.ndarray], assistant: Sequence[np.ndarray]
) -> tuple[Interval, Interval]:
    """AUC of single sets over all pairs of prompts, and the paired difference over prompts in its own deviations.

    Args:
        authors, assistant: for each prompt, in the same order, the values of its sets.
    """
    above = np.array([[_above(a, b) for b in assistant] for a in authors])
    auc = bootstrap_interval(lambda drawn: float(above[np.ix_(drawn, drawn)].mean()), len(authors))
    gap = np.array([a.mean() - b.mean() for a, b in zip(authors, assistant, strict=True)])
    paired = bootstrap_interval(
        lambda drawn: float(gap[drawn].mean() / gap[drawn].std(ddof=1)), len(gap)
    )
    return auc, paired


def _above(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pairs in which a is larger; ties, which rounding must not break, count half."""
    difference = a[:, None] - b
    tied = np.abs(difference) < 1e-9
    return float(((difference > 0) & ~tied).mean() + tied.mean() / 2)


def share(contrast: np.ndarray, authors: np.ndarray, assistant: np.ndarray) -> Interval:
    """Mean of contrast - authors over the mean of authors - assistant, with its interval over prompts.

    Args:
        contrast, authors, assistant: (P,) one mean a prompt, of the same prompts.
    """
    moved, gap = contrast - authors, authors - assistant
    return bootstrap_interval(
        lambda drawn: float(moved[drawn].mean() / gap[drawn].mean()), len(gap)
    )


def judge(
    kind: str, auc: Interval, answers: Mapping[str, Interval], room: float = np.inf
) -> dict[str, bool]:
    """Which of the tests above a measure of this kind passes.

    Args:
        answers: by contrast.
        room: from the authors' level to the measure's largest value, as a share of the gap.
    """
    highest = lambda *names: max(answers[name].high for name in names)
    lowest = min(answers[name].low for name in ("length_25", "length_50"))
    topics = ("off_topic_1",) if kind == "manner" else ("off_topic_1", "off_topic_4")
    can_fail = room > TOLERANCE
    tests = {
        "separates": auc.low >= LEAST_AUC,
        "sameness": highest("paraphrase") <= TOLERANCE - 1,
        "plots": highest("same_plot") <= TOLERANCE - 1,
        "voices": highest("off_topic_4") <= TOLERANCE - 1,
        "length": can_fail and max(-lowest, highest("length_25", "length_50")) <= TOLERANCE,
        "gibberish": can_fail and highest("gibberish_1", "gibberish_4") <= TOLERANCE,
        "off topic": can_fail and highest(*topics) <= TOLERANCE,
    }
    asked_of = {"plots": "matter", "voices": "manner"}
    return {
        name: bool(passed) for name, passed in tests.items() if asked_of.get(name, kind) == kind
    }


def recommend(tests: Mapping[str, bool], room: float = np.inf) -> str:
    """What the tests passed and failed ask for, by the rule above."""
    lacking = [name for name in ("separates", "sameness") if not tests[name]]
    if lacking:
        return f"no: fails {' and '.join(lacking)}"
    asks = ["at a common length"] * (not tests["length"])
    asks += ["beside the share of usable stories"] * (
        not (tests["gibberish"] and tests["off topic"])
    )
    asks += ["not for plots"] * (not tests.get("plots", True))
    asks += ["not for voices across prompts"] * (not tests.get("voices", True))
    asks += ["says nothing above the authors"] * (room <= TOLERANCE)
    return ", ".join(["yes", *asks])


def _row(measure: Measure, sets: Sets, without: Sequence[str]) -> dict[str, Any]:
    values = measure_sets(measure, sets)
    prompts = {
        name: [p for p in by_prompt if p not in without] for name, by_prompt in values.items()
    }
    auc, paired = separation(
        *[[values[s][p] for p in prompts["authors"]] for s in ("authors", "assistant")]
    )
    mean = lambda name, of: np.array([values[name][p].mean() for p in of])
    answers = {
        name: share(*[mean(source, prompts[name]) for source in (name, "authors", "assistant")])
        for name in CONTRASTS
    }
    authors, assistant = (
        mean(name, prompts["authors"]).mean() for name in ("authors", "assistant")
    )
    room = float((measure.most - authors) / (authors - assistant))
    tests = judge(measure.kind, auc, answers, room)
    numbers = {"auc": auc, "paired": paired, **answers}
    return {
        "kind": measure.kind,
        "authors": round(measure.sign * float(authors), 4),
        "assistant": round(measure.sign * float(assistant), 4),
        "room": round(room, 3) if np.isfinite(room) else None,
        **{
            name: [round(i.mean, 4), round(i.low, 4), round(i.high, 4), i.n]
            for name, i in numbers.items()
        },
        "tests": tests,
        "recommendation": recommend(tests, room),
    }


def record_measures() -> None:
    """Measure every set by every measure, apply the rule, and write data/results/measures.json."""
    from importlib.metadata import version

    from tqdm import tqdm

    sets = build_contrasts(DRAWS, SEED)
    threshold, rows = distinct_threshold(sets), {}
    for name, measure in tqdm(MEASURES.items(), desc="measures"):
        if name == DISTINCT:  # the prompts that chose its threshold may not speak for it
            measure = replace(measure, score=_share_of_classes(threshold["cosine"]))
            rows[name] = _row(measure, sets, threshold["chosen_on"])
        else:
            rows[name] = _row(measure, sets, ())
    facts = run_facts(get_profile("laptop"), command="python -m ddpo_utils record --measures")
    del facts["settings"], facts["model"]  # neither has a part in it
    for package in ("sentence-transformers", "wordllama", "scikit-learn", "rapidfuzz"):
        facts["versions"][package] = version(package)
    how = {
        "size": SIZE,
        "draws": DRAWS,
        "seed": SEED,
        "tolerance": TOLERANCE,
        "least_auc": LEAST_AUC,
    }
    write_json(
        data_dir() / "results" / "measures.json",
        {**facts, **how, "threshold": threshold, "measures": rows},
    )


def load_measures() -> dict[str, Any]:
    """data/results/measures.json: what made it, distinct-4's threshold with its test, and the answers by measure.

    Raises:
        CourseError: nothing is recorded.
    """
    path = data_dir() / "results" / "measures.json"
    if not path.is_file():
        raise CourseError("No measures are recorded: run `python -m ddpo_utils record --measures`.")
    return json.loads(path.read_text(encoding="utf-8"))


def trust_table() -> pd.DataFrame:
    """The recorded answers, one row a measure, kind by kind, the recommended ones first and the first best.

    Returns:
        A frame with kind; authors, assistant (mean scores as the measure gives them); room (see `judge`); auc, paired
        and the contrasts of `contrasts.CONTRASTS` as Intervals over prompts; failed (tests); recommendation.

    Raises:
        CourseError: nothing is recorded.
    """
    import pandas as pd

    rows = {}
    for name, row in load_measures()["measures"].items():
        rows[name] = {
            key: Interval(*value) if isinstance(value, list) else value
            for key, value in row.items()
        }
        rows[name]["room"] = np.inf if row["room"] is None else row["room"]
        rows[name]["failed"] = ", ".join(
            test for test, passed in rows[name].pop("tests").items() if not passed
        )
    kinds = list(dict.fromkeys(measure.kind for measure in MEASURES.values()))

    def place(name: str) -> tuple[Any, ...]:
        row = rows[name]
        refused = row["recommendation"].startswith("no")
        failures = len(row["failed"].split(", ")) if row["failed"] else 0
        return kinds.index(row["kind"]), refused, failures, -row["auc"].low, -row["paired"].low

    return pd.DataFrame.from_dict(
        {name: rows[name] for name in sorted(rows, key=place)}, orient="index"
    )
