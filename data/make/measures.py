"""Which measure of diversity can be trusted? Each measure's answers to sets whose order is known.

    python data/make/measures.py      results/measures.json, in a few minutes

The protocol below was written before any answer was read. The sets are in contrasts.py. The sign of
every measure is set so that larger means more diverse. Its separation is the AUC: how often a set
by four authors scores above one by the assistant, over all pairs of prompts. Next to it is the
paired difference over prompts in its own standard deviations. An answer to a contrast is a share
of the gap between authors and assistant: 0 is the authors' level, -1 the assistant's. Intervals
are over prompts (jackknife). The tests, with a tolerance of a quarter of the gap:

    separates   the lower end of the AUC's interval is at least 0.75, half way to certainty
    sameness    four paraphrases of one story score as low as the assistant: upper end at most -0.75
    plots       measures of matter only: one plot in four voices scores low, by the same bound
    voices      measures of manner only: one voice on four prompts scores low, by the same bound
    length      the first 25 and 50 words score like whole stories: both intervals within 0.25 of 0
    gibberish   random words are not rewarded: both upper ends at most 0.25
    off topic   stories of other prompts are not rewarded: both upper ends at most 0.25
                (measures of manner: the set with one such story only)

The recommendation follows by rule. A measure that fails `separates` or `sameness` gets "no". The
others get "yes" with a condition for each failure: `length`, "at a common length"; `gibberish` or
`off topic`, "beside the share of usable stories"; `plots`, "not for plots"; `voices`, "not for
voices across prompts". Within a kind (matter, manner, wording) the measure with the fewest failures
comes first; of equals, the one with the higher lower end of the AUC's interval, then of the
difference's.

The protocol was amended three times after the first reading. (1) A bounded measure has no room
above the authors if their level is within 0.25 of the gap below its largest value. It cannot fail
the last three tests, so it does not pass them either: "says nothing above the authors". Without
this, distinct-4 would come first in matter. (2) `voices` was the test of sameness for measures of
manner. All three failed it (the stylometric distance by very little), so none was recommended. Now
it is a separate test. (3) Intervals were percentile bootstraps, which are too narrow with 24
prompts and fewer. With the jackknife the Vendi score of style fails `sameness`, by very little, and
loses its "yes"; ROUGE-L passes `off topic`, which changes no recommendation.

Two things flatter measures here: the style encoders were fitted on the authors' stories of these
prompts, and in this course only MiniLM and the stylometric encoder made weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

from contrasts import CONTRASTS, SIZE, Sets, build_contrasts, distinct_threshold
from ddpo_utils.deviation import diversity
from ddpo_utils.embeddings.encoders import load_encoder
from ddpo_utils.evaluation.statistics import Interval, jackknife_interval
from ddpo_utils.settings import get_profile
from ddpo_utils.storage.files import write_json
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.run_folder import run_facts
from recording import folders, parser, run
from set_measures import distinct_k, ngram_diversity, rouge_homogenisation, vendi_score
from wording import compression_ratio, self_bleu

COMMAND = "python data/make/measures.py"
DRAWS = 20  # sets a prompt
SEED = 0
TOLERANCE = 0.25
LEAST_AUC = 0.75
LARGEST_DISTANCE = SIZE / (SIZE - 1)  # mean pairwise distance of rows that sum to 0
TIED = 1e-9  # scores closer than this are equal but for rounding
NO_ROOM_TESTS = ("length", "gibberish", "off topic")


@dataclass(frozen=True)
class Measure:
    """A measure of one set.

    Args:
        kind: matter, manner or wording.
        score: takes the encoder's rows, or the texts where there is no encoder.
        sign: -1 where a larger score means less diverse.
        largest: score of the most diverse set there could be, times the sign.
    """

    kind: str
    score: Callable[[Any], float]
    encoder: str = ""
    sign: int = 1
    largest: float = np.inf


def share_of_classes(rows: np.ndarray, threshold: float) -> float:
    return distinct_k(rows, threshold) / SIZE


DISTINCT = "distinct-4, MiniLM"  # its threshold is chosen when the record is made
MEASURES = {
    "distance, MiniLM": Measure("matter", diversity, "minilm", largest=LARGEST_DISTANCE),
    "distance, wordllama": Measure("matter", diversity, "wordllama", largest=LARGEST_DISTANCE),
    "Vendi, MiniLM": Measure("matter", vendi_score, "minilm", largest=SIZE),
    DISTINCT: Measure("matter", partial(share_of_classes, threshold=0.0), "minilm", largest=1),
    "distance, stylometric": Measure("manner", diversity, "stylometric", largest=LARGEST_DISTANCE),
    "distance, Delta": Measure("manner", diversity, "delta", largest=LARGEST_DISTANCE),
    "Vendi, stylometric": Measure("manner", vendi_score, "stylometric", largest=SIZE),
    "compression ratio": Measure("wording", compression_ratio, sign=-1),
    "ROUGE-L": Measure("wording", rouge_homogenisation, sign=-1, largest=0),
    "self-BLEU": Measure("wording", self_bleu, sign=-1, largest=0),
    "n-gram diversity": Measure("wording", ngram_diversity, largest=4),
}


def measure_sets(measure: Measure, sets: Sets) -> dict[str, dict[str, np.ndarray]]:
    """The measure of every set, larger = more diverse: contrast -> prompt -> (sets,)."""
    rows = {}
    if measure.encoder:
        of_all_prompts = chain.from_iterable(by_prompt.values() for by_prompt in sets.values())
        fours = chain.from_iterable(of_all_prompts)
        texts = list(dict.fromkeys(chain.from_iterable(fours)))
        rows = dict(zip(texts, load_encoder(measure.encoder).encode(texts), strict=True))

    def value(four: list[str]) -> float:
        if measure.encoder:
            return measure.sign * measure.score(np.stack([rows[text] for text in four]))
        return measure.sign * measure.score(four)

    values: dict[str, dict[str, np.ndarray]] = {}
    for name, by_prompt in sets.items():
        values[name] = {}
        for prompt, of_prompt in by_prompt.items():
            values[name][prompt] = np.array([value(four) for four in of_prompt])
    return values


def separation(
    authors: Sequence[np.ndarray], assistant: Sequence[np.ndarray]
) -> tuple[Interval, Interval]:
    """The AUC of single sets, and the paired difference over prompts in its standard deviations.

    Args:
        authors, assistant: for each prompt, in the same order, the values of its sets.
    """
    shares = [_share_above(a, b) for a, b in product(authors, assistant)]
    above = np.array(shares).reshape(len(authors), len(assistant))
    gaps = np.array([a.mean() - b.mean() for a, b in zip(authors, assistant, strict=True)])

    def auc(prompts: np.ndarray) -> float:
        return float(above[np.ix_(prompts, prompts)].mean())

    def paired(prompts: np.ndarray) -> float:
        return float(gaps[prompts].mean() / gaps[prompts].std(ddof=1))

    return jackknife_interval(auc, len(authors), (0, 1)), jackknife_interval(paired, len(gaps))


def _share_above(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pairs in which a is larger; ties count half."""
    difference = a[:, None] - b
    tied = np.abs(difference) < TIED
    return float(((difference > 0) & ~tied).mean() + tied.mean() / 2)


def share_of_gap(contrast: np.ndarray, authors: np.ndarray, assistant: np.ndarray) -> Interval:
    """Mean of contrast - authors over the mean of authors - assistant, interval over prompts.

    Args:
        contrast, authors, assistant: (P,) one mean a prompt, of the same prompts.
    """
    moved, gap = contrast - authors, authors - assistant

    def share(prompts: np.ndarray) -> float:
        return float(moved[prompts].mean() / gap[prompts].mean())

    return jackknife_interval(share, len(gap))


def passed_tests(
    kind: str, auc: Interval, answers: Mapping[str, Interval], room: float = np.inf
) -> dict[str, bool]:
    """The tests that apply to a measure of this kind, and whether it passes them.

    Args:
        answers: by contrast.
        room: from the authors' level to the measure's largest value, as a share of the gap.
    """

    def highest(*names: str) -> float:
        return max(answers[name].high for name in names)

    lowest_of_cut = min(answers[name].low for name in ("length_25", "length_50"))
    off_topic = ("off_topic_1",) if kind == "manner" else ("off_topic_1", "off_topic_4")
    tests = {
        "separates": auc.low >= LEAST_AUC,
        "sameness": highest("paraphrase") <= TOLERANCE - 1,
    }
    if kind == "matter":
        tests["plots"] = highest("same_plot") <= TOLERANCE - 1
    if kind == "manner":
        tests["voices"] = highest("off_topic_4") <= TOLERANCE - 1
    tests["length"] = max(-lowest_of_cut, highest("length_25", "length_50")) <= TOLERANCE
    tests["gibberish"] = highest("gibberish_1", "gibberish_4") <= TOLERANCE
    tests["off topic"] = highest(*off_topic) <= TOLERANCE
    if room <= TOLERANCE:
        tests |= dict.fromkeys(NO_ROOM_TESTS, False)
    return {name: bool(passed) for name, passed in tests.items()}


def recommend(tests: Mapping[str, bool], room: float = np.inf) -> str:
    """The recommendation that follows from the tests by the rule above."""
    lacking = [name for name in ("separates", "sameness") if not tests[name]]
    if lacking:
        return f"no: fails {' and '.join(lacking)}"
    conditions = {
        "at a common length": not tests["length"],
        "beside the share of usable stories": not (tests["gibberish"] and tests["off topic"]),
        "not for plots": not tests.get("plots", True),
        "not for voices across prompts": not tests.get("voices", True),
        "says nothing above the authors": room <= TOLERANCE,
    }
    return ", ".join(["yes", *(text for text, asked in conditions.items() if asked)])


def measure_row(measure: Measure, sets: Sets, without: Sequence[str] = ()) -> dict[str, Any]:
    """A measure's line of the record.

    Args:
        without: prompts that are left out.
    """
    values = measure_sets(measure, sets)
    prompts = {}
    for name, by_prompt in values.items():
        prompts[name] = [prompt for prompt in by_prompt if prompt not in without]

    def means(name: str, of_prompts: list[str]) -> np.ndarray:
        return np.array([values[name][prompt].mean() for prompt in of_prompts])

    authors = [values["authors"][prompt] for prompt in prompts["authors"]]
    assistant = [values["assistant"][prompt] for prompt in prompts["authors"]]
    auc, paired = separation(authors, assistant)
    answers = {}
    for name in CONTRASTS:
        three = (name, "authors", "assistant")
        answers[name] = share_of_gap(*(means(source, prompts[name]) for source in three))
    high = means("authors", prompts["authors"]).mean()
    low = means("assistant", prompts["authors"]).mean()
    room = float((measure.largest - high) / (high - low))
    tests = passed_tests(measure.kind, auc, answers, room)
    row = {
        "kind": measure.kind,
        "authors": round(measure.sign * float(high), 4),
        "assistant": round(measure.sign * float(low), 4),
        "room": round(room, 3) if np.isfinite(room) else None,
    }
    for name, i in {"auc": auc, "paired": paired, **answers}.items():
        row[name] = [round(i.mean, 4), round(i.low, 4), round(i.high, 4), i.n]
    return row | {"tests": tests, "recommendation": recommend(tests, room)}


def record_measures(
    data: Path, draws: int = DRAWS, measures: Mapping[str, Measure] = MEASURES
) -> None:
    """Measure every set by every measure, apply the rule, and store data/results/measures.json."""
    from importlib.metadata import version

    from tqdm import tqdm

    sets = build_contrasts(draws, SEED)
    threshold = distinct_threshold(sets)
    rows = {}
    for name, measure in tqdm(measures.items(), desc="measures"):
        without: Sequence[str] = ()
        if name == DISTINCT:  # the prompts that chose the threshold do not test it
            score = partial(share_of_classes, threshold=threshold["cosine"])
            measure, without = replace(measure, score=score), threshold["chosen_on"]
        rows[name] = measure_row(measure, sets, without)
    facts = run_facts(get_profile("laptop"), command=COMMAND)
    del facts["settings"], facts["model"]  # no language model takes part
    for package in ("sentence-transformers", "wordllama", "scikit-learn", "rapidfuzz"):
        facts["versions"][package] = version(package)
    protocol = {
        "size": SIZE,
        "draws": draws,
        "seed": SEED,
        "tolerance": TOLERANCE,
        "least_auc": LEAST_AUC,
    }
    record = {**facts, **protocol, "threshold": threshold, "measures": rows}
    write_json(data / "results" / "measures.json", record)


def main() -> None:
    args = parser(__doc__).parse_args()
    _, data = folders(args, "measures")
    with locked(data / "results" / "measures.json"):
        record_measures(data, draws=2 if args.smoke else DRAWS)


if __name__ == "__main__":
    run(main)
