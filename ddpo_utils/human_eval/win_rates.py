"""What the labels say: win rates, sign tests, agreement, position bias, models beside people.

Before there are any: how many comparisons a study needs, and what published rates would mean.
The unit is the prompt: the intervals cover other prompts, not other raters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.statistics import (
    LOWER,
    POWER,
    UPPER,
    Interval,
    SignTest,
    exact_limits,
    jackknife_interval,
    share_interval,
    sign_test,
    whole_number,
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
    """Krippendorff's nominal alpha of the raters, with its jackknife interval over prompts.

    1: they always agree; 0: as often as by chance. Items with one label do not count. None where it
    is not defined, with all prompts or without one of them: no item has two labels, or all such
    labels are the same.

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

    without_one = counts.sum(axis=0) - counts
    if ((without_one > 0).sum(axis=1) < 2).any():
        return None

    def alpha(prompts: np.ndarray) -> float:
        totals = counts[prompts].sum(axis=0)
        n = totals.sum()
        expected = (n**2 - (totals**2).sum()) / (n - 1)
        return float(1 - observed[prompts].sum() / expected)

    return jackknife_interval(alpha, len(counts), (-1, 1))


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


def _check_rates(win: float, loss: float) -> None:
    if not (win >= 0 and loss >= 0 and win + loss <= 1 + 1e-9):
        raise CourseError(f"Win rates are shares that add up to 1 at most; got {win} and {loss}.")


def _power_given_decided(n: int, win: float, loss: float) -> np.ndarray:
    """(n + 1,) probability that the test finds p <= 0.05, given 0 to n decided items."""
    from scipy.stats import binom

    decided = np.arange(n + 1)
    # the largest count of the smaller side with 2 P(X <= count) <= 0.05, or -1
    bound = binom.ppf(LOWER, decided, 0.5)
    bound -= binom.cdf(bound, decided, 0.5) > LOWER
    few_wins = binom.cdf(bound, decided, win / (win + loss))
    few_losses = binom.cdf(bound, decided, loss / (win + loss))
    return few_wins + few_losses


def _power(n: int, given_decided: np.ndarray, decided_share: float) -> float:
    from scipy.stats import binom

    chances = binom.pmf(np.arange(n + 1), n, min(decided_share, 1.0))
    return float(chances @ given_decided[: n + 1])


def sign_power(n: int, win: float, loss: float) -> float:
    """Exact power of the sign test of n items at p <= 0.05; win, loss: true shares, ties apart."""
    _check_rates(win, loss)
    n = whole_number(n)
    if not win + loss:
        return 0.0
    return _power(n, _power_given_decided(n, win, loss), win + loss)


def comparisons_needed(win: float, loss: float) -> int:
    """Smallest number of comparisons, below 5,000, from which on `sign_power` is 0.8 or more."""
    from scipy.stats import norm

    _check_rates(win, loss)
    squared_gap = (win - loss) ** 2
    scale = (norm.ppf(UPPER) + norm.ppf(POWER)) ** 2 * (win + loss)
    if scale >= 5000 * squared_gap:
        raise CourseError(f"Telling {win} from {loss} needs about 5,000 comparisons or more.")
    # more than the normal approximation, since the exact power falls back here and there
    n = 40 + int(1.3 * scale / squared_gap)
    given_decided = _power_given_decided(n, win, loss)
    while _power(n - 1, given_decided, win + loss) >= POWER:
        n -= 1
    return n


def _score_limit(wins: float, losses: float, n: int, side: int) -> float:
    """One end (side -1 or 1) of Tango's score interval of a difference of paired shares."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    critical = norm.ppf(UPPER) ** 2
    lead = wins - losses
    estimate = lead / n

    def excess(gap: float) -> float:
        # the likeliest share of losses, given the gap, solves 2 n x^2 + b x + c = 0
        b = (2 * n - lead) * gap - wins - losses
        c = -losses * gap * (1 - gap)
        discriminant = max(b * b - 8 * n * c, 0.0)
        loss_share = (np.sqrt(discriminant) - b) / (4 * n)
        variance = max(2 * loss_share + gap * (1 - gap), 0.0)
        return (lead - n * gap) ** 2 - critical * n * variance

    if abs(estimate - side) < 1e-9:
        return float(side)
    # the excess is below 0 next to the estimate and above 0 at the far end
    return float(brentq(excess, estimate + side * 1e-9, side))


def what_rates_mean(win: float, loss: float, n: int) -> dict[str, Interval]:
    """95% intervals that published win rates would have if they had been measured on n items.

    "win" and "loss" are exact, "difference" (win - loss) is Tango's score interval (Statistics in
    Medicine 17, 1998).
    """
    _check_rates(win, loss)
    n = whole_number(n, least=1)
    wins = win * n
    losses = loss * n
    limits = [_score_limit(wins, losses, n, side) for side in (-1, 1)]
    return {
        "win": Interval(win, *exact_limits(wins, n), n),
        "loss": Interval(loss, *exact_limits(losses, n), n),
        "difference": Interval(win - loss, *limits, n),
    }
