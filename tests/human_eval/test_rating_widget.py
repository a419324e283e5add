"""The notebook's widget for raters, driven as a rater drives it: by its buttons and choices."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipywidgets import Widget
from study import stories

from ddpo_utils.human_eval.comparisons import Comparisons, build_comparisons
from ddpo_utils.human_eval.ratings import read_ratings
from ddpo_utils.human_eval.widget import RatingWidget, rate

HOSTILE = ' <img src=x onerror="alert(1)"> & </p><script>alert(2)</script>\n\nThen "nothing".'
COMPARISONS = build_comparisons(
    stories("one", 5, text=HOSTILE), stories("two", 5, text=HOSTILE), ("wombat", "ocelot"), seed=1
)[0]


def answer(widget: RatingWidget, diverse: str | None, best: str | None, comment: str = "") -> None:
    widget.questions["diverse"].value, widget.questions["best"].value = diverse, best
    widget.comment.value = comment
    widget.next.click()


def on_screen(widget: RatingWidget) -> tuple[Any, ...]:
    return *(choice.value for choice in widget.questions.values()), widget.comment.value


def parts(widget: Widget) -> Iterator[Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def shown(widget: Widget) -> str:
    """Every text on the screen."""
    values = (getattr(part, "value", None) for part in parts(widget))
    return " ".join(value for value in values if isinstance(value, str))


def stored(folder: Path) -> list[dict[str, Any]]:
    return read_ratings(folder / "anna.json", COMPARISONS)["answers"]


def test_a_whole_task_with_a_restart_in_the_middle(tmp_path: Path) -> None:
    widget = rate(COMPARISONS, tmp_path, "Anna")
    given = [("A", "A1", ""), ("B", "B4", "one <i>"), ("undecided", "undecided", "")]
    given += [("A", "B2", ""), ("B", "A3", "")]
    for number, item in enumerate(COMPARISONS.items):
        if number == 3:
            widget = rate(COMPARISONS, tmp_path, "anna ")
        assert (widget.item, widget.progress.value) == (item, number)
        assert on_screen(widget) == (None, None, "")
        answer(widget, *given[number])
        assert len(stored(tmp_path)) == number + 1  # on the disk before the next is shown
    assert widget.item is None
    assert str(tmp_path / "anna.json") in shown(widget)
    answers = stored(tmp_path)
    assert [(a["diverse"], a["best"], a["comment"]) for a in answers] == given
    assert [a["item"] for a in answers] == [item["item"] for item in COMPARISONS.items]
    again = rate(COMPARISONS, tmp_path, "anna")
    assert again.item is None
    again.undo.click()
    assert again.item == COMPARISONS.items[-1]
    assert on_screen(again) == given[-1]


def test_undo_shows_the_last_answer_and_keeps_what_was_begun(tmp_path: Path) -> None:
    widget = rate(COMPARISONS, tmp_path, "anna")
    assert widget.undo.disabled
    time.sleep(0.3)
    answer(widget, "A", "A1", "first")
    answer(widget, "B", "B1", "second")
    widget.questions["diverse"].value = "undecided"  # begun, then left
    widget.undo.click()
    assert widget.item == COMPARISONS.items[1]
    assert on_screen(widget) == ("B", "B1", "second")
    assert [a["comment"] for a in stored(tmp_path)] == ["first"]
    widget.undo.click()
    assert widget.item == COMPARISONS.items[0]
    assert stored(tmp_path) == [] and widget.undo.disabled
    time.sleep(0.3)
    answer(widget, "A", "B3", "first again")
    assert on_screen(widget) == ("B", "B1", "second")  # as before
    widget.next.click()
    assert on_screen(widget) == ("undecided", None, "")
    assert [a["comment"] for a in stored(tmp_path)] == ["first again", "second"]
    assert stored(tmp_path)[0]["seconds"] >= 0.5  # both times on the screen


def test_texts_are_shown_as_they_are_and_nothing_tells_the_system(tmp_path: Path) -> None:
    widget = rate(COMPARISONS, tmp_path, "<u>Eve</u>")
    html = shown(widget)
    escaped = "&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp; &lt;/p&gt;&lt;script&gt;"
    assert html.count(escaped) == 8
    assert not any(tag in html for tag in ("<img", "<script", "<u>"))
    places = [html.index(f"<h4>{side}{n}</h4>") for side in "AB" for n in range(1, 5)]
    assert places == sorted(places)
    sent = json.dumps([part.get_state() for part in parts(widget)], default=repr)
    assert "Prompt" in sent and "wombat" not in sent and "ocelot" not in sent
    summaries = Comparisons(COMPARISONS.id, "summaries", COMPARISONS.items)
    assert "summary" not in html and "summary" in shown(rate(summaries, tmp_path, "anna"))


def test_what_is_missing_or_cannot_be_saved_is_named_and_the_answer_stays(tmp_path: Path) -> None:
    folder = tmp_path / "ratings" / "all"
    folder.parent.write_text("a file where the folder should be")
    widget = rate(COMPARISONS, folder, "anna")
    for diverse, best, named in (
        (None, None, "1 and 2"),
        (None, "A1", "question 1"),
        ("undecided", None, "question 2"),
        ("A", "A1", "ratings"),
    ):
        answer(widget, diverse, best)
        assert named in widget.message.value
        assert on_screen(widget) == (diverse, best, "")
        assert widget.item == COMPARISONS.items[0]
    folder.parent.unlink()
    widget.next.click()
    assert widget.item == COMPARISONS.items[1]
    assert len(stored(folder)) == 1
