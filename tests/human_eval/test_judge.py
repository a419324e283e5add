"""A language model as a rater: both orders, places mapped back, unreadable answers kept apart from undecided ones."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from teller import KEY, completion

from ddpo_utils import CourseError
from ddpo_utils.cli import main
from ddpo_utils.human_eval.comparisons import (
    QUESTIONS,
    Comparisons,
    build_comparisons,
    read_comparisons,
    write_comparisons,
)
from ddpo_utils.human_eval.judge import consistency, judge, judge_request, read_answer
from ddpo_utils.human_eval.labels import read_labels
from ddpo_utils.human_eval.ratings import Ratings, read_ratings

pytest_plugins = "answer_fixtures"


def stories(name: str) -> pd.DataFrame:
    rows = [
        {"prompt_id": f"p{p}", "prompt": f"Prompt {p}.", "sample": k, "text": f"{name} {p} {k}"}
        for p in range(3)
        for k in range(4)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def built() -> tuple[Comparisons, dict[str, Any]]:
    return build_comparisons(stories("one"), stories("two"), ("one", "two"), seed=1)


def first(body: dict[str, Any], number: int) -> tuple[int, Any]:
    """A judge that takes what it reads first."""
    return 200, completion("diverse: P\nbest: P3")


def knows(body: dict[str, Any], number: int) -> tuple[int, Any]:
    """A judge that tells the systems apart: the set of "one" is the more diverse, and "two <p> 2" the best story."""
    text = body["messages"][0]["content"]
    (best,) = re.findall(r"^Story (.\d) \(set .\):\ntwo \d 2$", text, re.MULTILINE)
    return 200, completion(f"Diverse: {'PQ'['P' in best]}.\n**best:** {best}")


def test_a_request_holds_the_questions_and_the_stories_in_the_order_asked(built):
    item = built[0].items[0]
    for order in ("AB", "BA"):
        text = judge_request(item, order)
        places = [text.index(f"\n{story}\n") for side in order for story in item[side]]
        assert places == sorted(places) and text.index(item["prompt"]) < places[0]
        assert text.index(f"Story P1 (set P):\n{item[order[0]][0]}\n") < text.index(
            "Story Q1 (set Q):"
        )
        assert (
            all(question in text for question in QUESTIONS.values())
            and text.count("undecided") == 3
        )
        assert "summaries" not in text and "summaries" in judge_request(item, order, "summaries")
        assert not re.search(
            r"\b[AB]\d?\b", text.replace("A story", "")
        )  # the file's letters are not shown


def test_places_are_mapped_back_to_the_file_s_sides(built, teller, endpoint, tmp_path):
    comparisons, key = built
    teller.answer = knows
    ratings = judge(comparisons, tmp_path / "m.json", endpoint(), progress=False)
    assert len(teller.requests) == 6 == len(ratings["answers"])
    assert [(a["item"], a["order"]) for a in ratings["answers"]] == [
        (item["item"], order) for item in comparisons.items for order in ("AB", "BA")
    ]
    for answer in ratings["answers"]:
        (item,) = (item for item in comparisons.items if item["item"] == answer["item"])
        assert key["items"][answer["item"]][answer["diverse"]] == "one"
        side, number = answer["best"]
        assert re.fullmatch(r"two \d 2", item[side][int(number) - 1])
    assert (ratings["rater"], ratings["kind"]) == ("m", "model")
    assert read_ratings(tmp_path / "m.json", comparisons) == ratings
    table = consistency(ratings)
    assert (
        (table["agree"] == 1).all()
        and (table["first"] == 0.5).all()
        and (table["decided"] == 6).all()
    )
    labels = read_labels([tmp_path / "m.json"], comparisons, key)
    assert (
        (labels["diverse"] == "one").all()
        and (labels["best"] == "two").all()
        and (labels["kind"] == "model").all()
    )


def test_a_judge_that_takes_the_first_set_is_found_out(built, teller, endpoint, tmp_path):
    comparisons, key = built
    teller.answer = first
    ratings = judge(comparisons, tmp_path / "m.json", endpoint(), "The Judge", progress=False)
    assert {(a["order"], a["diverse"], a["best"]) for a in ratings["answers"]} == {
        ("AB", "A", "A3"),
        ("BA", "B", "B3"),
    }
    table = consistency(ratings)
    assert (
        (table["agree"] == 0).all()
        and (table["first"] == 1).all()
        and ratings["rater"] == "The Judge"
    )
    labels = read_labels([tmp_path / "m.json"], comparisons, key)
    assert (labels[["diverse", "best"]] == "undecided").all(axis=None)


@pytest.mark.parametrize(
    "said, finished, diverse, best",
    [
        ("diverse: P\nbest: Q4", True, "B", "A4"),
        ("best: p1\n\nDIVERSE: undecided", True, "undecided", "B1"),
        ("- **diverse:** `Q`\n- **best**: *P2*.", True, "A", "B2"),
        ("I think so.\ndiverse: Q\nbest: Q1\nbest: Q1", True, "A", "A1"),
        ("diverse: P\nbest: P1 or P2", True, "B", "unreadable"),
        ("diverse: A\nbest: A1", True, "unreadable", "unreadable"),  # whose letters?
        ("diverse: P\ndiverse: Q\nbest: P5", True, "unreadable", "unreadable"),
        ("diverse: P1\nbest: P", True, "unreadable", "unreadable"),
        ("The more diverse: P\nbest:", True, "unreadable", "unreadable"),
        ("diverse: hard to decide\nbest: both", True, "unreadable", "unreadable"),
        ("diverse: P\nbest: P1", False, "B", "unreadable"),  # P12? P1 or Q1?
        ("diverse: P\nbest: P1\nSince", False, "B", "B1"),
        ("P", True, "unreadable", "unreadable"),
        ("", True, "unreadable", "unreadable"),
        ("", False, "unreadable", "unreadable"),
    ],
)
def test_answers_are_read_strictly(built, said, finished, diverse, best):
    assert read_answer(said, finished, "BA", built[0]) == {"diverse": diverse, "best": best}


def test_unreadable_answers_are_counted_and_stored_as_such(
    built, teller, endpoint, tmp_path, capsys
):
    said = [
        "diverse: P\nbest: P1",
        "Both are lovely.",
        "diverse: undecided\nbest: undecided",
        "diverse: P\nbest: ?",
    ]
    teller.answer = lambda body, number: (200, completion(said[min(number, 3)]))
    ratings = judge(built[0], tmp_path / "m.json", endpoint(concurrency=1), progress=False)
    assert [a["diverse"] for a in ratings["answers"]] == [
        "A",
        "unreadable",
        "undecided",
        "B",
        "A",
        "B",
    ]
    assert [a["best"] for a in ratings["answers"]] == [
        "A1",
        "unreadable",
        "undecided",
        *["unreadable"] * 3,
    ]
    assert "6 answers to 3 comparisons; 4 could not be read" in capsys.readouterr().out
    assert [json.loads(line)["text"] for line in (tmp_path / "m.jsonl").open(encoding="utf-8")][
        1
    ] == said[1]
    table = consistency(ratings)
    assert table["unreadable"].tolist() == [1, 4, 4] and table["decided"].tolist() == [4, 1, 1]


def test_a_stopped_judge_goes_on_and_writes_its_ratings_when_done(
    built, teller, endpoint, tmp_path
):
    teller.answer = lambda body, number: (
        knows(body, number) if number < 4 else (404, {"error": {"message": "gone"}})
    )
    path = tmp_path / "m.json"
    with pytest.raises(CourseError, match="is stored"):
        judge(built[0], path, endpoint(concurrency=1), progress=False)
    assert not path.exists() and len(teller.requests) == 5
    teller.answer = knows
    ratings = judge(built[0], path, endpoint(), progress=False)
    assert len(teller.requests) == 5 + 2 and len(ratings["answers"]) == 6
    assert (
        judge(built[0], path, endpoint(), progress=False) == ratings and len(teller.requests) == 7
    )


def test_files_of_others_are_left_alone(built, teller, endpoint, tmp_path):
    Ratings(tmp_path, built[0], "ada").save("c01", "A", "A1")
    before = (tmp_path / "ada.json").read_bytes()
    with pytest.raises(CourseError, match=r"answers of ada \(person\)"):
        judge(built[0], tmp_path / "ada.json", endpoint(), "ada")
    judge(built[0], tmp_path / "m.json", endpoint(), progress=False)
    with pytest.raises(CourseError, match=r"answers of m \(model\)"):
        judge(built[0], tmp_path / "m.json", endpoint(model="n"))
    other = build_comparisons(stories("one"), stories("two"), ("one", "two"), seed=2)[0]
    with pytest.raises(CourseError, match="other comparisons"):
        judge(other, tmp_path / "m.json", endpoint())
    with pytest.raises(CourseError, match=r"ends in \.json"):
        judge(built[0], tmp_path / "m.jsonl", endpoint())
    assert len(teller.requests) == 6 and (tmp_path / "ada.json").read_bytes() == before


def test_consistency_by_hand():
    said = [
        ("A", "B1"),
        ("A", "B2"),
        ("B", "A1"),
        ("undecided", "A1"),
        ("undecided", "unreadable"),
        ("undecided", "unreadable"),
        ("A", "A4"),
        ("A", "undecided"),
    ]
    answers = [
        {"item": f"c0{n // 2}", "order": ("AB", "BA")[n % 2], "diverse": diverse, "best": best}
        for n, (diverse, best) in enumerate(said)
    ]
    table = consistency(
        {"answers": [*answers, {"item": "c09", "order": "AB", "diverse": "A", "best": "A1"}]}
    )
    assert table.index.tolist() == ["diverse", "best", "best story"] and (table["items"] == 4).all()
    assert table["agree"].tolist() == [
        0.75,
        0.5,
        0.25,
    ]  # best: a set twice, a story once, and unreadable never
    assert table["decided"].tolist() == [5, 5, 5] and table["first"].tolist() == [
        2 / 5,
        3 / 5,
        3 / 5,
    ]
    assert table["unreadable"].tolist() == [0, 2, 2]
    tied = [
        {"item": "c01", "order": order, "diverse": "undecided", "best": "undecided"}
        for order in ("AB", "BA")
    ]
    assert math.isnan(consistency({"answers": tied})["first"]["diverse"])
    with pytest.raises(CourseError, match="both orders"):
        consistency({"answers": [{"item": "c01", "diverse": "A", "best": "A1"}]})


def test_a_local_model_is_a_judge_like_any_other(built, local, tmp_path, capsys):
    ratings = judge(built[0], tmp_path / "r.json", local, max_tokens=5, progress=False)
    assert read_ratings(tmp_path / "r.json", built[0]) == ratings and ratings["rater"] == "random"
    assert (
        "6 answers to 3 comparisons; 6 could not be read" in capsys.readouterr().out
    )  # it babbles
    stored = [json.loads(line) for line in (tmp_path / "r.jsonl").open(encoding="utf-8")]
    asked = {judge_request(item, order) for item in built[0].items for order in ("AB", "BA")}
    assert {record["prompt"] for record in stored} == asked and all(
        record["text"] for record in stored
    )


@pytest.fixture
def arguments(built, teller, tmp_path: Path) -> list[str]:
    path = write_comparisons(tmp_path, *built)
    teller.answer = knows
    return ["judge", "--comparisons", str(path), "--model", "a/b:c", "--base-url", teller.url]


def test_the_command_judges_and_says_how_consistently(
    teller, arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    flags = [
        "--yes",
        "--key-variable",
        "MY_KEY",
        "--prices",
        "1",
        "2",
        "--temperature",
        "none",
        "--max-tokens",
        "9",
    ]
    assert main([*arguments, *flags]) == 0
    said = capsys.readouterr()
    assert "6 calls to make; estimate" in said.out and "6 calls used 60 prompt tokens" in said.out
    assert (
        "best story: both orders agree on 100% of 3 comparisons; 50% of the 6 answers" in said.out
    )
    body = teller.requests[0]
    assert "temperature" not in body and (body["max_tokens"], body["authorization"]) == (
        9,
        f"Bearer {KEY}",
    )
    assert KEY not in said.out + said.err
    comparisons = read_comparisons(tmp_path / "for_raters" / "comparisons.json")
    ratings = read_ratings(tmp_path / "ratings" / "a-b-c.json", comparisons)
    assert ratings["rater"] == "a/b:c" and len(ratings["answers"]) == 6
    teller.answer = lambda body, number: (200, completion("?"))
    assert main([*arguments, "--yes", "--output", str(tmp_path / "x" / "y.json")]) == 0
    assert (
        "no answer names a set" in capsys.readouterr().out and (tmp_path / "x" / "y.json").exists()
    )


def test_nothing_is_sent_unless_someone_agrees(teller, arguments, capsys):
    before = sorted(Path(arguments[2]).parent.parent.rglob("*.*"))
    assert main(arguments) == 1 and "--yes" in capsys.readouterr().err and not teller.requests
    assert (
        main([*arguments, "--yes", "--key-variable", "NOT_SET"]) == 1
        and "no usable key" in capsys.readouterr().err
    )
    assert (
        sorted(Path(arguments[2]).parent.parent.rglob("*.*")) == before
    )  # among people's ratings above all
    key = Path(arguments[2]).parent.parent / "key.json"
    assert main(["judge", "--comparisons", str(key), *arguments[3:], "--yes"]) == 1
    assert "key.json is the key: give for_raters/comparisons.json" in capsys.readouterr().err
    arguments[2] = "nowhere.json"
    assert main([*arguments, "--yes"]) == 1 and "no comparisons at" in capsys.readouterr().err
