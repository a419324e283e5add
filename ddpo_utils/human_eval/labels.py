"""The labels of blind comparisons, read with their key: win rates, agreement, bias of position, and one table of all.

Only here do ratings and key meet. The unit is the prompt; the intervals cover other prompts, not other raters. Labels
of people and of language models are kept apart unless both are asked for, and counted apart wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.rates import SignTest, share_interval, sign_test
from ..evaluation.statistics import Interval
from ..settings import CourseError
from .agreement import agreement
from .comparisons import QUESTIONS, UNDECIDED, Comparisons
from .ratings import UNREADABLE, read_ratings

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "agreement",
    "item_test",
    "judge_agreement",
    "majority",
    "position_bias",
    "rating_table",
    "read_labels",
    "win_rates",
]

_OTHER_PLACE = str.maketrans("AB", "BA")


def read_labels(
    ratings: str | Path | Sequence[str | Path],
    comparisons: Comparisons,
    key: dict[str, Any],
    mixed: bool = False,
) -> pd.DataFrame:
    """Every label of every rater, with the system's name in place of the side.

    A judge that was asked in both orders has one label an item: the system that it named in both, else "undecided";
    none (None, and left out of every share) where one of its answers could not be read.

    Args:
        ratings: a folder of ratings files (every .json in it), or the files.
        comparisons: what was rated.
        key: of `read_key`.
        mixed: True lets people and language models stand in one frame, told apart by `kind`.

    Returns:
        One row a (rater, item): item, prompt_id, rater, kind ("person" or "model"), diverse and best (a system's
        name, "undecided" or None), diverse_at and best_at (the place taken: "A" or "B", "" if none; of a judge one
        letter an order, "A" for the place shown first), seconds (NaN if unknown; a judge's two orders together).

    Raises:
        CourseError: there are no ratings; they or the key belong to other comparisons; an item or answer is unknown;
            a rater stands in two files; a judge answered an item in one order only; people and models are mixed
            without being asked for.
    """
    import pandas as pd

    if (
        key["comparisons"] != comparisons.id
        or not {item["item"] for item in comparisons.items} <= key["items"].keys()
    ):
        raise CourseError(
            "This key is of other comparisons: take the key.json that was written with them."
        )
    if isinstance(ratings, str | Path):
        ratings = sorted(Path(ratings).glob("*.json")) if Path(ratings).is_dir() else [ratings]
    rows, files = [], {}
    for path in ratings:
        content = read_ratings(path, comparisons)
        name = content["rater"].strip().casefold()
        if name in files:
            raise CourseError(
                f"{path} and {files[name]} are both by {content['rater']!r}: keep one, or rename a rater."
            )
        files[name] = path
        given: dict[str, list[dict[str, Any]]] = {}
        for answer in content["answers"]:
            given.setdefault(answer["item"], []).append(answer)
        who = {"rater": content["rater"], "kind": content["kind"]}
        rows += [
            who | {"item": item} | _label(key["items"][item], answers, path)
            for item, answers in given.items()
        ]
    if not rows:
        raise CourseError(
            "There are no labels yet: rate a comparison, or name the folder where the ratings lie."
        )
    labels = pd.DataFrame(rows)
    if labels["kind"].nunique() > 1 and not mixed:
        raise CourseError(
            "People and language models rated: read them apart, or say mixed=True to see them side by side."
        )
    questions = [column for question in QUESTIONS for column in (question, f"{question}_at")]
    return labels[["item", "prompt_id", "rater", "kind", *questions, "seconds"]]


def _label(sides: dict[str, Any], answers: list[dict[str, Any]], path: Any) -> dict[str, Any]:
    """One rater's label of one item, from the answer or from those in both orders."""
    orders = [answer.get("order") for answer in answers]
    if set(orders) not in ({None}, {"AB", "BA"}):
        raise CourseError(
            f"{path} answers {answers[0]['item']} in one order only: let the judge go on until it is done."
        )
    label: dict[str, Any] = {"prompt_id": sides["prompt_id"]}
    for question in QUESTIONS:
        given = [answer[question] for answer in answers]
        taken = ["" if answer in (UNDECIDED, UNREADABLE) else answer[0] for answer in given]
        named = {sides[side] if side else UNDECIDED for side in taken}
        label[question] = (
            None if UNREADABLE in given else named.pop() if len(named) == 1 else UNDECIDED
        )
        places = [
            t.translate(_OTHER_PLACE) if order == "BA" else t
            for t, order in zip(taken, orders, strict=True)
        ]
        label[f"{question}_at"] = "".join(places)
    seconds = [answer.get("seconds") for answer in answers]
    return label | {"seconds": np.nan if None in seconds else float(sum(seconds))}


def _counted(labels: pd.DataFrame, hits: Any) -> Interval | None:
    """Share of hits among labels, clustered by prompt; None without labels."""
    if labels.empty:
        return None
    by_prompt = (
        labels.assign(hit=np.asarray(hits, dtype=float))
        .groupby("prompt_id")["hit"]
        .agg(["sum", "count"])
    )
    return share_interval(by_prompt["sum"], by_prompt["count"])


def win_rates(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> pd.DataFrame:
    """Share of the labels that name either system, or are undecided, with 95% intervals clustered by prompt.

    Args:
        labels: of `read_labels`.
        question: "diverse" or "best".
        systems: both names.

    Returns:
        One row for each system and for "undecided": share (an Interval, None without labels), labels, of which
        people's and models'.

    Raises:
        CourseError: a label names another system.
    """
    import pandas as pd

    labels = labels.dropna(subset=[question])
    if unknown := set(labels[question]) - {*systems, UNDECIDED}:
        raise CourseError(
            f"The labels name {', '.join(sorted(unknown))}, which is none of {', '.join(systems)}."
        )
    counts = {
        name: (labels["kind"] == kind).sum()
        for name, kind in (("people's", "person"), ("models'", "model"))
    }
    rows = {
        name: {"share": _counted(labels, labels[question] == name), "labels": len(labels), **counts}
        for name in (*systems, UNDECIDED)
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def majority(labels: pd.DataFrame, question: str) -> pd.Series:
    """item -> the system that more than half of the item's labels name, else "undecided" (a tie)."""

    def most(own: pd.Series) -> str:
        counts = own.value_counts()
        return counts.index[0] if 2 * counts.iloc[0] > len(own) else UNDECIDED

    return labels.dropna(subset=[question]).groupby("item")[question].agg(most)


def item_test(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> SignTest:
    """Sign test over items of their majorities, the first system's wins against the second's.

    Items are taken as independent, as those of different prompts are (`build_comparisons` makes one of a prompt).
    """
    named = majority(labels, question)
    wins, losses = (int((named == system).sum()) for system in systems)
    return sign_test(wins, losses, len(named) - wins - losses)


def position_bias(labels: pd.DataFrame) -> pd.DataFrame:
    """How often the first place was taken among decided answers; sides and orders are dealt so that half is fair.

    Returns:
        One row for each question and rater, and for "all people" and "all models" where there are any: question,
        rater, kind, decided (answers; a judge has one an order), first (Interval of the share, clustered by prompt;
        None without a decided answer). How often a judge's two orders agree says `judge.consistency`.
    """
    import pandas as pd

    rows = []
    for question in QUESTIONS:
        for kind, of_kind in labels.groupby("kind", sort=False):
            whole = {"person": "all people", "model": "all models"}[kind]
            for rater, own in [*of_kind.groupby("rater", sort=False), (whole, of_kind)]:
                at = (
                    own.assign(at=own[f"{question}_at"].map(list))
                    .explode("at")
                    .dropna(subset=["at"])
                )
                first = _counted(at, at["at"] == "A")
                rows.append(
                    {
                        "question": question,
                        "rater": rater,
                        "kind": kind,
                        "decided": len(at),
                        "first": first,
                    }
                )
    return pd.DataFrame(rows)


def judge_agreement(labels: pd.DataFrame) -> pd.DataFrame:
    """How far each language model labels items as the majority of people does.

    Args:
        labels: of `read_labels(..., mixed=True)`.

    Returns:
        One row for each question and judge: question, judge, items (that both labelled), same (Interval of the share
        of items with the same label, "undecided" being one), alpha (of judge and majority, as of two raters; None
        where it is not defined).

    Raises:
        CourseError: there are no people's labels, no model's, or no item in common.
    """
    import pandas as pd

    people, models = labels[labels["kind"] == "person"], labels[labels["kind"] == "model"]
    if not set(people["item"]) & set(models["item"]):
        raise CourseError(
            "A judge is compared with people on items that both labelled: read both, with mixed=True."
        )
    rows = []
    for question in QUESTIONS:
        named = majority(people, question)
        for judge, own in models.groupby("rater", sort=False):
            own = own[own["item"].isin(named.index) & own[question].notna()]
            theirs = own.assign(
                rater="the majority of people", **{question: own["item"].map(named)}
            )
            same = _counted(own, own[question].to_numpy() == theirs[question].to_numpy())
            alpha = agreement(pd.concat([own.assign(rater="the judge"), theirs]), question)
            rows.append(
                {
                    "question": question,
                    "judge": judge,
                    "items": len(own),
                    "same": same,
                    "alpha": alpha,
                }
            )
    return pd.DataFrame(rows)


def rating_table(labels: pd.DataFrame, systems: Sequence[str]) -> pd.DataFrame:
    """What the labels say, a row for each question and kind of rater: people and models never share one.

    Returns:
        question, raters ("3 people"), both systems' win rates and undecided (Intervals of shares of labels, clustered
        by prompt), sign test (SignTest of the items' majorities, first system against second), alpha (Interval, or
        "not defined"), items, prompts, labels, unreadable (of a model: no label, and counted in none).
    """
    import pandas as pd

    rows = []
    for question in QUESTIONS:
        for kind, whole in labels.groupby("kind", sort=False):
            own = whole.dropna(subset=[question])
            raters = whole["rater"].nunique()
            noun = {"person": ("person", "people"), "model": ("model", "models")}[kind][raters > 1]
            shares = win_rates(own, question, systems)["share"]
            rows.append(
                {
                    "question": question,
                    "raters": f"{raters} {noun}",
                    **{f"{system} wins": shares[system] for system in systems},
                    UNDECIDED: shares[UNDECIDED],
                    "sign test": item_test(own, question, systems),
                    "alpha": agreement(own, question) or "not defined",
                    "items": own["item"].nunique(),
                    "prompts": own["prompt_id"].nunique(),
                    "labels": len(own),
                    "unreadable": len(whole) - len(own),
                }
            )
    return pd.DataFrame(rows)
