"""The labels of blind comparisons, read with their key: win rates, agreement, bias of position, and one table of all.

Only here do ratings and key meet. The unit is the prompt; the intervals cover other prompts, not other raters. Labels
of people and of language models are kept apart unless both are asked for, and counted apart wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparisons import QUESTIONS, UNDECIDED, Comparisons
from .profiles import CourseError
from .rates import SignTest, share_interval, sign_test
from .ratings import read_ratings
from .stats import Interval, bootstrap_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "agreement", "item_test", "judge_agreement", "majority", "position_bias", "rating_table", "read_labels",
    "win_rates",
]  # fmt: skip

_OTHER_PLACE = str.maketrans("AB", "BA")


def read_labels(
    ratings: str | Path | Sequence[str | Path], comparisons: Comparisons, key: dict[str, Any], mixed: bool = False
) -> pd.DataFrame:
    """Every label of every rater, with the system's name in place of the side.

    A judge that was asked in both orders has one label an item: the system that it named in both, else "undecided".

    Args:
        ratings: a folder of ratings files (every .json in it), or the files.
        comparisons: what was rated.
        key: of `read_key`.
        mixed: True lets people and language models stand in one frame, told apart by `kind`.

    Returns:
        One row a (rater, item): item, prompt_id, rater, kind ("person" or "model"), diverse and best (a system's name
        or "undecided"), diverse_at and best_at (the place taken: "A" or "B", "" if undecided; two letters of a judge,
        one an order, where "A" is the place shown first), seconds (NaN if unknown; a judge's two orders together).

    Raises:
        CourseError: there are no ratings; they or the key belong to other comparisons; an item or answer is unknown;
            a rater stands in two files; a judge answered an item in one order only; people and models are mixed
            without being asked for.
    """
    import pandas as pd

    if key["comparisons"] != comparisons.id or not {item["item"] for item in comparisons.items} <= key["items"].keys():
        raise CourseError("This key is of other comparisons: take the key.json that was written with them.")
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
        rows += [who | {"item": item} | _label(key["items"][item], answers, path) for item, answers in given.items()]
    if not rows:
        raise CourseError("There are no labels yet: rate a comparison, or name the folder where the ratings lie.")
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
        taken = ["" if answer[question] == UNDECIDED else answer[question][0] for answer in answers]
        named = {sides[side] if side else UNDECIDED for side in taken}
        label[question] = named.pop() if len(named) == 1 else UNDECIDED
        places = [t.translate(_OTHER_PLACE) if order == "BA" else t for t, order in zip(taken, orders, strict=True)]
        label[f"{question}_at"] = "".join(places)
    seconds = [answer.get("seconds") for answer in answers]
    return label | {"seconds": np.nan if None in seconds else float(sum(seconds))}


def _counted(labels: pd.DataFrame, hits: Any) -> Interval:
    """Share of hits among labels, clustered by prompt."""
    by_prompt = labels.assign(hit=np.asarray(hits, dtype=float)).groupby("prompt_id")["hit"].agg(["sum", "count"])
    return share_interval(by_prompt["sum"], by_prompt["count"])


def win_rates(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> pd.DataFrame:
    """Share of the labels that name either system, or are undecided, with 95% intervals clustered by prompt.

    Args:
        labels: of `read_labels`.
        question: "diverse" or "best".
        systems: both names.

    Returns:
        One row for each system and for "undecided": share (an Interval), labels, of which people's and models'.

    Raises:
        CourseError: a label names another system.
    """
    import pandas as pd

    if unknown := set(labels[question]) - {*systems, UNDECIDED}:
        raise CourseError(f"The labels name {', '.join(sorted(unknown))}, which is none of {', '.join(systems)}.")
    counts = {name: (labels["kind"] == kind).sum() for name, kind in (("people's", "person"), ("models'", "model"))}
    rows = {
        name: {"share": _counted(labels, labels[question] == name), "labels": len(labels), **counts}
        for name in (*systems, UNDECIDED)
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def majority(labels: pd.DataFrame, question: str) -> pd.Series:
    """item -> the system that more than half of the item's raters named, else "undecided" (a tie)."""
    shares = labels.groupby("item")[question].value_counts(normalize=True).unstack(fill_value=0.0)
    return shares.idxmax(axis=1).where(shares.max(axis=1) > 0.5, UNDECIDED)


def item_test(labels: pd.DataFrame, question: str, systems: Sequence[str]) -> SignTest:
    """Sign test over items of their majorities, the first system's wins against the second's.

    Items are taken as independent, as those of different prompts are (`build_comparisons` makes one of a prompt).
    """
    named = majority(labels, question)
    wins, losses = (int((named == system).sum()) for system in systems)
    return sign_test(wins, losses, len(named) - wins - losses)


def agreement(labels: pd.DataFrame, question: str, draws: int = 1000) -> Interval | None:
    """Krippendorff's alpha of the raters (nominal; 1: always agree, 0: as by chance), bootstrap interval over prompts.

    Items with one label count for nothing, as Krippendorff has it. The interval is a percentile one: with few prompts
    it is too narrow, and where all agree it has no width.

    Returns:
        None where alpha is not defined: no item has two labels, all such labels are the same one (nltk says 1 there;
        without variation nothing shows that raters can tell the systems apart), or there is one prompt.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), by nltk.metrics.agreement. nltk's `alpha`
    walks every label again, which for a thousand draws takes minutes; observed disagreement and counts of labels are
    sums over items, so draws add those of their prompts.
    """
    from nltk.metrics.agreement import AnnotationTask

    paired = labels[labels.groupby("item")["rater"].transform("size") > 1]
    if paired[question].nunique() < 2 or paired["prompt_id"].nunique() < 2:
        return None
    task = AnnotationTask(list(paired[["rater", "item", question]].itertuples(index=False, name=None)))
    counts = paired.groupby(["prompt_id", "item"])[question].value_counts().unstack(fill_value=0)
    observed = counts.apply(lambda row: task.Disagreement(row.to_dict()) * row.sum(), axis=1)
    disagreed, named = (frame.groupby("prompt_id").sum().to_numpy() for frame in (observed, counts))

    def alpha(drawn: np.ndarray) -> float:
        total = named[drawn].sum(axis=0)
        expected = task.Disagreement(dict(enumerate(total)))
        return 1 - disagreed[drawn].sum() / total.sum() / expected if expected else np.nan

    return replace(bootstrap_interval(alpha, len(named), draws), mean=float(task.alpha()))


def position_bias(labels: pd.DataFrame) -> pd.DataFrame:
    """How often the first place was taken among decided answers; sides and orders are dealt so that half is fair.

    Returns:
        One row for each question and rater, and for "all people" and "all models" where there are any: question,
        rater, kind, decided (answers; a judge has one an order), first (Interval of the share, clustered by prompt),
        turned (of the items that a judge decided in both orders, the share in which it took the same place twice, and
        so contradicted itself). None where there is nothing to count.
    """
    import pandas as pd

    rows = []
    for question in QUESTIONS:
        for kind, of_kind in labels.groupby("kind", sort=False):
            whole = {"person": "all people", "model": "all models"}[kind]
            for rater, own in [*of_kind.groupby("rater", sort=False), (whole, of_kind)]:
                places = own[f"{question}_at"]
                counts = pd.DataFrame({"hits": places.str.count("A"), "labels": places.str.len()})
                counts = counts.groupby(own["prompt_id"]).sum()
                both = places.str.len() == 2
                decided = int(counts["labels"].sum())
                first = share_interval(counts["hits"], counts["labels"]) if decided else None
                turned = _counted(own[both], places[both].isin(["AA", "BB"])) if both.any() else None
                about = {"question": question, "rater": rater, "kind": kind}
                rows.append(about | {"decided": decided, "first": first, "turned": turned})
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
        raise CourseError("A judge is compared with people on items that both labelled: read both, with mixed=True.")
    rows = []
    for question in QUESTIONS:
        named = majority(people, question)
        for judge, own in models.groupby("rater", sort=False):
            own = own[own["item"].isin(named.index)]
            theirs = own.assign(rater="the majority of people", **{question: own["item"].map(named)})
            same = _counted(own, own[question].to_numpy() == theirs[question].to_numpy()) if len(own) else None
            alpha = agreement(pd.concat([own.assign(rater="the judge"), theirs]), question)
            rows.append({"question": question, "judge": judge, "items": len(own), "same": same, "alpha": alpha})
    return pd.DataFrame(rows)


def rating_table(labels: pd.DataFrame, systems: Sequence[str]) -> pd.DataFrame:
    """What the labels say, a row for each question and kind of rater: people and models never share one.

    Returns:
        question, raters ("3 people"), both systems' win rates and undecided (Intervals of shares of labels, clustered
        by prompt), sign test (SignTest of the items' majorities, first system against second), alpha (Interval, or
        None where it is not defined), items, prompts, labels.
    """
    import pandas as pd

    rows = []
    for question in QUESTIONS:
        for kind, own in labels.groupby("kind", sort=False):
            raters = own["rater"].nunique()
            noun = {"person": ("person", "people"), "model": ("model", "models")}[kind][raters > 1]
            shares = win_rates(own, question, systems)["share"]
            rows.append({
                "question": question, "raters": f"{raters} {noun}",
                **{f"{system} wins": shares[system] for system in systems}, UNDECIDED: shares[UNDECIDED],
                "sign test": item_test(own, question, systems), "alpha": agreement(own, question),
                "items": own["item"].nunique(), "prompts": own["prompt_id"].nunique(), "labels": len(own),
            })  # fmt: skip
    return pd.DataFrame(rows)
