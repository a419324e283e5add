"""The command `ratings`: from the files that raters sent back to the table, and what it says where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ddpo_utils.cli import main
from ddpo_utils.corpus.stories import data_dir
from ddpo_utils.human_eval.comparisons import UNDECIDED, read_comparisons, write_json
from ddpo_utils.human_eval.judge import ORDERS
from ddpo_utils.human_eval.labels import judge_agreement, rating_table
from ddpo_utils.human_eval.ratings import UNREADABLE, Ratings, own_files
from ddpo_utils.human_eval.ratings_command import read_study

SIZE = 12


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study as `compare` lays it out, of recorded samples, where `ratings` looks for it."""
    monkeypatch.chdir(tmp_path)
    recorded = data_dir() / "results" / "samples.jsonl"
    given = [
        f"{recorded}:ddpo-28",
        f"{recorded}:dpo-28",
        "--names",
        "ddpo",
        "dpo",
        "--prompts",
        str(SIZE),
    ]
    assert main(["compare", *given]) == 0
    return tmp_path / "build" / "compare"


def rate(study: Path, rater: str, system: str) -> Path:
    """A person who finds one system's sets the more diverse, and cannot decide which story is the best."""
    comparisons = read_comparisons(study / "for_raters" / "comparisons.json")
    key = json.loads((study / "key.json").read_text(encoding="utf-8"))["items"]
    ratings = Ratings(study / "ratings", comparisons, rater)
    for item in ratings.waiting:
        ratings.save(item, next(side for side in "AB" if key[item][side] == system), UNDECIDED)
    return ratings.path


def judge(study: Path, answer: str) -> None:
    """A model that says one thing in both orders."""
    comparisons = read_comparisons(study / "for_raters" / "comparisons.json")
    answers = [
        {
            "item": item["item"],
            "order": order,
            "diverse": answer,
            "best": answer,
            "comment": "",
            "seconds": None,
        }
        for item in comparisons.items
        for order in ORDERS
    ]
    content = {"comparisons": comparisons.id, "rater": "judge", "kind": "model", "answers": answers}
    write_json(study / "ratings" / "judge.json", content)


def test_the_table_of_two_people(study: Path, capsys) -> None:
    rate(study, "Ann", "ddpo")
    rate(study, "Ben", "ddpo")
    capsys.readouterr()
    assert main(["ratings"]) == 0
    said = capsys.readouterr().out
    lines = {line.split("  ")[0]: line for line in said.splitlines()}
    assert "diverse, 2 people" in said and "best, 2 people" in said and "model" not in said
    table = rating_table(*read_study(study))
    assert all(str(share) in lines["ddpo wins"] for share in table["ddpo wins"])
    assert (
        "1.000 [0.735, 1.000]" in lines["ddpo wins"] and "0.000 [0.000, 0.265]" in lines["dpo wins"]
    )
    assert (
        "diverse, 2 people: 12 : 0, 0 tied, p = 0.00049" in said
        and "best, 2 people: 0 : 0, 12 tied" in said
    )
    assert "0.500 [" in next(
        line for line in said.splitlines() if "all people" in line
    )  # sides are dealt evenly
    elsewhere = shutil.copytree(study, study.parent / "moved")
    assert main(["ratings", str(elsewhere)]) == 0 and capsys.readouterr().out == said


def test_people_and_models_stay_apart_and_are_compared(study: Path, capsys) -> None:
    rate(study, "Ann", "dpo")
    judge(study, UNDECIDED)
    capsys.readouterr()
    assert main(["ratings"]) == 0
    said = capsys.readouterr().out
    assert all(
        column in said
        for column in ("diverse, 1 person", "diverse, 1 model", "best, 1 person", "best, 1 model")
    )
    beside = judge_agreement(read_study(study)[0])
    assert [share.mean for share in beside["same"]] == [0, 1]
    last = said.split("labels as the majority of people does\n")[1].splitlines()
    assert [str(share) in line for share, line in zip(beside["same"], last[1:], strict=True)] == [
        True,
        True,
    ]
    assert "all models        0 " in said and "not defined" in said


def test_a_judge_that_cannot_be_read_is_counted_and_breaks_nothing(study: Path, capsys) -> None:
    judge(study, UNREADABLE)
    assert main(["ratings"]) == 0
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("unreadable")
    )
    assert line.split() == ["unreadable", str(SIZE), str(SIZE)]


def test_a_file_of_another_study_is_named_and_left_out(study: Path, capsys) -> None:
    rate(study, "Ann", "ddpo")
    path = rate(study, "Ben", "dpo")
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"comparisons": "abcdef012345"})
    capsys.readouterr()
    assert main(["ratings"]) == 0
    said = capsys.readouterr().out.splitlines()
    comparisons = read_comparisons(study / "for_raters" / "comparisons.json")
    assert (
        said[0].startswith("Left out: ")
        and "ben.json rates other comparisons (abcdef012345)" in said[0]
    )
    assert f"({comparisons.id}): read it with the key" in said[0] and not any(
        "Ben" in line for line in said
    )
    assert [path.name for path in own_files(study / "ratings", comparisons)] == ["ann.json"]


def test_where_there_are_no_ratings_one_sentence_says_so(study: Path, capsys) -> None:
    for content in (
        None,
        {"rater": "Ann", "kind": "person", "answers": []},
    ):  # a download before the first answer
        if content:
            comparisons = read_comparisons(study / "for_raters" / "comparisons.json")
            write_json(study / "ratings" / "ann.json", content | {"comparisons": comparisons.id})
        capsys.readouterr()
        assert main(["ratings"]) == 1
        said = capsys.readouterr().err.replace("\\", "/")
        assert (
            said
            == "error: No ratings in build/compare/ratings yet: put the files there that raters send back.\n"
        )
        assert read_study(study)[0].empty and read_study(study)[1] == ("ddpo", "dpo")


@pytest.mark.parametrize(
    ("lost", "says"), [("for_raters/comparisons.json", "name the folder"), ("key.json", "keys")]
)
def test_a_folder_of_something_else_is_refused(lost: str, says: str, study: Path, capsys) -> None:
    rate(study, "Ann", "ddpo")
    (study / lost).unlink()
    assert main(["ratings", "build/compare"]) == 1
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
