"""Ratings and key become labels: what is refused, what two orders mean, win rates, agreement, place, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ddpo_utils.evaluation.rates import share_interval
from ddpo_utils.human_eval.comparisons import (
    UNDECIDED,
    build_comparisons,
    read_comparisons,
    read_key,
    write_json,
)
from ddpo_utils.human_eval.labels import (
    agreement,
    item_test,
    judge_agreement,
    majority,
    position_bias,
    rating_table,
    read_labels,
    win_rates,
)
from ddpo_utils.human_eval.ratings import Ratings
from ddpo_utils.settings import CourseError, data_dir

ONE, TWO = SYSTEMS = ("one", "two")


def stories(name: str, prompts: int = 6) -> pd.DataFrame:
    rows = [
        {"prompt_id": f"p{p}", "prompt": f"Prompt {p}.", "text": f"{name} {p} {k}"}
        for p in range(prompts)
        for k in "abcd"
    ]
    return pd.DataFrame(rows)


BUILT, KEY = build_comparisons(stories("one"), stories("two"), SYSTEMS, seed=1)
ITEMS = [item["item"] for item in BUILT.items]


def side(item: str, system: str) -> str:
    """Where the system stands."""
    return system if system == UNDECIDED else "A" if KEY["items"][item]["A"] == system else "B"


def best(item: str, system: str, story: int = 1) -> str:
    return system if system == UNDECIDED else f"{side(item, system)}{story}"


def rate(
    folder: Path, rater: str, diverse: list[str], kind: str = "person", story: int = 1
) -> Path:
    """One rater names these systems as the more diverse, item by item, and the first as having the best story."""
    ratings = Ratings(folder, BUILT, rater, kind)
    for item, system in zip(ITEMS, diverse, strict=False):
        ratings.save(item, side(item, system), best(item, ONE, story), seconds=10.0)
    return ratings.path


def judge(folder: Path, answers: list[tuple[str, str, str, str]], name: str = "judge") -> Path:
    """A judge's file: (item, order, diverse, best) in the letters of the comparisons."""
    given = [
        {"item": i, "order": o, "diverse": d, "best": b, "comment": "", "seconds": 2.0}
        for i, o, d, b in answers
    ]
    write_json(
        path := folder / f"{name}.json",
        {"comparisons": BUILT.id, "rater": name, "kind": "model", "answers": given},
    )
    return path


def frame(table: dict[str, list[str]], kind: str = "person", places: str = "") -> pd.DataFrame:
    """Labels without files: rater -> a letter an item ("1", "2", "u", "?" unreadable, "-" not rated)."""
    names = {"1": ONE, "2": TWO, "u": UNDECIDED, "?": None}
    rows = [
        {
            "item": f"c{i}",
            "prompt_id": f"p{i}",
            "rater": rater,
            "kind": kind,
            "diverse": names[x],
            "best": names[x],
        }
        | {"diverse_at": places, "best_at": places, "seconds": 1.0}
        for rater, letters in table.items()
        for i, x in enumerate(letters)
        if x != "-"
    ]
    return pd.DataFrame(rows)


def test_labels_name_systems_and_places(tmp_path: Path) -> None:
    named = [ONE, TWO, UNDECIDED, ONE, ONE, TWO]
    rate(tmp_path, "Ann", named, story=3)
    rate(tmp_path, "Ben", named[:2])
    labels = read_labels(tmp_path, BUILT, KEY)
    assert list(labels) == [
        "item",
        "prompt_id",
        "rater",
        "kind",
        "diverse",
        "diverse_at",
        "best",
        "best_at",
        "seconds",
    ]
    ann = labels[labels["rater"] == "Ann"].set_index("item")
    assert ann["diverse"].to_dict() == dict(zip(ITEMS, named, strict=True))
    assert (
        set(ann["best"]) == {ONE}
        and set(ann["kind"]) == {"person"}
        and set(ann["seconds"]) == {10.0}
    )
    for item in ITEMS:
        assert ann.loc[item, "prompt_id"] == KEY["items"][item]["prompt_id"]
        assert ann.loc[item, "best_at"] == side(item, ONE)
        assert ann.loc[item, "diverse_at"] == side(item, ann.loc[item, "diverse"]).replace(
            UNDECIDED, ""
        )
    assert (labels["rater"] == "Ben").sum() == 2
    one = read_labels(tmp_path / "ann.json", BUILT, KEY)
    pd.testing.assert_frame_equal(one, read_labels([tmp_path / "ann.json"], BUILT, KEY))
    pd.testing.assert_frame_equal(one, labels[labels["rater"] == "Ann"].reset_index(drop=True))


def edit(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no labels yet"):
        read_labels(tmp_path, BUILT, KEY)
    path = rate(tmp_path, "Ann", [ONE] * 6)
    whole = json.loads(path.read_text())
    with pytest.raises(CourseError, match="key is of other"):
        read_labels(tmp_path, BUILT, KEY | {"comparisons": "0" * 12})
    with pytest.raises(CourseError, match="key is of other"):
        read_labels(tmp_path, BUILT, KEY | {"items": {"c01": KEY["items"]["c01"]}})
    edit(path, comparisons="0" * 12)
    with pytest.raises(CourseError, match="rates other comparisons"):
        read_labels(tmp_path, BUILT, KEY)
    for change, message in (
        ({"item": "c99"}, "no comparison 'c99'"),
        ({"best": "A5"}, "'A5' is no answer"),
    ):
        write_json(path, whole | {"answers": [whole["answers"][0] | change]})
        with pytest.raises(CourseError, match=message):
            read_labels(tmp_path, BUILT, KEY)
    write_json(path, whole)
    write_json(tmp_path / "ann (1).json", whole | {"rater": "ann "})
    with pytest.raises(CourseError, match="both by"):
        read_labels(tmp_path, BUILT, KEY)


def test_people_and_models_mix_only_when_asked_to(tmp_path: Path) -> None:
    rate(tmp_path, "Ann", [ONE] * 6)
    rate(tmp_path, "Model", [TWO] * 6, kind="model")
    with pytest.raises(CourseError, match="mixed=True"):
        read_labels(tmp_path, BUILT, KEY)
    labels = read_labels(tmp_path, BUILT, KEY, mixed=True)
    assert labels.groupby("kind")["diverse"].unique().map(list).to_dict() == {
        "person": [ONE],
        "model": [TWO],
    }
    rates = win_rates(labels, "diverse", SYSTEMS)
    assert (
        (rates["labels"] == 12).all()
        and (rates["people's"] == 6).all()
        and (rates["models'"] == 6).all()
    )
    assert rates["share"].map(lambda share: share.mean).to_dict() == {
        ONE: 0.5,
        TWO: 0.5,
        UNDECIDED: 0,
    }
    table = rating_table(labels, SYSTEMS)
    assert list(table["raters"]) == ["1 person", "1 model"] * 2
    assert [share.mean for share in table["one wins"]][:2] == [1, 0]  # and never the mean of both


def test_two_orders_make_one_label(tmp_path: Path) -> None:
    a, b, c, d, e = ITEMS[:5]
    judge(
        tmp_path,
        [
            (a, "AB", "A", "A1"),
            (a, "BA", "A", "A4"),  # the same set in both orders
            (b, "AB", "A", "B1"),
            (b, "BA", "B", "A1"),  # the place shown first, then the place shown second
            (c, "BA", "B", UNDECIDED),
            (c, "AB", UNDECIDED, UNDECIDED),
            (d, "AB", UNDECIDED, "B2"),
            (d, "BA", UNDECIDED, "B2"),
            (e, "AB", "B", "B1"),
            (e, "BA", "B", "B1"),
        ],
    )
    labels = read_labels(tmp_path, BUILT, KEY).set_index("item")
    assert labels["diverse"].tolist() == [
        KEY["items"][a]["A"],
        UNDECIDED,
        UNDECIDED,
        UNDECIDED,
        KEY["items"][e]["B"],
    ]
    assert labels["best"].tolist() == [
        KEY["items"][a]["A"],
        UNDECIDED,
        UNDECIDED,
        KEY["items"][d]["B"],
        KEY["items"][e]["B"],
    ]
    assert labels["diverse_at"].tolist() == ["AB", "AA", "A", "", "BA"]
    assert labels["best_at"].tolist() == ["AB", "BB", "", "BA", "BA"]
    assert (labels["seconds"] == 4).all()
    bias = (
        position_bias(labels.reset_index())
        .set_index(["question", "rater"])
        .loc[("diverse", "judge")]
    )
    assert (bias["decided"], bias["first"].mean) == (7, 5 / 7)


def test_what_a_judge_said_unreadably_is_no_label(tmp_path: Path) -> None:
    a, b, c = ITEMS[:3]
    judge(
        tmp_path,
        [
            (a, "AB", "A", "A1"),
            (a, "BA", "unreadable", "A1"),
            (b, "AB", "B", UNDECIDED),
            (b, "BA", "B", "unreadable"),
            (c, "AB", "unreadable", "unreadable"),
            (c, "BA", "unreadable", "unreadable"),
        ],
    )
    rate(tmp_path, "Ann", [KEY["items"][item]["B"] for item in ITEMS])
    labels = read_labels(tmp_path, BUILT, KEY, mixed=True)
    own = labels[labels["kind"] == "model"].reset_index(drop=True)
    for question, item, at in (("diverse", 1, ["A", "BA", ""]), ("best", 0, ["AB", "", ""])):
        assert own[question].notna().tolist() == [place == item for place in range(3)]
        assert own[f"{question}_at"].tolist() == at
        rates = win_rates(own, question, SYSTEMS)
        assert (rates["labels"] == 1).all() and rates.loc[
            own.loc[item, question], "share"
        ].mean == 1
    table = rating_table(labels, SYSTEMS).set_index(["question", "raters"])
    assert table.loc[("diverse", "1 model"), ["items", "labels", "unreadable"]].tolist() == [
        1,
        1,
        2,
    ]
    assert table.loc[("diverse", "1 person"), ["items", "labels", "unreadable"]].tolist() == [
        6,
        6,
        0,
    ]
    assert judge_agreement(labels)["items"].tolist() == [1, 1]
    none = rating_table(own[own["item"] == c], SYSTEMS)
    assert (
        none["one wins"].isna().all()
        and (none["labels"] == 0).all()
        and (none["unreadable"] == 1).all()
    )


def test_one_order_is_not_enough(tmp_path: Path) -> None:
    path = judge(
        tmp_path,
        [(ITEMS[0], "AB", "A", "A1"), (ITEMS[0], "BA", "A", "A1"), (ITEMS[1], "BA", "A", "A1")],
    )
    with pytest.raises(CourseError, match=f"{ITEMS[1]} in one order only"):
        read_labels(path, BUILT, KEY)


def test_a_time_that_is_not_known_stays_unknown(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path, BUILT, "Ann")
    ratings.save(ITEMS[0], "A", "B2")
    assert np.isnan(read_labels(tmp_path, BUILT, KEY)["seconds"]).all()


def test_win_rates_count_labels_and_their_intervals_prompts() -> None:
    labels = frame({"x": "1112u1", "y": "111u21", "z": "112211"})
    rates = win_rates(labels, "diverse", SYSTEMS)
    assert rates["share"].map(lambda share: share.mean).to_dict() == pytest.approx(
        {ONE: 12 / 18, TWO: 4 / 18, UNDECIDED: 2 / 18}
    )
    assert rates.loc[ONE, "share"] == share_interval([3, 3, 2, 0, 1, 3], [3] * 6)
    pairs = labels.assign(
        prompt_id=labels["item"].map(lambda item: int(item[1:]) // 2)
    )  # two items of each prompt
    assert win_rates(pairs, "diverse", SYSTEMS).loc[ONE, "share"] == share_interval(
        [6, 2, 4], [6] * 3
    )
    assert (
        (rates["labels"] == 18).all()
        and (rates["people's"] == 18).all()
        and (rates["models'"] == 0).all()
    )
    with pytest.raises(CourseError, match="name two, which is none of one, tow"):
        win_rates(labels, "best", ("one", "tow"))


def test_a_majority_is_more_than_half() -> None:
    labels = frame({"x": "1111u12", "y": "112u22-", "z": "12uuu--"})
    assert majority(labels, "best").tolist() == [
        ONE,
        ONE,
        UNDECIDED,
        UNDECIDED,
        UNDECIDED,
        UNDECIDED,
        TWO,
    ]
    got = item_test(labels, "best", SYSTEMS)
    assert (got.wins, got.losses, got.ties) == (2, 1, 4)
    unread = frame({"x": "1?", "y": "??", "z": "??"})
    assert majority(unread, "best").to_dict() == {"c0": ONE}  # of the labels there are


def swapped(labels: pd.DataFrame, columns: tuple[str, ...], one: str, other: str) -> pd.DataFrame:
    return labels.assign(**{c: labels[c].replace({one: other, other: one}) for c in columns})


def some_labels(seed: int, raters: int = 3, items: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    labels = frame({f"r{r}": rng.choice(list("112u-"), items) for r in range(raters)})
    return labels.assign(
        **{
            f"{q}_at": np.where(labels[q] == UNDECIDED, "", rng.choice(list("AAB"), len(labels)))
            for q in ("diverse", "best")
        }
    )


@pytest.mark.parametrize("seed", range(4))
def test_swapping_the_systems_or_the_sides_swaps_the_table_and_nothing_else(seed: int) -> None:
    labels = some_labels(seed)
    other = swapped(labels, ("diverse", "best"), ONE, TWO)
    for question in ("diverse", "best"):
        rates, turned = (
            win_rates(labels, question, SYSTEMS)["share"],
            win_rates(other, question, SYSTEMS)["share"],
        )
        assert (rates[ONE], rates[TWO], rates[UNDECIDED]) == (
            turned[TWO],
            turned[ONE],
            turned[UNDECIDED],
        )
        one, two = item_test(labels, question, SYSTEMS), item_test(other, question, SYSTEMS)
        assert (one.wins, one.losses, one.p, one.p_split) == (
            two.losses,
            two.wins,
            two.p,
            two.p_split,
        )
        assert agreement(labels, question, 50) == pytest.approx(agreement(other, question, 50))
    sides = swapped(labels, ("diverse_at", "best_at"), "A", "B")
    for first, second in zip(
        position_bias(labels)["first"], position_bias(sides)["first"], strict=True
    ):
        assert (second.mean, second.low, second.high) == pytest.approx(
            (1 - first.mean, 1 - first.high, 1 - first.low)
        )


def test_dealing_the_sides_anew_changes_no_label(tmp_path: Path) -> None:
    """The same judgements of the same stories, shown the other way round."""
    rate(tmp_path / "here", "Ann", [ONE, TWO, UNDECIDED, ONE, ONE, TWO])
    items = [item | {"A": item["B"], "B": item["A"]} for item in BUILT.items]
    turned = {i: entry | {"A": entry["B"], "B": entry["A"]} for i, entry in KEY["items"].items()}
    letters = str.maketrans("AB", "BA")
    content = json.loads((tmp_path / "here" / "ann.json").read_text())
    content["answers"] = [
        a | {q: a[q] if a[q] == UNDECIDED else a[q].translate(letters) for q in ("diverse", "best")}
        for a in content["answers"]
    ]
    write_json(tmp_path / "there" / "ann.json", content)
    here = read_labels(tmp_path / "here", BUILT, KEY)
    there = read_labels(
        tmp_path / "there", type(BUILT)(BUILT.id, BUILT.shown, items), KEY | {"items": turned}
    )
    for column in ("diverse", "best"):
        assert here[column].equals(there[column])
        assert here[f"{column}_at"].str.translate(letters).equals(there[f"{column}_at"])


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units, some missing
PUBLISHED = {"A": "123321412---", "B": "1233224125-3", "C": "-3332342251-", "D": "12332441251-"}


def coded(table: dict[str, str]) -> pd.DataFrame:
    """rater -> a code a unit, "-" for none."""
    rows = [
        {"item": f"u{i}", "prompt_id": f"u{i}", "rater": rater, "best": code}
        for rater, codes in table.items()
        for i, code in enumerate(codes)
        if code != "-"
    ]
    return pd.DataFrame(rows)


def slow_alpha(labels: pd.DataFrame) -> float:
    """By the definition: disagreeing pairs of labels within items, each weighted 1 / (m - 1), against all pairs."""
    groups = [list(own) for _, own in labels.groupby("item")["best"] if len(own) > 1]
    every = [label for own in groups for label in own]
    within = sum((a != b) / (len(own) - 1) for own in groups for a in own for b in own) / len(every)
    across = sum(a != b for a in every for b in every) / (len(every) * (len(every) - 1))
    return 1 - within / across


def test_alpha_is_krippendorff_s_with_values_missing() -> None:
    got = agreement(coded(PUBLISHED), "best", draws=200)
    assert (
        got.mean
        == pytest.approx(0.743, abs=5e-4)
        == pytest.approx(slow_alpha(coded(PUBLISHED)), abs=5e-4)
    )
    assert got.low < got.mean < got.high <= 1
    assert got.n == 11  # the unit that one observer coded alone is no evidence


@pytest.mark.parametrize("task", ["assistant-authors", "ddpo-dpo"])
def test_the_bundled_labels_give_what_counting_by_hand_gives(task: str) -> None:
    folder = data_dir() / "ratings" / task
    shown = read_comparisons(folder / "for_raters" / "comparisons.json")
    key = read_key(folder / "key.json", shown)
    labels = read_labels(folder / "ratings", shown, key)
    table = rating_table(labels, key["systems"]).set_index("question")
    files = [
        json.loads(path.read_text())["answers"] for path in (folder / "ratings").glob("*.json")
    ]
    for question, row in table.iterrows():
        named: dict[str, list[str]] = {}
        for answer in (answer for answers in files for answer in answers):
            named.setdefault(answer["item"], []).append(
                key["items"][answer["item"]].get(answer[question][0], UNDECIDED)
            )
        every = [system for item in named.values() for system in item]
        most = [
            next((s for s in key["systems"] if 2 * item.count(s) > len(item)), UNDECIDED)
            for item in named.values()
        ]
        for system in key["systems"]:
            assert row[f"{system} wins"].mean == pytest.approx(every.count(system) / len(every))
        assert (row["sign test"].wins, row["sign test"].losses) == tuple(
            map(most.count, key["systems"])
        )
        if len(set(every)) > 1:
            assert row["alpha"].mean == pytest.approx(
                slow_alpha(labels.assign(best=labels[question]))
            )


@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_that_of_the_definition(seed: int) -> None:
    labels = some_labels(seed, raters=2 + seed % 3, items=15)
    assert agreement(labels, "best", draws=2).mean == pytest.approx(slow_alpha(labels))


def test_a_draw_s_alpha_is_that_of_the_drawn_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bootstrap adds sums over items; the slow way counts the drawn items anew, repeated ones as their own."""
    labels, seen = some_labels(9, items=12), {}

    def keep(statistic, clusters, draws):
        seen["statistic"], seen["clusters"] = statistic, clusters
        return share_interval([1], [2])

    monkeypatch.setattr("ddpo_utils.human_eval.agreement.bootstrap_interval", keep)
    agreement(labels, "best")
    paired = labels[labels.groupby("item")["rater"].transform("size") > 1]
    groups = [own for _, own in paired.groupby("prompt_id")]
    assert seen["clusters"] == len(groups) > 8
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = rng.integers(0, len(groups), len(groups))
        again = pd.concat([groups[g].assign(item=f"{place}") for place, g in enumerate(drawn)])
        assert seen["statistic"](drawn) == pytest.approx(slow_alpha(again))


def test_alpha_where_it_says_something_and_where_it_is_not_defined() -> None:
    assert agreement(frame({"x": "1212u121", "y": "1212u121"}), "best").mean == 1
    chance = frame({r: np.random.default_rng(ord(r)).choice(list("12u"), 400) for r in "xyz"})
    by_chance = agreement(chance, "best", draws=200)
    assert by_chance.low < 0 < by_chance.high and by_chance.high - by_chance.low < 0.2
    assert agreement(frame({"x": "1212", "y": "2121"}), "best").mean < -0.5
    unread = frame({"x": "12u?1", "y": "1?u21", "z": "112??"})
    assert agreement(unread, "best", 2).mean == pytest.approx(slow_alpha(unread.dropna()))
    for none in (
        {"x": "1212"},
        {"x": "1111", "y": "1111"},
        {"x": "12--", "y": "--12"},
        {"x": "1", "y": "2"},
    ):
        assert agreement(frame(none), "best") is None


def test_a_rater_who_takes_one_side_is_seen() -> None:
    even = frame({"even": "1" * 40}).assign(diverse_at=list("AB" * 20), best_at="")
    left = frame({"left": "12" * 20}).assign(diverse_at=["A"] * 36 + ["B"] * 4, best_at="A")
    bias = position_bias(pd.concat([even, left])).set_index(["question", "rater"])
    assert list(bias.loc["diverse"].index) == ["even", "left", "all people"]
    assert (
        bias.loc[("diverse", "even"), "first"].low
        < 0.5
        < bias.loc[("diverse", "even"), "first"].high
    )
    assert (
        bias.loc[("diverse", "left"), "first"].mean == 0.9
        and bias.loc[("diverse", "left"), "first"].low > 0.5
    )
    assert bias.loc[("diverse", "all people"), "first"].mean == pytest.approx(56 / 80)
    assert (
        bias.loc[("best", "even"), "first"] is None and bias.loc[("best", "even"), "decided"] == 0
    )
    assert bias.loc[("best", "all people"), "decided"] == 40


def test_a_judge_is_compared_with_the_majority_of_people() -> None:
    people = frame({"x": "1122u1", "y": "112uu2", "z": "1212u-"})
    models = frame({"good": "1122u-", "bad": "2211u1"}, kind="model")
    got = judge_agreement(pd.concat([people, models])).set_index(["question", "judge"])
    # people's majorities: one, one, two, two, undecided, undecided
    assert [got.loc[("best", j), "items"] for j in ("good", "bad")] == [5, 6]
    assert (
        got.loc[("best", "good"), "same"].mean == 1 and got.loc[("best", "good"), "alpha"].mean == 1
    )
    assert got.loc[("best", "bad"), "same"] == share_interval([0, 0, 0, 0, 1, 0], [1] * 6)
    both = coded({"judge": "2211u1", "people": "1122uu"})
    assert got.loc[("best", "bad"), "alpha"].mean == pytest.approx(slow_alpha(both))
    for part in (people, models, pd.concat([people, models.assign(item="elsewhere")])):
        with pytest.raises(CourseError, match="both labelled"):
            judge_agreement(part)


def test_a_newcomer_s_table(tmp_path: Path) -> None:
    rate(tmp_path, "Ann", [ONE, ONE, TWO, UNDECIDED, ONE, ONE])
    table = rating_table(read_labels(tmp_path, BUILT, KEY), SYSTEMS)
    assert list(table) == [
        "question",
        "raters",
        "one wins",
        "two wins",
        UNDECIDED,
        "sign test",
        "alpha",
        "items",
        "prompts",
        "labels",
        "unreadable",
    ]
    first, second = (row for _, row in table.iterrows())
    assert (
        first["question"],
        first["raters"],
        first["items"],
        first["prompts"],
        first["labels"],
    ) == (
        "diverse",
        "1 person",
        6,
        6,
        6,
    )
    assert first["one wins"] == share_interval([1, 1, 0, 0, 1, 1], [1] * 6)
    assert (
        str(first["sign test"]) == "4 : 1, 1 tied, p = 0.38 (ties split: 0.69)"
        and first["alpha"] == "not defined"
    )
    assert second["one wins"].mean == 1 and second["sign test"].p == pytest.approx(2 / 64)
    rate(tmp_path, "Ben", [ONE, ONE, TWO, ONE, ONE, TWO])
    both = rating_table(read_labels(tmp_path, BUILT, KEY), SYSTEMS)
    assert (
        (both["raters"] == "2 people").all()
        and (both["labels"] == 12).all()
        and (both["items"] == 6).all()
    )
    assert (
        both["alpha"][0].mean < 1 and both["alpha"][1] == "not defined"
    )  # all labels of the second question are the same
