"""The notebook's instrument for raters, driven as a rater drives it: by its buttons and choices."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ipywidgets import Widget

from ddpo_utils.human_eval.comparisons import (
    Comparisons,
    build_comparisons,
    read_comparisons,
    write_comparisons,
)
from ddpo_utils.human_eval.ratings import Ratings, read_ratings
from ddpo_utils.human_eval.widget import RatingWidget, rate

HOSTILE = (
    'He said: <img src=x onerror="alert(1)"> & </p><script>alert(2)</script>\n\nThen "nothing".'
)


def stories(name: str, prompts: int = 5) -> pd.DataFrame:
    rows = [
        (f"p{p}", f"Prompt {p} <b>bold</b>", k, f"{k}.{p} {HOSTILE}")
        for p in range(prompts)
        for k in range(4)
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "prompt", "sample", "text"])


@pytest.fixture
def comparisons(tmp_path: Path) -> Comparisons:
    built = build_comparisons(stories("one"), stories("two"), ("wombat", "ocelot"), seed=1)
    return read_comparisons(write_comparisons(tmp_path, *built))


def answer(widget: RatingWidget, diverse: str | None, best: str | None, comment: str = "") -> None:
    widget.questions["diverse"].value, widget.questions["best"].value = diverse, best
    widget.comment.value = comment
    widget.next.click()


def shown(widget: Widget) -> str:
    """Every text on the screen."""
    own = [widget.value] if isinstance(getattr(widget, "value", None), str) else []
    return " ".join(own + [shown(child) for child in getattr(widget, "children", ())])


def parts(widget: Widget) -> Iterator[Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def stored(folder: Path, rater: str = "anna") -> list[dict[str, Any]]:
    return json.loads((folder / f"{rater}.json").read_text())["answers"]


def test_a_whole_task_with_a_restart_in_the_middle(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    widget = rate(comparisons, tmp_path, "Anna")
    given = [
        ("A", "A1", ""),
        ("B", "B4", "one <i>"),
        ("undecided", "undecided", ""),
        ("A", "B2", ""),
        ("B", "A3", ""),
    ]
    for done, (item, (diverse, best, comment)) in enumerate(
        zip(comparisons.items, given, strict=True)
    ):
        if done == 3:
            widget = rate(comparisons, tmp_path, "anna ")
        assert (
            widget.item == item
            and f"Comparison {done + 1} of 5" in shown(widget)
            and widget.progress.value == done
        )
        assert [choice.value for choice in widget.questions.values()] == [
            None,
            None,
        ] and not widget.comment.value
        answer(widget, diverse, best, comment)
        assert len(stored(tmp_path)) == done + 1  # on the disk before the next is looked at
    assert widget.item is None and widget.progress.value == 5
    assert "All 5 comparisons are rated" in shown(widget) and str(tmp_path / "anna.json") in shown(
        widget
    )
    assert widget.next not in parts(widget) and widget.undo in parts(widget)
    answers = read_ratings(tmp_path / "anna.json", comparisons)["answers"]
    assert [(a["diverse"], a["best"], a["comment"]) for a in answers] == given
    assert [a["item"] for a in answers] == [item["item"] for item in comparisons.items]
    assert rate(comparisons, tmp_path, "anna").item is None


@pytest.mark.parametrize(
    ("diverse", "best", "says"),
    [(None, None, "both questions"), (None, "A1", "question 1"), ("undecided", None, "question 2")],
)
def test_what_is_missing_is_said_and_nothing_is_saved(
    comparisons: Comparisons, tmp_path: Path, diverse: str | None, best: str | None, says: str
) -> None:
    widget = rate(comparisons, tmp_path, "anna")
    answer(widget, diverse, best)
    assert (
        f"Please answer {says};" in widget.message.value and not (tmp_path / "anna.json").exists()
    )
    assert widget.item == comparisons.items[0] and widget.questions["best"].value == best
    widget.questions["diverse"].value = "B"
    assert "Please" not in widget.message.value


def test_undo_shows_the_last_answer_again_and_keeps_what_was_begun(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    widget = rate(comparisons, tmp_path, "anna")
    assert widget.undo.disabled
    answer(widget, "A", "A1", "first")
    answer(widget, "B", "B1", "second")
    widget.questions["diverse"].value = "undecided"  # begun, then left
    widget.undo.click()
    assert widget.item == comparisons.items[1] and [a["comment"] for a in stored(tmp_path)] == [
        "first"
    ]
    assert [choice.value for choice in widget.questions.values()] == [
        "B",
        "B1",
    ] and widget.comment.value == "second"
    widget.undo.click()
    assert widget.item == comparisons.items[0] and stored(tmp_path) == [] and widget.undo.disabled
    answer(widget, "A", "B3", "first again")
    assert (
        widget.questions["best"].value == "B1" and widget.comment.value == "second"
    )  # as it stood before
    widget.next.click()
    assert widget.item == comparisons.items[2]
    assert [choice.value for choice in widget.questions.values()] == ["undecided", None]
    assert [(a["item"], a["best"], a["comment"]) for a in stored(tmp_path)] == [
        ("c01", "B3", "first again"),
        ("c02", "B1", "second"),
    ]


def test_undo_after_the_last_and_after_a_restart(comparisons: Comparisons, tmp_path: Path) -> None:
    widget = rate(comparisons, tmp_path, "anna")
    for _ in comparisons.items:
        answer(widget, "A", "A1")
    widget.undo.click()
    assert widget.item == comparisons.items[-1] and len(stored(tmp_path)) == 4
    answer(widget, "B", "undecided")
    again = rate(comparisons, tmp_path, "anna")
    assert again.item is None and "are rated" in shown(again)
    again.undo.click()
    assert again.item == comparisons.items[-1] and again.questions["best"].value == "undecided"
    again.next.click()
    assert again.item is None and [a["best"] for a in stored(tmp_path)] == ["A1"] * 4 + [
        "undecided"
    ]


def test_seconds_are_those_on_the_item_and_undo_adds_to_them(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    widget = rate(comparisons, tmp_path, "anna")
    time.sleep(0.5)
    answer(widget, "A", "A1")
    first = stored(tmp_path)[0]["seconds"]
    assert first >= 0.4
    widget.undo.click()
    time.sleep(0.5)
    widget.next.click()
    assert stored(tmp_path)[0]["seconds"] >= first + 0.4
    answer(widget, "A", "A1")
    assert stored(tmp_path)[1]["seconds"] < stored(tmp_path)[0]["seconds"]


def test_texts_are_shown_as_they_are_and_nothing_tells_the_system(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    widget = rate(comparisons, tmp_path, "<u>Eve</u>")
    html = shown(widget)
    assert (
        html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp; &lt;/p&gt;&lt;script&gt;")
        == 8
    )
    assert "<img" not in html and "<script" not in html and "<b>" not in html and "<u>" not in html
    assert [html.index(f"<h4>{side}{n}</h4>") for side in "AB" for n in range(1, 5)] == sorted(
        html.index(f"<h4>{side}{n}</h4>") for side in "AB" for n in range(1, 5)
    )
    sent = json.dumps(
        [part.get_state() for part in parts(widget)], default=repr
    )  # all that reaches the browser
    assert "Prompt" in sent and "wombat" not in sent and "ocelot" not in sent


def test_without_a_name_it_asks_for_one(comparisons: Comparisons, tmp_path: Path) -> None:
    widget = rate(comparisons, tmp_path)
    assert widget.item is None and widget.name in parts(widget) and widget.next not in parts(widget)
    widget.start.click()
    assert "needs a name" in widget.message.value and widget.item is None
    widget.name.value = "Anna"
    assert widget.item == comparisons.items[0] and widget.next in parts(widget)
    answer(widget, "A", "A1")
    assert read_ratings(tmp_path / "anna.json", comparisons)["rater"] == "Anna"


def test_a_file_of_other_comparisons_is_said_and_another_name_goes_on(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    other, _ = build_comparisons(stories("one", 2), stories("two", 2), ("wombat", "ocelot"))
    Ratings(tmp_path, other, "anna").save("c01", "A", "A1")
    before = (tmp_path / "anna.json").read_bytes()
    widget = rate(comparisons, tmp_path, "anna")
    assert "than these" in widget.message.value and "read it with the key" in widget.message.value
    assert widget.name in parts(widget)
    widget.name.value = "berta"
    answer(widget, "A", "A1")
    assert len(stored(tmp_path, "berta")) == 1 and (tmp_path / "anna.json").read_bytes() == before


def test_what_cannot_be_saved_is_said_and_the_answer_stays(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    (tmp_path / "ratings").write_text("a file where the folder should be")
    widget = rate(comparisons, tmp_path / "ratings" / "all", "anna")
    answer(widget, "A", "A1")
    assert "cannot be used (" in widget.message.value and widget.item == comparisons.items[0]
    (tmp_path / "ratings").unlink()
    widget.next.click()
    assert widget.item == comparisons.items[1] and len(stored(tmp_path / "ratings" / "all")) == 1


def test_summaries_are_called_so_and_the_plain_text_repeats(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    assert "summary" not in shown(rate(comparisons, tmp_path, "anna"))
    short = Comparisons(comparisons.id, "summaries", comparisons.items)
    assert "Each text is a summary of a longer story." in shown(rate(short, tmp_path, "anna"))
    texts = {
        rate(comparisons, tmp_path, name)._repr_mimebundle_()["text/plain"]
        for name in ("anna", "", "berta")
    }
    assert len(texts) == 1 and "5 comparisons" in texts.pop()
