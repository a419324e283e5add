"""Blind comparisons and the file of a rater's answers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ddpo_utils.human_eval.comparisons import (
    build_comparisons,
    read_comparisons,
    read_key,
    write_comparisons,
)
from ddpo_utils.human_eval.ratings import Ratings, read_ratings
from ddpo_utils.settings import CourseError


def stories(name: str, prompts: int = 7, each: int = 5) -> pd.DataFrame:
    rows = [
        {"prompt_id": f"p{p}", "prompt": f"Prompt {p}.", "sample": k, "text": f"{name} {p} {k}"}
        for p in range(prompts)
        for k in range(each)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def built() -> tuple:
    return build_comparisons(stories("one"), stories("two"), ("one", "two"), seed=3)


def test_key_names_every_story_and_the_comparisons_name_no_system(built: tuple) -> None:
    comparisons, key = built
    assert (
        [item["item"] for item in comparisons.items]
        == list(key["items"])
        == [f"c0{n}" for n in range(1, 8)]
    )
    assert {entry["prompt_id"] for entry in key["items"].values()} == {f"p{p}" for p in range(7)}
    for item in comparisons.items:
        entry = key["items"][item["item"]]
        assert {entry["A"], entry["B"]} == {"one", "two"}
        for side in "AB":  # the texts of this test tell their own origin
            expected = [
                f"{entry[side]} {entry['prompt_id'][1:]} {k}" for k in entry["samples"][side]
            ]
            assert item[side] == expected and len(set(expected)) == 4
        assert set(item) == {"item", "prompt", "A", "B"}


def test_sides_are_dealt_evenly_at_random_and_the_seed_repeats_them(built: tuple) -> None:
    a, b = stories("one", 40), stories("two", 40)
    dealt = [
        tuple(
            entry["A"] == "one"
            for entry in build_comparisons(a, b, ("one", "two"), seed=s)[1]["items"].values()
        )
        for s in range(6)
    ]
    assert all(sum(sides) == 20 for sides in dealt) and len(set(dealt)) == 6
    assert build_comparisons(stories("one"), stories("two"), ("one", "two"), seed=3) == built
    assert sum(entry["A"] == "one" for entry in built[1]["items"].values()) in (3, 4)


def test_fewer_prompts_and_summaries(built: tuple) -> None:
    few, key = build_comparisons(
        stories("one"), stories("two").assign(summarised=True), ("x", "y"), 2, prompts=3
    )
    assert (
        len(few.items) == len(key["items"]) == 3 and few.per_side == 2 and few.shown == "summaries"
    )
    assert (
        few.allowed("best") == ["A1", "A2", "B1", "B2", "undecided"] and built[0].shown == "whole"
    )


@pytest.mark.parametrize(
    ("a", "b", "systems", "says"),
    [
        (stories("one"), stories("two"), ("x", "x"), "two names"),
        (stories("one"), stories("two").assign(prompt_id="q"), ("x", "y"), "no prompt in common"),
        (stories("one"), stories("two").assign(prompt="Other."), ("x", "y"), "two texts"),
        (stories("one"), stories("two", each=3), ("x", "y"), "fewer than 4"),
        (stories("one"), stories("two").drop(columns="prompt"), ("x", "y"), "lack prompt:"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    a: pd.DataFrame, b: pd.DataFrame, systems: tuple, says: str
) -> None:
    with pytest.raises(CourseError, match=says):
        build_comparisons(a, b, systems)


def test_files_keep_the_key_apart_and_refuse_what_was_changed(built: tuple, tmp_path: Path) -> None:
    comparisons, key = built
    path = write_comparisons(tmp_path, comparisons, key)
    assert sorted(p.name for p in path.parent.iterdir()) == ["comparisons.json"]
    assert (
        read_comparisons(path) == comparisons
        and read_key(tmp_path / "key.json", comparisons) == key
    )
    assert "one" not in json.dumps(
        {k: v for k, v in json.loads(path.read_text()).items() if k != "items"}
    )
    other, other_key = build_comparisons(stories("one"), stories("two"), ("one", "two"), seed=4)
    with pytest.raises(CourseError, match="other comparisons"):
        write_comparisons(tmp_path, other, other_key)
    with pytest.raises(CourseError, match="other comparisons"):
        read_key(tmp_path / "key.json", other)
    path.write_text(path.read_text().replace("one 3", "won 3", 1))
    with pytest.raises(CourseError, match="as they were built"):
        read_comparisons(path)


NO_LIST = '{"comparisons": "x", "rater": "a", "kind": "person", "answers": %s}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"id": 3}',
        '{"id": "x", "shown": "whole", "items": []}',
        NO_LIST % "3",
        NO_LIST % "[3]",
    ],
)
def test_other_files_are_no_comparisons(content: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(CourseError, match="no comparisons at"):
        read_comparisons(path)
    path.write_text(content)
    with pytest.raises(CourseError):
        read_comparisons(path)
    with pytest.raises(CourseError):
        read_key(path)
    with pytest.raises(CourseError):
        read_ratings(path)


def test_answers_are_on_the_disk_at_once_and_a_restart_goes_on(
    built: tuple, tmp_path: Path
) -> None:
    comparisons, _ = built
    ratings = Ratings(tmp_path, comparisons, "Ada L.")
    assert (
        ratings.path.name == "ada-l.json"
        and not ratings.path.exists()
        and len(ratings.waiting) == 7
    )
    ratings.save("c01", "A", "B4", "why not", 12.5)
    ratings.save("c02", "undecided", "undecided")
    ratings.save("c01", "B", "A1")  # thought better of it
    again = Ratings(tmp_path, comparisons, "Ada L.")
    assert again.waiting == [f"c0{n}" for n in range(3, 8)]
    assert [(a["item"], a["diverse"], a["best"]) for a in again.answers] == [
        ("c02", "undecided", "undecided"),
        ("c01", "B", "A1"),
    ]
    assert again.undo()["item"] == "c01" and again.waiting[0] == "c01"
    assert [a["item"] for a in read_ratings(ratings.path, comparisons)["answers"]] == ["c02"]
    assert again.undo()["item"] == "c02" and again.undo() is None


def test_two_tabs_lose_no_answer(built: tuple, tmp_path: Path) -> None:
    one, two = (Ratings(tmp_path, built[0], "ada") for _ in range(2))
    one.save("c01", "A", "A1")
    two.save("c02", "B", "B1")
    assert Ratings(tmp_path, built[0], "ada").waiting == [f"c0{n}" for n in range(3, 8)]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (("c09", "A", "A1"), "no comparison"),
        (("c01", "C", "A1"), "'diverse'"),
        (("c01", "A", "A5"), "'best'"),
        (("c01", "A1", "A1"), "'diverse'"),
    ],
)
def test_wrong_answers_are_refused_and_nothing_is_written(
    answer: tuple, says: str, built: tuple, tmp_path: Path
) -> None:
    ratings = Ratings(tmp_path, built[0], "ada")
    with pytest.raises(CourseError, match=says):
        ratings.save(*answer)
    assert not ratings.path.exists()


def test_files_of_others_are_refused(built: tuple, tmp_path: Path) -> None:
    Ratings(tmp_path, built[0], "ada").save("c01", "A", "A1")
    with pytest.raises(CourseError, match="answers of a person"):
        Ratings(tmp_path, built[0], "ada", "model")
    with pytest.raises(CourseError, match="name"):
        Ratings(tmp_path, built[0], " . ")
    other = build_comparisons(stories("one"), stories("two"), ("one", "two"), seed=4)[0]
    with pytest.raises(
        CourseError, match=f"{built[0].id}.* than these .{other.id}.: read it with the key"
    ):
        Ratings(tmp_path, other, "ada")
    content = json.loads((tmp_path / "ada.json").read_text())
    content["answers"] *= 2
    (tmp_path / "ada.json").write_text(json.dumps(content))
    with pytest.raises(CourseError, match="twice"):
        read_ratings(tmp_path / "ada.json")
