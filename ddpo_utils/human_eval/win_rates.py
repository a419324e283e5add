"""What the labels say: win rates, sign tests, agreement, position bias, models beside people.

The unit is the prompt: the intervals cover other prompts, not other raters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.statistics import (
    Interval,
    SignTest,
    bootstrap_interval,
    share_interval,
    sign_test,
)
from ..settings import CourseError
from .comparisons import QUESTIONS, UNDECIDED
from .ratings import read_study


def _share(labels: pd.DataFrame, hits: pd.Series) -> Interval | None:
    """Share of hits among labels, clustered by prompt; None without labels."""
    if labels.empty:
        return None
    by_prompt = hits.groupby(labels["prompt_id"])
    return share_interval(by_prompt.sum(), by_prompt.count())


def win_rates(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> pd.DataFrame:
    """Share of the labels that name either system or none, with 95% intervals over prompts.

    `labels` are those of `ratings.read_labels`, `question` is "diverse" or "best". One row for each
    system and for "undecided": share (an Interval, None without labels), labels (their number).
    """
    labels = labels.dropna(subset=[question])
    names = [*systems, UNDECIDED]
    if unknown := set(labels[question]) - set(names):
        raise CourseError(f"The labels name {min(unknown)}, which is none of {', '.join(names)}.")
    shares = [_share(labels, labels[question] == name) for name in names]
    return pd.DataFrame({"share": shares, "labels": len(labels)}, index=names)


def majority(labels: pd.DataFrame, question: str) -> pd.Series:
    """item -> the system that more than half of the item's labels name, else "undecided"."""
    by_item = labels.groupby("item")[question]
    shares = by_item.value_counts(normalize=True).unstack(fill_value=0)
    most_named = shares.idxmax(axis=1)
    return most_named.where(shares.max(axis=1) > 0.5, UNDECIDED)


def item_test(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> SignTest:
    """Sign test over items of their majorities, the first system's wins against the second's.

    Items are taken as independent: `build_comparisons` makes one of a prompt.
    """
    winners = majority(labels, question)
    wins = int((winners == systems[0]).sum())
    losses = int((winners == systems[1]).sum())
    return sign_test(wins, losses, ties=len(winners) - wins - losses)


def agreement(labels: pd.DataFrame, question: str) -> Interval | None:
    """Krippendorff's nominal alpha of the raters, with a bootstrap interval over prompts.

    1: they always agree; 0: as often as by chance. Items with one label do not count. None where it
    is not defined: no item has two labels, all such labels are the same, or there is one prompt.
    With few prompts the percentile interval is too narrow.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
    """
    labels = labels.dropna(subset=[question])
    labels_of_item = labels.groupby("item")["rater"].transform("size")
    paired = labels[labels_of_item > 1]
    if paired[question].nunique() < 2 or paired["prompt_id"].nunique() < 2:
        return None
    by_item = paired.groupby(["prompt_id", "item"])[question]
    counts = by_item.value_counts().unstack(fill_value=0)
    raters = counts.sum(axis=1)
    # Disagreement within items is a sum over items, so a draw adds the sums of its prompts.
    agreeing_pairs = (counts**2).sum(axis=1)
    disagreement = (raters**2 - agreeing_pairs) / (raters - 1)
    observed = disagreement.groupby("prompt_id").sum().to_numpy()
    counts = counts.groupby("prompt_id").sum().to_numpy()

    def alpha(drawn: np.ndarray) -> float:
        totals = counts[drawn].sum(axis=0)
        n = totals.sum()
        expected = (n**2 - (totals**2).sum()) / (n - 1)
        if not expected:
            return np.nan
        return 1 - observed[drawn].sum() / expected

    return bootstrap_interval(alpha, len(counts))


def position_bias(labels: pd.DataFrame) -> pd.DataFrame:
    """How often decided answers take the first place; half is fair, since sides are dealt evenly.

    Returns:
        One row for each question and rater, and for "all people" and "all models": question, rater,
        decided (answers; a judge has one an order), first (Interval of the share, None if none).
    """
    rows = []
    for question in QUESTIONS:
        # One row an answer: a judge's "AB" in place of "A" holds one place for each order.
        places = labels[f"{question}_at"].map(list)
        answers = labels.assign(place=places).explode("place", ignore_index=True)
        groups = list(answers.groupby("rater", sort=False))
        all_raters = answers["kind"].map({"person": "all people", "model": "all models"})
        groups += list(answers.groupby(all_raters, sort=False))
        for rater, given in groups:
            decided = given.dropna(subset=["place"])
            first = _share(decided, decided["place"] == "A")
            rows.append((question, rater, len(decided), first))
    return pd.DataFrame(rows, columns=["question", "rater", "decided", "first"])


def judge_agreement(labels: pd.DataFrame) -> pd.DataFrame:
    """How often each language model labels items as the majority of people does.

    Returns:
        One row for each question and judge: question, judge, items (that both labelled), same
        (Interval of the share with the same label), alpha (of judge and majority, or None).
    """
    people = labels[labels["kind"] == "person"]
    models = labels[labels["kind"] == "model"]
    rows = []
    for question in QUESTIONS:
        winners = majority(people, question)
        common = models[models["item"].isin(winners.index)]
        common = common.dropna(subset=[question])
        for judge, given in common.groupby("rater", sort=False):
            people_say = given.assign(rater="people", **{question: given["item"].map(winners)})
            same = _share(given, given[question] == people_say[question])
            alpha = agreement(pd.concat([given, people_say]), question)
            rows.append((question, judge, len(given), same, alpha))
    return pd.DataFrame(rows, columns=["question", "judge", "items", "same", "alpha"])


def rating_table(labels: pd.DataFrame, systems: Sequence[str]) -> pd.DataFrame:
    """What the labels say, a row for each question and kind of rater.

    Returns:
        question, raters ("3 people"), both systems' win rates and undecided (Intervals of shares),
        sign test (first system against second), alpha (Interval, or "not defined"), items, prompts,
        labels, unreadable (answers of a model that are no labels).
    """
    nouns = {"person": ("person", "people"), "model": ("model", "models")}
    rows = []
    for question in QUESTIONS:
        for kind, answers in labels.groupby("kind", sort=False):
            given = answers.dropna(subset=[question])
            raters = answers["rater"].nunique()
            noun = nouns[kind][raters > 1]
            shares = win_rates(given, question, systems)["share"]
            rows.append(
                {
                    "question": question,
                    "raters": f"{raters} {noun}",
                    f"{systems[0]} wins": shares[systems[0]],
                    f"{systems[1]} wins": shares[systems[1]],
                    UNDECIDED: shares[UNDECIDED],
                    "sign test": item_test(given, question, systems),
                    "alpha": agreement(given, question) or "not defined",
                    "items": given["item"].nunique(),
                    "prompts": given["prompt_id"].nunique(),
                    "labels": len(given),
                    "unreadable": len(answers) - len(given),
                }
            )
    return pd.DataFrame(rows)


def show_ratings(folder: str | Path) -> None:
    """Print win rates, sign tests, position bias and models beside people, of a study's folder."""
    labels, systems = read_study(folder)
    if labels.empty:
        place = os.path.relpath(Path(folder, "ratings"))
        raise CourseError(f"No ratings in {place} yet: put the files there that raters send back.")
    table = rating_table(labels, systems).set_index(["question", "raters"]).astype(str)
    print("Shares of the labels, with 95% intervals over prompts; in the sign test, comparisons")
    print(f"that {systems[0]} won : lost against {systems[1]} by the majority of the raters")
    print(table.T.to_string())
    print("\nShare of the decided answers that took the first place (half is fair)")
    print(position_bias(labels).to_string(index=False))
    beside = judge_agreement(labels)
    if len(beside):
        print("\nShare of the comparisons that a model labels as the majority of people does")
        print(beside.to_string(index=False))
