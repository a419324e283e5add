"""Which measure of diversity can be trusted? Each one's answers to sets whose order is known (contrasts.py).

    python -m ddpo_utils record --measures       data/results/measures.json, in a minute or two

What a trustworthy measure does was written here before any of the answers was read. Every measure is turned so that
larger means more diverse. Separation is the AUC: how often a set of four by four authors scores above one of the
assistant's, over all pairs of prompts; beside it stands the paired difference over prompts in its own standard
deviations. The answer to a contrast is a share of the gap between authors and assistant: 0 is the authors' level, -1
the assistant's. Intervals are over prompts (bootstrap). With the tolerance of a quarter of the gap:

    separates     the lower end of the AUC's interval is at least 0.75, half way from chance to certainty
    sameness      what is the same scores as low as the assistant: the upper end is at most -0.75, for four paraphrases
                  or, where manner is measured, for one voice on four prompts (a paraphrase may change the manner)
    plots         one plot in four voices scores low by the same bound; asked of measures of matter alone
    length        the first 25 and 50 words score as the whole stories: both intervals lie within 0.25 of 0
    gibberish     random words are not rewarded: both upper ends are at most 0.25
    off topic     nor are stories of other prompts: both upper ends are at most 0.25 (of manner: the one story alone)

The recommendation follows by rule. A measure that fails `separates` or `sameness` is not a measure of diversity here:
"no". The others are recommended with what their failures ask for: `length`, "at a common length"; `gibberish` or `off
topic`, "beside the share of usable stories"; `plots`, "not for plots". Of each kind (matter, manner, wording) the one
with the fewest failures comes first; of equals the one whose AUC's interval begins higher, then the difference's.

The style encoders were fitted on the authors' stories of these prompts, which flatters them here; no encoder but
MiniLM and the stylometric one made weights in this course.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .contrasts import CONTRASTS, SIZE, Sets, build_contrasts, load_contrasts
from .deviation import diversity
from .encoders import load_encoder
from .lexical import compression_ratio, ngram_diversity, rouge_homogenisation, self_bleu
from .profiles import CourseError, data_dir, get_profile
from .runs import run_facts, write_json
from .stats import Interval, bootstrap_interval
from .variety import distinct_k, vendi_score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURES", "Measure", "choose_threshold", "judge", "record_measures", "separation", "share", "trust_table"]

DRAWS, SEED, TOLERANCE, LEAST_AUC = 20, 0, 0.25, 0.75


@dataclass(frozen=True)
class Measure:
    """A measure of one set: of matter, manner or wording; score takes the encoder's rows, or without one the texts."""

    kind: str
    score: Callable[[Any], float]
    encoder: str = ""
    sign: int = 1  # -1: a larger score means less diverse


def _share_of_classes(threshold: float) -> Callable[[np.ndarray], float]:
    return lambda rows: distinct_k(rows, threshold) / SIZE


DISTINCT = "distinct-4, MiniLM"
MEASURES = {
    "distance, MiniLM": Measure("matter", diversity, "minilm"),
    "distance, wordllama": Measure("matter", diversity, "wordllama"),
    "Vendi, MiniLM": Measure("matter", vendi_score, "minilm"),
    DISTINCT: Measure("matter", _share_of_classes(0.0), "minilm"),  # the threshold is chosen when it is measured
    "distance, stylometric": Measure("manner", diversity, "stylometric"),
    "distance, Delta": Measure("manner", diversity, "delta"),
    "Vendi, stylometric": Measure("manner", vendi_score, "stylometric"),
    "compression ratio": Measure("wording", compression_ratio, sign=-1),
    "ROUGE-L": Measure("wording", rouge_homogenisation, sign=-1),
    "self-BLEU": Measure("wording", self_bleu, sign=-1),
    "n-gram diversity": Measure("wording", ngram_diversity),
}


def measure_sets(measure: Measure, sets: Sets) -> dict[str, dict[str, np.ndarray]]:
    """The measure of every set, larger = more diverse: contrast -> prompt -> (sets,)."""
    prepare: Callable[[list[str]], Any] = list
    if measure.encoder:
        every = chain.from_iterable(four for by_prompt in sets.values() for s in by_prompt.values() for four in s)
        texts = list(dict.fromkeys(every))
        rows = dict(zip(texts, load_encoder(measure.encoder).encode(texts), strict=True))
        prepare = lambda four: np.stack([rows[text] for text in four])  # noqa: E731
    return {
        name: {p: np.array([measure.sign * measure.score(prepare(four)) for four in s]) for p, s in by_prompt.items()}
        for name, by_prompt in sets.items()
    }


def separation(authors: Sequence[np.ndarray], assistant: Sequence[np.ndarray]) -> tuple[Interval, Interval]:
    """AUC of single sets over all pairs of prompts, and the paired difference over prompts in its own deviations.

    Args:
        authors, assistant: for each prompt, in the same order, the values of its sets.
    """
    above = np.array([[_above(a, b) for b in assistant] for a in authors])
    auc = bootstrap_interval(lambda drawn: float(above[np.ix_(drawn, drawn)].mean()), len(authors))
    gap = np.array([a.mean() - b.mean() for a, b in zip(authors, assistant, strict=True)])
    paired = bootstrap_interval(lambda drawn: float(gap[drawn].mean() / gap[drawn].std(ddof=1)), len(gap))
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
    return bootstrap_interval(lambda drawn: float(moved[drawn].mean() / gap[drawn].mean()), len(gap))


def choose_threshold(alike: np.ndarray, apart: np.ndarray) -> float:
    """The cosine that best tells pairs that count as one from pairs that do not: the largest sum of the two shares
    that it gets right, half way to the next lower value.

    Args:
        alike, apart: cosines of the pairs of each kind.
    """
    values = np.unique(np.concatenate([alike, apart]))
    edges = (values[1:] + values[:-1]) / 2
    right = [(alike >= edge).mean() + (apart < edge).mean() for edge in edges]
    return float(edges[np.argmax(right)])


def _threshold(sets: Sets) -> dict[str, Any]:
    """distinct-4's threshold by every other prompt with paraphrases, and how it does on the ones between."""
    written = load_contrasts().query("kind == 'paraphrase'")
    prompts = sorted(written["prompt_id"].unique())
    encoder, upper = load_encoder("minilm"), lambda rows: (rows @ rows.T)[np.triu_indices(len(rows), 1)]

    def cosines(part: list[str]) -> tuple[np.ndarray, np.ndarray]:
        alike = [upper(encoder.encode(sets["paraphrase"][p][0])) for p in part]
        authors = [list(dict.fromkeys(text for four in sets["authors"][p] for text in four)) for p in part]
        return np.concatenate(alike), np.concatenate([upper(encoder.encode(texts)) for texts in authors])

    value = round(choose_threshold(*cosines(prompts[::2])), 3)
    alike, apart = cosines(prompts[1::2])
    return {
        "cosine": value, "encoder": "minilm", "chosen_on": prompts[::2], "tested_on": prompts[1::2],
        "paraphrases_joined": round(float((alike >= value).mean()), 3),
        "authors_kept_apart": round(float((apart < value).mean()), 3),
    }  # fmt: skip


def judge(kind: str, auc: Interval, answers: Mapping[str, Interval]) -> dict[str, bool]:
    """Which of the tests above a measure of this kind passes."""
    same = answers["off_topic_4" if kind == "manner" else "paraphrase"]
    topics = ("off_topic_1",) if kind == "manner" else ("off_topic_1", "off_topic_4")
    lengths = [answers[name] for name in ("length_25", "length_50")]
    tests = {
        "separates": auc.low >= LEAST_AUC,
        "sameness": same.high <= TOLERANCE - 1,
        "plots": answers["same_plot"].high <= TOLERANCE - 1,
        "length": all(max(-answer.low, answer.high) <= TOLERANCE for answer in lengths),
        "gibberish": all(answers[name].high <= TOLERANCE for name in ("gibberish_1", "gibberish_4")),
        "off topic": all(answers[name].high <= TOLERANCE for name in topics),
    }
    return {name: bool(passed) for name, passed in tests.items() if kind == "matter" or name != "plots"}


def recommendation(tests: Mapping[str, bool]) -> str:
    """What the tests passed and failed ask for, by the rule above."""
    lacking = [name for name in ("separates", "sameness") if not tests[name]]
    if lacking:
        return f"no: fails {' and '.join(lacking)}"
    asks = ["at a common length"] * (not tests["length"])
    asks += ["beside the share of usable stories"] * (not (tests["gibberish"] and tests["off topic"]))
    asks += ["not for plots"] * (not tests.get("plots", True))
    return ", ".join(["yes", *asks])


def _row(measure: Measure, sets: Sets, without: Sequence[str]) -> dict[str, Any]:
    values = measure_sets(measure, sets)
    prompts = {name: [p for p in by_prompt if p not in without] for name, by_prompt in values.items()}
    auc, paired = separation(*[[values[s][p] for p in prompts["authors"]] for s in ("authors", "assistant")])
    mean = lambda name, of: np.array([values[name][p].mean() for p in of])  # noqa: E731
    answers = {
        name: share(*[mean(source, prompts[name]) for source in (name, "authors", "assistant")]) for name in CONTRASTS
    }
    tests = judge(measure.kind, auc, answers)
    numbers = {"auc": auc, "paired": paired, **answers}
    return {
        "kind": measure.kind,
        **{name: [round(i.mean, 4), round(i.low, 4), round(i.high, 4), i.n] for name, i in numbers.items()},
        "authors": round(measure.sign * float(mean("authors", prompts["authors"]).mean()), 4),
        "assistant": round(measure.sign * float(mean("assistant", prompts["authors"]).mean()), 4),
        "tests": tests,
        "recommendation": recommendation(tests),
    }


def record_measures() -> None:
    """Measure every set by every measure, apply the rule, and write data/results/measures.json."""
    from importlib.metadata import version

    from tqdm import tqdm

    sets = build_contrasts(DRAWS, SEED)
    threshold, rows = _threshold(sets), {}
    for name, measure in tqdm(MEASURES.items(), desc="measures"):
        if name == DISTINCT:  # the prompts that chose its threshold may not speak for it
            chosen = Measure(measure.kind, _share_of_classes(threshold["cosine"]), measure.encoder)
            rows[name] = _row(chosen, sets, threshold["chosen_on"])
        else:
            rows[name] = _row(measure, sets, ())
    facts = run_facts(get_profile("laptop"), command="python -m ddpo_utils record --measures")
    del facts["settings"], facts["model"]  # neither has a part in it
    for package in ("sentence-transformers", "wordllama", "scikit-learn", "rapidfuzz"):
        facts["versions"][package] = version(package)
    how = {"size": SIZE, "draws": DRAWS, "seed": SEED, "tolerance": TOLERANCE, "least_auc": LEAST_AUC}
    write_json(data_dir() / "results" / "measures.json", {**facts, **how, "threshold": threshold, "measures": rows})


def trust_table() -> pd.DataFrame:
    """The recorded answers, one row a measure, the recommended ones of each kind first.

    Returns:
        A frame with kind; auc, paired and the contrasts of `contrasts.CONTRASTS` as Intervals over prompts; failed (the
        tests that it fails) and recommendation.

    Raises:
        CourseError: nothing is recorded.
    """
    import pandas as pd

    path = data_dir() / "results" / "measures.json"
    if not path.is_file():
        raise CourseError("No measures are recorded: run `python -m ddpo_utils record --measures`.")
    rows = json.loads(path.read_text(encoding="utf-8"))["measures"]
    frame = pd.DataFrame({
        name: {
            "kind": row["kind"],
            **{column: Interval(*row[column]) for column in ("auc", "paired", *CONTRASTS)},
            "failed": [test for test, passed in row["tests"].items() if not passed],
            "recommendation": row["recommendation"],
        }
        for name, row in rows.items()
    }).T  # fmt: skip
    kinds = list(dict.fromkeys(measure.kind for measure in MEASURES.values()))

    def place(name: str) -> tuple[Any, ...]:
        row = frame.loc[name]
        usable = row["recommendation"].startswith("yes")
        return kinds.index(row["kind"]), not usable, len(row["failed"]), -row["auc"].low, -row["paired"].low

    return frame.loc[sorted(frame.index, key=place)]
