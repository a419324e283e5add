"""Win rates, majorities, agreement and place, against counting by hand and by the definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study import BUILT, ITEMS, KEY, ONE, SYSTEMS, TWO, rate, write_model

from ddpo_utils.cli import main
from ddpo_utils.evaluation.statistics import share_interval
from ddpo_utils.human_eval import win_rates as module
from ddpo_utils.human_eval.comparisons import (
    UNDECIDED,
    read_comparisons,
    read_key,
    write_comparisons,
)
from ddpo_utils.human_eval.ratings import UNREADABLE, read_labels, read_study
from ddpo_utils.human_eval.win_rates import (
    agreement,
    item_test,
    judge_agreement,
    majority,
    position_bias,
    rating_table,
    win_rates,
)
from ddpo_utils.settings import data_dir

NAMES = {"1": ONE, "2": TWO, "u": UNDECIDED, "?": None}


def frame(table: dict[str, str], kind: str = "person") -> pd.DataFrame:
    """Labels: rater -> a letter an item ("1", "2", "u", "?" unreadable, "-" not rated)."""
    rows = []
    for rater, letters in table.items():
        for i, letter in enumerate(letters):
            rows.append((f"c{i}", f"p{i}", rater, kind, letter))
    labels = pd.DataFrame(rows, columns=["item", "prompt_id", "rater", "kind", "best"])
    labels = labels[labels["best"] != "-"]
    best = labels["best"].map(lambda letter: NAMES.get(letter, letter))
    return labels.assign(best=best, diverse=best, best_at="", diverse_at="")


def random_labels(seed: int, raters: int = 3, items: int = 20) -> pd.DataFrame:
    letters = np.random.default_rng(seed).choice(list("112u-"), (raters, items))
    return frame({f"r{rater}": "".join(row) for rater, row in enumerate(letters)})


def means(shares: pd.Series) -> dict[str, float]:
    return {name: share.mean for name, share in shares.items()}


def test_win_rates_count_labels_and_their_intervals_prompts() -> None:
    labels = frame({"x": "1112u1", "y": "111u21", "z": "112211"})
    rates = win_rates(labels, "diverse", SYSTEMS)
    expected = {ONE: 12 / 18, TWO: 4 / 18, UNDECIDED: 2 / 18}
    assert means(rates["share"]) == pytest.approx(expected)
    assert rates.loc[ONE, "share"] == share_interval([3, 3, 2, 0, 1, 3], [3] * 6)
    assert (rates["labels"] == 18).all()
    two_a_prompt = labels.assign(prompt_id=labels["item"].str[1:].astype(int) // 2)
    share = win_rates(two_a_prompt, "diverse", SYSTEMS).loc[ONE, "share"]
    assert share == share_interval([6, 2, 4], [6] * 3)
    unread = win_rates(frame({"x": "1?", "y": "??"}), "best", SYSTEMS)
    assert (unread["labels"] == 1).all()


def test_a_majority_is_more_than_half() -> None:
    labels = frame({"x": "1111u12", "y": "112u22-", "z": "12uuu--"})
    assert majority(labels, "best").tolist() == [ONE, ONE, *[UNDECIDED] * 4, TWO]
    test = item_test(labels, "best", SYSTEMS)
    assert (test.wins, test.losses, test.ties) == (2, 1, 4)
    unread = frame({"x": "1?", "y": "??", "z": "??"})
    assert majority(unread, "best").to_dict() == {"c0": ONE}  # of the labels there are


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C
PUBLISHED = {"A": "123321412---", "B": "1233224125-3", "C": "-3332342251-", "D": "12332441251-"}


def slow_alpha(labels: pd.DataFrame) -> float:
    """By the definition: disagreeing pairs of an item weigh 1 / (m - 1), against all pairs."""
    groups = [list(group) for _, group in labels.groupby("item")["best"] if len(group) > 1]
    every = [label for group in groups for label in group]
    within = 0.0
    for group in groups:
        within += sum(a != b for a in group for b in group) / (len(group) - 1)
    across = sum(a != b for a in every for b in every) / (len(every) - 1)
    return 1 - within / across


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_krippendorff_s(seed: int) -> None:
    published = agreement(frame(PUBLISHED), "best")
    assert published.mean == pytest.approx(0.743, abs=5e-4)
    assert published.low < published.mean < published.high <= 1
    assert published.n == 11  # a unit that one observer coded alone is no evidence
    labels = random_labels(seed, raters=2 + seed % 3, items=15)
    labels.loc[labels.index[0], "best"] = None  # unreadable
    assert agreement(labels, "best").mean == pytest.approx(slow_alpha(labels.dropna()))


def test_a_draw_s_alpha_is_that_of_the_drawn_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = random_labels(9, items=12)
    paired = labels[labels.groupby("item")["rater"].transform("size") > 1]
    groups = [group for _, group in paired.groupby("prompt_id")]
    calls = []
    monkeypatch.setattr(module, "bootstrap_interval", lambda *arguments: calls.append(arguments))
    agreement(labels, "best")
    ((alpha, clusters),) = calls
    assert clusters == len(groups) > 8
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = rng.integers(0, clusters, clusters)
        again = pd.concat([groups[g].assign(item=place) for place, g in enumerate(drawn)])
        assert alpha(drawn) == pytest.approx(slow_alpha(again))


def test_alpha_at_its_ends_and_where_it_is_not_defined() -> None:
    assert agreement(frame({"x": "1212u121", "y": "1212u121"}), "best").mean == 1
    assert agreement(frame({"x": "1212", "y": "2121"}), "best").mean < -0.5
    one_rater, one_label = {"x": "1212"}, {"x": "1111", "y": "1111"}
    for labels in (one_rater, one_label, {"x": "12--", "y": "--12"}, {"x": "1", "y": "2"}):
        assert agreement(frame(labels), "best") is None


def test_a_rater_who_takes_one_side_is_seen() -> None:
    even = frame({"even": "1" * 40}).assign(diverse_at=list("AB" * 20))
    left = frame({"left": "1" * 40}).assign(diverse_at=["A"] * 36 + ["B"] * 4, best_at="A")
    judge = frame({"judge": "1" * 4}, "model").assign(diverse_at=["AB", "AA", "A", ""])
    bias = position_bias(pd.concat([even, left, judge])).set_index(["question", "rater"])
    raters = ["even", "left", "judge", "all people", "all models"]
    assert list(bias.loc["diverse"].index) == raters
    assert means(bias.loc["diverse", "first"]) == pytest.approx(
        dict(zip(raters, (0.5, 0.9, 0.8, 0.7, 0.8), strict=True))
    )
    assert bias.loc[("diverse", "left"), "first"].low > 0.5
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
    assert bad["alpha"].mean == pytest.approx(slow_alpha(frame({"j": "2211u1", "p": "1122uu"})))
    for labels in (people, models, pd.concat([people, models.assign(item="elsewhere")])):
        assert judge_agreement(labels).empty


@pytest.mark.parametrize("task", ["assistant-authors", "ddpo-dpo"])
def test_the_bundled_labels_give_what_counting_by_hand_gives(task: str) -> None:
    folder = data_dir() / "ratings" / task
    comparisons = read_comparisons(folder / "for_raters" / "comparisons.json")
    key = read_key(folder / "key.json", comparisons)
    labels = read_labels(folder / "ratings", comparisons, key)
    table = rating_table(labels, key["systems"]).set_index("question")
    for question, row in table.iterrows():
        named: dict[str, list[str]] = {item: [] for item in key["items"]}
        for path in (folder / "ratings").glob("*.json"):
            for answer in json.loads(path.read_text(encoding="utf-8"))["answers"]:
                item = answer["item"]
                named[item].append(key["items"][item].get(answer[question][0], UNDECIDED))
        every = [system for systems in named.values() for system in systems]
        wins = []
        for system in key["systems"]:
            assert row[f"{system} wins"].mean == pytest.approx(every.count(system) / len(every))
            wins.append(sum(2 * systems.count(system) > len(systems) for systems in named.values()))
        assert [row["sign test"].wins, row["sign test"].losses] == wins
        if len(set(every)) > 1:
            by_definition = slow_alpha(labels.assign(best=labels[question]))
            assert row["alpha"].mean == pytest.approx(by_definition)


def test_people_and_models_have_rows_of_their_own(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "build" / "compare"
    write_comparisons(study, BUILT, KEY)
    assert main(["ratings"]) == 1
    rate(study / "ratings", "Ann", [ONE, ONE, TWO, UNDECIDED, ONE, ONE])
    orders = [(item, order) for item in ITEMS[:2] for order in ("AB", "BA")]
    answers = [(item, UNREADABLE, "A1", order) for item, order in orders]
    write_model(study / "ratings" / "judge.json", answers)
    table = rating_table(*read_study(study)).set_index(["question", "raters"])
    person, model = table.loc[("diverse", "1 person")], table.loc[("diverse", "1 model")]
    assert person["one wins"] == share_interval([1, 1, 0, 0, 1, 1], [1] * 6)
    test = person["sign test"]
    assert (test.wins, test.losses, test.ties) == (4, 1, 1)
    counts = ["items", "prompts", "labels", "unreadable"]
    assert person[counts].tolist() == [6, 6, 6, 0]
    assert model[counts].tolist() == [0, 0, 0, 2]
    assert model["one wins"] is None
    assert person["alpha"] == "not defined"
    assert table.loc[("best", "1 model"), "labels"] == 2
    capsys.readouterr()
    assert main(["ratings"]) == 0
    printed = capsys.readouterr().out
    labels = read_study(study)[0]
    for share in [*table["one wins"], *judge_agreement(labels)["same"]]:
        assert str(share) in printed
