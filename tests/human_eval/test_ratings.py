"""One rater's file, and the labels that files and key give."""

from __future__ import annotations

from pathlib import Path

from study import BUILT, ITEMS, KEY, ONE, TWO, build, rate, side, write_model

from ddpo_utils.human_eval.comparisons import UNDECIDED, write_comparisons
from ddpo_utils.human_eval.ratings import UNREADABLE, Ratings, read_labels, read_study


def test_answers_are_on_the_disk_at_once_and_a_restart_goes_on(tmp_path: Path) -> None:
    ratings, tab = (Ratings(tmp_path, BUILT, "Ada L.") for _ in range(2))
    assert ratings.path == tmp_path / "ada-l.json"
    assert not ratings.path.exists()
    assert ratings.waiting == ITEMS
    ratings.save("c01", "A", "B4", "why not", 12.5)
    tab.save("c02", "undecided", "undecided")  # another tab loses nothing
    ratings.save("c01", "B", "A1")  # a second thought
    download = ratings.path.rename(tmp_path / f"ada-l-{BUILT.id[:6]}.json")  # as from the page
    again = Ratings(tmp_path, BUILT, "Ada L.")
    assert (again.path, again.waiting) == (download, ITEMS[2:])
    answers = [(a["item"], a["diverse"], a["best"]) for a in again.answers]
    assert answers == [("c02", UNDECIDED, UNDECIDED), ("c01", "B", "A1")]
    assert again.undo()["item"] == "c01"
    assert Ratings(tmp_path, BUILT, "Ada L.").waiting == [ITEMS[0], *ITEMS[2:]]
    assert again.undo()["item"] == "c02"
    assert again.undo() is None
    assert Ratings(tmp_path, BUILT, "नेहा").path.stem == "नेहा"  # vowel signs are kept


def test_two_orders_make_one_label(tmp_path: Path) -> None:
    a, b, c, d, e = ITEMS[:5]
    answers = [
        (a, "A", "A1", "AB"),
        (a, "A", "A4", "BA"),  # the same set in both orders
        (b, "A", "B1", "AB"),
        (b, "B", "A1", "BA"),  # the place shown first, then the place shown second
        (c, "B", UNDECIDED, "BA"),
        (c, UNDECIDED, UNDECIDED, "AB"),
        (d, UNREADABLE, "B2", "AB"),
        (d, UNDECIDED, "B2", "BA"),
        (e, "B", UNREADABLE, "AB"),
        (e, "B", "B1", "BA"),
    ]
    labels = read_labels(write_model(tmp_path / "judge.json", answers), BUILT, KEY)
    assert labels["item"].tolist() == ITEMS[:5]
    key = KEY["items"]
    both_undecided = [key[a]["A"], UNDECIDED, UNDECIDED]
    assert labels["diverse"].fillna("-").tolist() == [*both_undecided, "-", key[e]["B"]]
    assert labels["best"].fillna("-").tolist() == [*both_undecided, key[d]["B"], "-"]
    assert labels["diverse_at"].tolist() == ["AB", "AA", "A", "", "BA"]
    assert labels["best_at"].tolist() == ["AB", "BB", "", "BA", "A"]


def test_a_study_s_labels_name_systems_places_and_foreign_files(tmp_path: Path, capsys) -> None:
    write_comparisons(tmp_path, BUILT, KEY)
    labels, systems = read_study(tmp_path)
    assert labels.empty and systems == (ONE, TWO)
    named = [ONE, TWO, UNDECIDED, ONE, ONE, TWO]
    rate(tmp_path / "ratings", "Ann", named)
    write_model(tmp_path / "ratings" / "judge.json", [("c01", "A", "A1")])
    write_model(tmp_path / "ratings" / "other\x1b[2J.json", [], build(seed=2)[0])
    write_model(tmp_path / "ratings" / "none-yet.json", [])
    labels, _ = read_study(tmp_path)
    assert labels["rater"].tolist() == ["Ann"] * 6 + ["judge"]
    assert labels["kind"].tolist() == ["person"] * 6 + ["model"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "other[2J.json" in line
    ann = labels[:6].set_index("item")
    assert ann["diverse"].to_dict() == dict(zip(ITEMS, named, strict=True))
    assert (ann["best"] == ONE).all()
    for item, row in ann.iterrows():
        assert row["prompt_id"] == KEY["items"][item]["prompt_id"]
        assert row["best_at"] == side(item, ONE)
        assert row["diverse_at"] == side(item, row["diverse"]).replace(UNDECIDED, "")
