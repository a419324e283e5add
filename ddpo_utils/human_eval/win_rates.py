"""What the labels say: win rates, sign tests, agreement, lean to a place, models beside people.

The unit is the prompt: the intervals cover other prompts, not other raters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

__all__ = [
    "agreement",
    "item_test",
    "judge_agreement",
    "majority",
    "position_bias",
    "rating_table",
    "show_ratings",
    "win_rates",
]


def _share(labels: pd.DataFrame, hits: Any) -> Interval | None:
    """Share of hits among labels, clustered by prompt; None without labels."""
    if labels.empty:
        return None
    hits = labels.assign(hit=np.asarray(hits, dtype=float)).groupby("prompt_id")["hit"]
    return share_interval(hits.sum(), hits.count())


def win_rates(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> pd.DataFrame:
    """Share of the labels that name either system or none, with 95% intervals over prompts.

    Args:
        labels: of `ratings.read_labels`.
        question: "diverse" or "best".

    Returns:
        One row for each system and for "undecided": share (an Interval, None without labels),
        labels (their number).
    """
    labels = labels.dropna(subset=[question])
    names = [*systems, UNDECIDED]
    if unknown := set(labels[question]) - set(names):
        raise CourseError(f"The labels name {min(unknown)}, which is none of {', '.join(names)}.")
    shares = [_share(labels, labels[question] == name) for name in names]
    return pd.DataFrame({"share": shares, "labels": len(labels)}, index=names)


def majority(labels: pd.DataFrame, question: str) -> pd.Series:
    """item -> the system that more than half of the item's labels name, else "undecided"."""
    shares = labels.groupby("item")[question].value_counts(normalize=True).unstack(fill_value=0)
    return shares.idxmax(axis=1).where(shares.max(axis=1) > 0.5, UNDECIDED)


def item_test(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> SignTest:
    """Sign test over items of their majorities, the first system's wins against the second's.

    Items are taken as independent: `build_comparisons` makes one of a prompt.
    """
    named = majority(labels, question)
    wins, losses = (int((named == system).sum()) for system in systems)
    return sign_test(wins, losses, len(named) - wins - losses)


def agreement(labels: pd.DataFrame, question: str, draws: int = 1000) -> Interval | None:
    """Krippendorff's nominal alpha of the raters, with a bootstrap interval over prompts.

    1: they always agree; 0: as often as by chance. Items with one label do not count. None where it
    is not defined: no item has two labels, all such labels are the same, or there is one prompt.
    With few prompts the percentile interval is too narrow.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
    """
    labels = labels.dropna(subset=[question])
    paired = labels[labels.groupby("item")["rater"].transform("size") > 1]
    if paired[question].nunique() < 2 or paired["prompt_id"].nunique() < 2:
        return None
    # Disagreement within items is a sum over items, so a draw adds the sums of its prompts.
    counts = paired.groupby(["prompt_id", "item"])[question].value_counts().unstack(fill_value=0)
    raters = counts.sum(axis=1)
    disagreeing_pairs = (raters**2 - (counts**2).sum(axis=1)) / (raters - 1)
    observed = disagreeing_pairs.groupby("prompt_id").sum().to_numpy()
    counts = counts.groupby("prompt_id").sum().to_numpy()

    def alpha(drawn: np.ndarray) -> float:
        named = counts[drawn].sum(axis=0)
        expected = (named.sum() ** 2 - (named**2).sum()) / (named.sum() - 1)
        return 1 - observed[drawn].sum() / expected if expected else np.nan

    return bootstrap_interval(alpha, len(counts), draws)


def position_bias(labels: pd.DataFrame) -> pd.DataFrame:
    """How often decided answers take the first place; half is fair, since sides are dealt evenly.

    Returns:
        One row for each question and rater, and for "all people" and "all models": question, rater,
        decided (answers; a judge has one an order), first (Interval of the share, None if none).
    """
    everybody = labels["kind"].map({"person": "all people", "model": "all models"})
    labels = pd.concat([labels, labels.assign(rater=everybody)])
    rows = []
    for question in QUESTIONS:
        for rater, given in labels.groupby("rater", sort=False):
            places = given.assign(place=given[f"{question}_at"].map(list)).explode("place")
            decided = places.dropna(subset=["place"])
            first = _share(decided, decided["place"] == "A")
            rows.append((question, rater, len(decided), first))
    return pd.DataFrame(rows, columns=["question", "rater", "decided", "first"])


def judge_agreement(labels: pd.DataFrame) -> pd.DataFrame:
    """How far each language model labels items as the majority of people does.

    Returns:
        One row for each question and judge: question, judge, items (that both labelled), same
        (Interval of the share with the same label), alpha (of judge and majority, or None).
    """
    people, models = (labels[labels["kind"] == kind] for kind in ("person", "model"))
    rows = []
    for question in QUESTIONS:
        named = majority(people, question)
        common = models[models["item"].isin(named.index) & models[question].notna()]
        for judge, given in common.groupby("rater", sort=False):
            theirs = given.assign(rater="people", **{question: given["item"].map(named)})
            same = _share(given, given[question] == theirs[question])
            alpha = agreement(pd.concat([given.assign(rater="judge"), theirs]), question)
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
            row = {"question": question, "raters": f"{raters} {nouns[kind][raters > 1]}"}
            for name, share in win_rates(given, question, systems)["share"].items():
                row[name if name == UNDECIDED else f"{name} wins"] = share
            row["sign test"] = item_test(given, question, systems)
            row["alpha"] = agreement(given, question) or "not defined"
            row |= {"items": given["item"].nunique(), "prompts": given["prompt_id"].nunique()}
            row |= {"labels": len(given), "unreadable": len(answers) - len(given)}
            rows.append(row)
    return pd.DataFrame(rows)


def show_ratings(folder: str | Path) -> None:
    """Print win rates, sign tests, lean to a place, models beside people; of a study's folder."""
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
