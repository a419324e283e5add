"""The gap between people and GPT-4o in real outputs, and measures against people's judgements.

    python data/make/novelty.py --folder CLONE      results/novelty.json, in a few minutes

CLONE holds NoveltyBench's answers and labels: `python -m ddpo_utils fetch --answers CLONE` brings
them. No text of it goes into the record, only figures. For each of the 100 prompts and each source
the record has every measure of measures.py, on whole answers and on their first 25 words. Sets have
one size: measures that depend on it are averaged over random sets of four answers; a mean over
pairs is taken over all answers, which is its average over all sets of four. Intervals of people
minus GPT-4o are 95% t intervals over prompts, signed so that above 0 people are the more diverse. A
measure of wording has no value at a prompt where an answer holds no word, such as a lone emoji.
`median_words` gives the lengths: to most prompts people answer in a few words, which show little
style. A one-word answer has no n-gram of two words, so n-gram diversity is low for it.

People judged 1,100 pairs of answers to other prompts, by twenty models, as alike or different. The
AUC is how often a different pair scores as more diverse than an alike one; ties count half, and
intervals are over prompts. distinct-4 counts two texts as one from a cosine on; its AUC is that of
the threshold of measures.json. A second threshold is chosen on labels-train alone, by the rule of
contrasts.py (the largest sum of both correct shares), and labels-val tests it once. Most of these
answers are longer than what MiniLM reads: `cut_by_minilm` counts them.

Can a measure say to which prompts one model answers with more variety? `order_of_prompts` has the
rank correlation over the 100 prompts, within each way of asking GPT-4o, of each measure with the
number of classes of alike answers. NoveltyBench made these classes by a classifier that was trained
on people's judgements, so this is no judgement of people's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contrasts import SIZE, choose_threshold
from ddpo_utils.corpus.text import first_words, words
from ddpo_utils.course.noveltybench import (
    COMMIT,
    DIGESTS,
    LABELS_COMMIT,
    SOURCES,
    asks_for_writing,
    load_answers,
)
from ddpo_utils.deviation import diversity
from ddpo_utils.embeddings.encoders import load_encoder
from ddpo_utils.evaluation.statistics import (
    Interval,
    difference,
    jackknife_interval,
    mean_interval,
    share_interval,
)
from ddpo_utils.settings import CourseError, data_dir, get_profile
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.run_folder import run_facts
from measures import DISTINCT, MEASURES, Measure, share_of_classes
from novelty_labels import changed_files, load_classes, load_labels
from recording import folders, parser, run
from set_measures import rouge_homogenisation

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "python data/make/novelty.py --folder CLONE"
PEOPLE = SOURCES[0]
WORDS = 25
LENGTHS = {"whole": None, f"{WORDS} words": WORDS}
DRAWS = 20  # sets of SIZE answers a prompt and source
SEED = 0
OVER_PAIRS = (diversity, rouge_homogenisation)  # means over pairs
OF_PAIRS = [name for name in MEASURES if name != DISTINCT]  # that is a threshold on the distance
TRIAL_PAIRS = 60


class Scorer:
    """Measures of sets of the texts that it is given, whose rows are looked up once.

    Args:
        texts: all texts that will be asked for.
        measures: by name.
    """

    def __init__(self, texts: list[str], measures: Mapping[str, Measure]):
        self.measures = measures
        self.texts = list(dict.fromkeys(texts))
        self.place = {text: number for number, text in enumerate(self.texts)}
        encoders = {measure.encoder for measure in measures.values() if measure.encoder}
        self.rows = {name: load_encoder(name).encode(self.texts) for name in sorted(encoders)}

    def score(self, name: str, texts: list[str]) -> float:
        """The measure of one set; NaN where it reads words and a text has none."""
        measure = self.measures[name]
        if measure.encoder:
            return measure.score(self.rows[measure.encoder][[self.place[t] for t in texts]])
        if not all(words(text) for text in texts):
            return float("nan")
        return measure.score(texts)

    def mean_score(self, name: str, texts: list[str], draws: int) -> float:
        """The measure at a set size of SIZE: its mean over sets of a prompt's answers."""
        if self.measures[name].score in OVER_PAIRS:
            return self.score(name, texts)
        rng = np.random.default_rng(SEED)  # the same places for every measure
        sets = [rng.choice(len(texts), SIZE, replace=False) for _ in range(draws)]
        return float(np.mean([self.score(name, [texts[i] for i in four]) for four in sets]))


def cut(text: str, length: int | None) -> str:
    return text if length is None else first_words(text, length)


def rounded(interval: Interval) -> list[float]:
    """Mean, low, high and n."""
    return [*(round(x, 4) for x in (interval.mean, interval.low, interval.high)), interval.n]


def prompt_values(
    answers: pd.DataFrame, measures: Mapping[str, Measure], length: int | None, draws: int
) -> dict[str, dict[str, list[float | None]]]:
    """measure -> source -> one value a prompt, in the frame's order; None where there is none."""
    cut_answers = answers.assign(text=[cut(text, length) for text in answers["text"]])
    scorer = Scorer(cut_answers["text"].tolist(), measures)
    values: dict[str, dict[str, list[float | None]]] = {}
    for name in measures:
        values[name] = {source: [] for source in SOURCES}
        for (_, source), texts in cut_answers.groupby(["prompt_id", "source"], sort=False)["text"]:
            value = scorer.mean_score(name, texts.tolist(), draws)
            values[name][source].append(None if np.isnan(value) else round(value, 4))
    return values


def gaps(
    values: Mapping[str, Mapping[str, list[float | None]]], chosen: np.ndarray
) -> dict[str, dict[str, list[float]]]:
    """measure -> source -> people minus the source, larger = people more diverse, over prompts.

    Args:
        values: as of `prompt_values`.
        chosen: (P,) bool, the prompts that count.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for name, by_source in values.items():
        found[name] = {}
        arrays = {source: np.array(by_source[source], dtype=float)[chosen] for source in SOURCES}
        for source in SOURCES[1:]:
            gap = difference(arrays[PEOPLE], arrays[source])
            if MEASURES[name].sign < 0:
                gap = replace(gap, mean=-gap.mean, low=-gap.high, high=-gap.low)
            found[name][source] = rounded(gap)
    return found


def median_words(answers: pd.DataFrame, chosen: np.ndarray) -> dict[str, float]:
    """source -> median number of words of its answers to the chosen of the frame's (P,) prompts."""
    prompts = answers["prompt_id"].unique()[chosen]
    answers = answers[answers["prompt_id"].isin(prompts)]
    counts = answers.assign(words=[len(words(text)) for text in answers["text"]])
    medians = counts.groupby("source", sort=False)["words"].median()
    return {source: float(median) for source, median in medians.items()}


def auc(pairs: pd.DataFrame, scores: np.ndarray) -> Interval:
    """How often a different pair has the higher score than an alike one; ties count half.

    Args:
        scores: (N,) larger = more diverse; NaN leaves the pair out. The interval is over prompts.
    """
    from scipy.stats import rankdata

    known = ~np.isnan(scores)
    alike, scores = pairs["alike"].to_numpy()[known], scores[known]
    places = list(pairs[known].reset_index(drop=True).groupby("prompt_id").indices.values())

    def statistic(prompts: np.ndarray) -> float:
        chosen = np.concatenate([places[prompt] for prompt in prompts])
        different = ~alike[chosen]
        high, low = different.sum(), (~different).sum()
        if not high or not low:
            return float("nan")
        above = rankdata(scores[chosen])[different].sum() - high * (high + 1) / 2
        return float(above / (high * low))

    return jackknife_interval(statistic, len(places), (0, 1))


def pair_scores(pairs: pd.DataFrame, length: int | None) -> dict[str, np.ndarray]:
    """measure -> (N,) score of each pair, larger = more diverse."""
    first = [cut(text, length) for text in pairs["first"]]
    second = [cut(text, length) for text in pairs["second"]]
    scorer = Scorer(first + second, {name: MEASURES[name] for name in OF_PAIRS})
    scores = {}
    for name in OF_PAIRS:
        of_pairs = [scorer.score(name, list(two)) for two in zip(first, second, strict=True)]
        scores[name] = MEASURES[name].sign * np.array(of_pairs)
    return scores


def answers_of_threshold(
    pairs: pd.DataFrame, cosines: np.ndarray, threshold: float
) -> dict[str, Any]:
    """How a threshold decides the pairs, beside always saying 'different'; intervals over prompts.

    Returns:
        alike_joined and different_kept_apart (shares), accuracy, always_different (its accuracy),
        and gain, the difference of the two accuracies.
    """
    alike = pairs["alike"].to_numpy()
    joined = cosines >= threshold
    table = pairs[["prompt_id"]].assign(correct=joined == alike, different=~alike, one=1)
    by_prompt = table.groupby("prompt_id").sum()
    per_label = (by_prompt["correct"] - by_prompt["different"]) / by_prompt["one"]
    return {
        "alike_joined": round(float(joined[alike].mean()), 4),
        "different_kept_apart": round(float((~joined[~alike]).mean()), 4),
        "accuracy": rounded(share_interval(by_prompt["correct"], by_prompt["one"])),
        "always_different": round(float((~alike).mean()), 4),
        "gain": rounded(mean_interval(per_label)),
    }


def judge_measures(labels: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Each measure's AUC on both parts, and distinct-4's threshold, old and recalibrated.

    Args:
        labels: "train" and "val", frames of `load_labels`.
    """
    before = read_json(data_dir() / "results" / "measures.json")["threshold"]["cosine"]
    aucs: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in MEASURES}
    cosines = {}
    for part, pairs in labels.items():
        for length, limit in LENGTHS.items():
            scores = pair_scores(pairs, limit)
            apart = scores["distance, MiniLM"] > 1 - before
            scores[DISTINCT] = apart.astype(float)
            for name in MEASURES:
                interval = auc(pairs, scores[name])
                aucs[name].setdefault(length, {})[part] = rounded(interval)
            if limit is None:
                cosines[part] = 1 - scores["distance, MiniLM"]
    alike = labels["train"]["alike"].to_numpy()
    chosen = choose_threshold(cosines["train"][alike], cosines["train"][~alike])
    thresholds = {}
    for name, cosine in {"of paraphrases": before, "of labels-train": round(chosen, 3)}.items():
        thresholds[name] = {"cosine": cosine}
        for part, pairs in labels.items():
            thresholds[name][part] = answers_of_threshold(pairs, cosines[part], cosine)
    return {"auc": aucs, "thresholds": thresholds}


def order_of_prompts(
    values: Mapping[str, Mapping[str, list[float | None]]], classes: pd.DataFrame
) -> dict[str, dict[str, list[float] | None]]:
    """measure -> source -> its rank correlation over prompts with the number of classes.

    None stands where either is the same for all prompts, or for all but one.

    Args:
        values: as of `prompt_values`; the sign is set so that larger = more diverse.
        classes: of `load_classes`, rows in the same order.
    """
    from scipy.stats import spearmanr

    found: dict[str, dict[str, list[float] | None]] = {}
    for name, by_source in values.items():
        found[name] = {}
        for source in SOURCES[1:]:
            pairs = np.array([by_source[source], classes[source]], dtype=float)
            pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
            pairs[0] *= MEASURES[name].sign

            def correlation(prompts: np.ndarray, pairs: np.ndarray = pairs) -> float:
                return float(spearmanr(*pairs[:, prompts]).statistic)

            inner = np.sort(pairs, axis=1)[:, 1:-1]
            found[name][source] = None
            if (inner[:, 0] < inner[:, -1]).all():
                interval = jackknife_interval(correlation, pairs.shape[1], (-1, 1))
                found[name][source] = rounded(interval)
    return found


def make_record(
    answers: pd.DataFrame,
    classes: pd.DataFrame,
    labels: Mapping[str, pd.DataFrame],
    draws: int = DRAWS,
) -> dict[str, Any]:
    """All figures of the record: of the answers by prompt, their gaps, and of the labels."""
    judged = judge_measures(labels)
    threshold = judged["thresholds"]["of labels-train"]["cosine"]
    measures = dict(MEASURES)
    score = partial(share_of_classes, threshold=threshold)
    measures[DISTINCT] = replace(MEASURES[DISTINCT], score=score)
    prompts = answers.drop_duplicates("prompt_id")
    writing = np.array([asks_for_writing(prompt) for prompt in prompts["prompt"]])
    groups = {"all": np.ones(len(prompts), dtype=bool), "stories and poems": writing}
    values, found, order = {}, {}, {}
    classes = classes.loc[prompts["prompt_id"]]
    for length, limit in LENGTHS.items():
        values[length] = prompt_values(answers, measures, limit, draws)
        order[length] = order_of_prompts(values[length], classes)
        found[length] = {name: gaps(values[length], chosen) for name, chosen in groups.items()}
    return {
        "set_size": SIZE,
        "draws": draws,
        "seed": SEED,
        "stories_and_poems": prompts["prompt_id"][writing].tolist(),
        "median_words": {name: median_words(answers, chosen) for name, chosen in groups.items()},
        "gaps": found,
        "labels": judged,
        "order_of_prompts": order,
        "prompts": prompts["prompt_id"].tolist(),
        "values": values,
    }


def cut_by_minilm(texts: list[str]) -> dict[str, int]:
    """How many different texts there are, and how many are longer than what MiniLM reads."""
    model = load_encoder("minilm").encoder
    counts = model.token_counts(list(dict.fromkeys(texts)))  # this loads it: then it has a limit
    return {
        "limit": int(model.limit),
        "texts": len(counts),
        "cut": int((counts > model.limit).sum()),
    }


def facts() -> dict[str, Any]:
    """Where the texts come from, and what made the record."""
    from importlib.metadata import version

    made = run_facts(get_profile("laptop"), command=COMMAND)
    del made["settings"], made["model"]  # no language model takes part
    for package in ("sentence-transformers", "wordllama", "scikit-learn", "rapidfuzz"):
        made["versions"][package] = version(package)
    source = {
        "paper": "Zhang et al., NoveltyBench, arXiv 2504.05228",
        "repository": "github.com/novelty-bench/novelty-bench",
        "commit": COMMIT,
        "labels": f"data/train.jsonl and data/val.jsonl of commit {LABELS_COMMIT}, without names",
        "licence": "MIT",
        "files": DIGESTS,
    }
    return {"source": source, **made}


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--folder", type=Path, required=True, help="a clone of NoveltyBench")
    args = flags.parse_args()
    _, data = folders(args, "novelty")
    changed = changed_files(args.folder)
    if changed:
        raise CourseError(f"{args.folder} has other files than were recorded: {changed}.")
    answers = load_answers(args.folder)
    labels = {part: load_labels(args.folder, part) for part in ("train", "val")}
    if args.smoke:
        answers = answers[[asks_for_writing(prompt) for prompt in answers["prompt"]]]
        labels = {part: pairs.head(TRIAL_PAIRS) for part, pairs in labels.items()}
    path = data / "results" / "novelty.json"
    with locked(path):
        record = facts() | make_record(
            answers, load_classes(args.folder), labels, draws=2 if args.smoke else DRAWS
        )
        judged: list[str] = []
        for pairs in labels.values():
            judged += [*pairs["first"], *pairs["second"]]
        record["cut_by_minilm"] = {
            "answers": cut_by_minilm(answers["text"].tolist()),
            "labels": cut_by_minilm(judged),
        }
        write_json(path, record)


if __name__ == "__main__":
    run(main)
