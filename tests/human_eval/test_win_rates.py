"""Win rates, majorities, agreement and place, against counting by hand and by the definition."""

from __future__ import annotations

from itertools import permutations

import pandas as pd
import pytest
from study import BUILT, ITEMS, KEY, ONE, SYSTEMS, TWO, rate, write_model

from ddpo_utils.cli import main
from ddpo_utils.evaluation.statistics import jackknife_interval, share_interval
from ddpo_utils.human_eval.comparisons import UNDECIDED, write_comparisons
from ddpo_utils.human_eval.ratings import UNREADABLE, read_study
from ddpo_utils.human_eval.win_rates import (
    agreement,
    item_test,
    judge_agreement,
    majority,
    position_bias,
    rating_table,
    win_rates,
)

NAMES = {"1": ONE, "2": TWO, "u": UNDECIDED, "?": None}


def frame(table: dict[str, str], kind: str = "person") -> pd.DataFrame:
    """Labels: rater -> a letter an item ("1", "2", "u", "?" unreadable, "-" not rated)."""
    rows = []
    for rater, letters in table.items():
        for i, letter in enumerate(letters):
            rows.append((f"c{i:02}", f"p{i:02}", rater, kind, letter))
    labels = pd.DataFrame(rows, columns=["item", "prompt_id", "rater", "kind", "best"])
    labels = labels[labels["best"] != "-"]
    best = labels["best"].map(lambda letter: NAMES.get(letter, letter))
    return labels.assign(best=best, diverse=best, best_at="", diverse_at="")


def means(shares: pd.Series) -> dict[str, float]:
    return {name: share.mean for name, share in shares.items()}


def test_win_rates_count_labels_and_their_intervals_prompts() -> None:
    labels = frame({"x": "1112u1", "y": "111u21", "z": "112211", "unreadable": "?"})
    rates = win_rates(labels, "diverse", SYSTEMS)
    expected = {ONE: 12 / 18, TWO: 4 / 18, UNDECIDED: 2 / 18}
    assert means(rates["share"]) == pytest.approx(expected)
    assert rates.loc[ONE, "share"] == share_interval([3, 3, 2, 0, 1, 3], [3] * 6)
    assert (rates["labels"] == 18).all()
    two_a_prompt = labels.assign(prompt_id=labels["item"].str[1:].astype(int) // 2)
    share = win_rates(two_a_prompt, "diverse", SYSTEMS).loc[ONE, "share"]
    assert share == share_interval([6, 2, 4], [6] * 3)


def test_a_majority_is_more_than_half_of_the_labels_there_are() -> None:
    labels = frame({"x": "1111u121?", "y": "112u22-??", "z": "12uuu--??"})
    most = [ONE, ONE, *[UNDECIDED] * 4, TWO, ONE]
    assert majority(labels, "best").tolist() == most  # none of the last
    test = item_test(labels, "best", SYSTEMS)
    assert (test.wins, test.losses, test.ties) == (3, 1, 4)


def slow_alpha(items: list[list[str]]) -> float:
    """By the definition: disagreeing pairs of an item weigh 1 / (m - 1), against all pairs."""
    within = 0.0
    for labels in items:
        within += sum(a != b for a, b in permutations(labels, 2)) / (len(labels) - 1)
    every = [label for labels in items for label in labels]
    across = sum(a != b for a, b in permutations(every, 2)) / (len(every) - 1)
    return 1 - within / across


def test_alpha_and_its_interval_are_krippendorff_s() -> None:
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C
    published = {
        "A": "123321412---",
        "B": "1233224125-3",
        "C": "-3332342251-",
        "D": "12332441251-",
    }
    labels = frame(published)
    found = agreement(labels, "best")
    assert found.mean == pytest.approx(0.743, abs=5e-4)
    groups = [list(group) for _, group in labels.groupby("item")["best"] if len(group) > 1]
    assert found.n == len(groups) == 11  # a unit that one observer coded alone is no evidence
    slow = jackknife_interval(lambda rows: slow_alpha([groups[row] for row in rows]), 11, (-1, 1))
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))
    labels.loc[labels.index[0], "best"] = None  # unreadable: as if it had not been given
    assert agreement(labels, "best") == agreement(frame(published | {"A": "-23321412---"}), "best")


def test_alpha_at_its_ends_and_where_it_is_not_defined() -> None:
    assert agreement(frame({"x": "1212u121", "y": "1212u121"}), "best").mean == 1
    assert agreement(frame({"x": "1212", "y": "2121"}), "best").mean < -0.5
    one_rater, one_label = {"x": "1212"}, {"x": "1111", "y": "1111"}
    one_dissent = {"x": "1112", "y": "1111"}  # without its prompt all labels are the same
    two_raters = ({"x": "12--", "y": "--12"}, {"x": "1", "y": "2"}, one_dissent)
    for labels in (one_rater, one_label, *two_raters):
        assert agreement(frame(labels), "best") is None


def test_a_rater_who_takes_one_side_is_seen() -> None:
    even = frame({"even": "1" * 40}).assign(diverse_at=list("AB" * 20))
    left = frame({"left": "1" * 40}).assign(diverse_at=["A"] * 36 + ["B"] * 4, best_at="A")
    judge = frame({"judge": "1" * 4}, "model").assign(diverse_at=["AB", "AA", "A", ""])
    bias = position_bias(pd.concat([even, left, judge])).set_index(["question", "rater"])
    expected = {"even": 0.5, "left": 0.9, "judge": 0.8, "all people": 0.7, "all models": 0.8}
    assert means(bias.loc["diverse", "first"]) == pytest.approx(expected)
    assert bias.loc["diverse", "decided"].tolist() == [40, 40, 5, 80, 5]
    assert bias.loc[("best", "even"), "first"] is None
    assert bias.loc["best", "decided"].tolist() == [0, 40, 0, 40, 0]


def test_a_judge_is_compared_with_the_majority_of_people() -> None:
    people = frame({"x": "1122u1", "y": "112uu2", "z": "1212u-"})  # majorities: 1 1 2 2 u u
    models = frame({"good": "1122u-", "bad": "2211u1", "mute": "??????"}, "model")
    beside = judge_agreement(pd.concat([people, models])).set_index(["question", "judge"])
    assert beside.loc["best", "items"].to_dict() == {"good": 5, "bad": 6}
    good, bad = beside.loc[("best", "good")], beside.loc[("best", "bad")]
    assert good["same"].mean == good["alpha"].mean == 1
    assert bad["same"] == share_interval([0, 0, 0, 0, 1, 0], [1] * 6)
    assert bad["alpha"] == agreement(frame({"j": "2211u1", "p": "1122uu"}), "best")
    for labels in (people, models, pd.concat([people, models.assign(item="elsewhere")])):
        assert judge_agreement(labels).empty


def test_people_and_models_have_rows_of_their_own(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "build" / "compare"
    write_comparisons(study, BUILT, KEY)
    rate(study / "ratings", "Ann", [ONE, ONE, TWO, UNDECIDED, ONE, ONE])
    orders = [(item, order) for item in ITEMS[:2] for order in ("AB", "BA")]
    answers = [(item, UNREADABLE, "A1", order) for item, order in orders]
    write_model(study / "ratings" / "judge.json", answers)
    labels, systems = read_study(study)
    table = rating_table(labels, systems).set_index(["question", "raters"])
    person, model = table.loc[("diverse", "1 person")], table.loc[("diverse", "1 model")]
    assert person["one wins"] == share_interval([1, 1, 0, 0, 1, 1], [1] * 6)
    test = person["sign test"]
    assert (test.wins, test.losses, test.ties) == (4, 1, 1)
    counts = ["items", "prompts", "labels", "unreadable"]
    assert (person[counts].tolist(), model[counts].tolist()) == ([6, 6, 6, 0], [0, 0, 0, 2])
    assert (model["one wins"], person["alpha"]) == (None, "not defined")
    assert table.loc[("best", "1 model"), "labels"] == 2
    assert main(["ratings"]) == 0
    printed = capsys.readouterr().out
    for share in [*table["one wins"], *judge_agreement(labels)["same"]]:
        assert str(share) in printed
