"""The notebook's widget for raters: blind comparisons one at a time, each answer saved at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ipywidgets import HTML, Button, HBox, IntProgress, Layout, Textarea, ToggleButtons, VBox

from ..settings import CourseError
from ..storage.files import whole_text
from .comparisons import QUESTIONS, UNDECIDED, Comparisons
from .ratings import Ratings


def _text(text: str) -> str:
    """A text as HTML that shows it as it is: nothing in it is read as markup."""
    paragraphs = re.split(r"\n\s*\n", escape(whole_text(text)))
    return "".join(f'<p class="ddpo-text">{paragraph}</p>' for paragraph in paragraphs)


class RatingWidget(VBox):
    """Two sets of stories, the two questions, a comment, and the buttons; it never reads the key.

    A program can do what a rater does, by `questions` ("diverse" and "best"), `comment`, `next`
    and `undo`. `message` says what is missing or wrong; `item` is shown, None at the end.
    """

    def __init__(self, comparisons: Comparisons, folder: str | Path, rater: str):
        self.comparisons = comparisons
        self.ratings = Ratings(folder, comparisons, rater)
        self.item: dict[str, Any] | None = None
        self._drafts: dict[str, Any] = {}  # item -> what was on the screen before undo
        self._since = time.monotonic()

        wide = Layout(width="auto")
        self.heading = HTML()
        self.prompt = HTML()
        self.message = HTML()
        self.progress = IntProgress(max=len(comparisons.items), layout=wide)
        self.progress.tabbable = False  # it gets the focus of a new comparison; Tab skips it
        self.sides = {side: HTML(layout=Layout(flex="1 1 340px")) for side in "AB"}
        self.questions = {question: self._choice(question) for question in QUESTIONS}
        # a button's click overtakes a change of the text that Jupyter still holds back: sent once,
        # when the field is left, the comment arrives whole
        self.comment = Textarea(
            description="Comment",
            placeholder="If you like",
            rows=2,
            layout=wide,
            continuous_update=False,
        )
        self.comment.style.description_width = "auto"
        self.next = Button(description="Next", button_style="primary")
        self.undo = Button(description="Undo the last answer", layout=wide)
        self.next.on_click(self._next)
        self.undo.on_click(self._undo)

        style = files(__package__).joinpath("rating_widget.css").read_text(encoding="utf-8")
        self._top = [HTML(f"<style>{style}</style>"), self.heading, self.progress]
        columns = Layout(flex_flow="row wrap", grid_gap="0 32px")
        self._task = [self.prompt, HBox(list(self.sides.values()), layout=columns)]
        for number, (question, text) in enumerate(QUESTIONS.items(), 1):
            title = HTML(f"<h4>{number}. {escape(text)}</h4>")
            self._task.append(VBox([title, self.questions[question]]))
        hint = "Every answer is saved at once. After a restart, run this cell again to go on."
        if comparisons.shown == "summaries":
            hint = f"Each text is a summary of a longer story. {hint}"
        buttons = HBox([self.next, self.undo, self.message])
        self._task += [self.comment, buttons, HTML(f'<p class="ddpo-quiet">{hint}</p>')]
        super().__init__()
        self.add_class("ddpo-rating")
        self._go_on()

    def __repr__(self) -> str:
        """The same in every run: notebooks store it for readers without a kernel."""
        number = len(self.comparisons.items)
        return f"Instrument to rate {number} comparisons; it needs a running notebook."

    def _choice(self, question: str) -> ToggleButtons:
        labels = {"A": "Set A", "B": "Set B", UNDECIDED: "Hard to decide"}
        answers = self.comparisons.allowed(question)
        options = [(labels.get(answer, answer), answer) for answer in answers]
        choice = ToggleButtons(options=options, value=None, style={"button_width": "auto"})
        choice.observe(lambda change: self._say(""), "value")
        return choice

    def _say(self, text: str) -> None:
        self.message.value = f'<p class="ddpo-message" role="alert">{escape(text)}</p>'

    @contextmanager
    def _errors_shown(self) -> Iterator[None]:
        """Show errors in the widget: those of a button end in a log that raters do not see."""
        try:
            yield
        except (CourseError, OSError) as error:
            self._say(f"Not saved ({error}): correct that, then press the button again.")

    def _shown_answer(self) -> dict[str, Any]:
        answer = {question: choice.value for question, choice in self.questions.items()}
        answer["comment"] = self.comment.value.strip()
        answer["seconds"] = round(time.monotonic() - self._since, 1)
        return answer

    def _next(self, button: Button) -> None:
        """Save the answer, or say what is missing."""
        answer = self._shown_answer()
        missing = []
        for number, question in enumerate(QUESTIONS, 1):
            if answer[question] is None:
                missing.append(str(number))
        if missing:
            self._say(f'Please answer question {" and ".join(missing)}, perhaps "Hard to decide".')
            return
        name = self.item["item"]
        with self._errors_shown():
            self.ratings.save(name, **answer)
            self._drafts.pop(name, None)
            self._go_on()

    def _undo(self, button: Button) -> None:
        """Take the last answer back and show it; what is on the screen is kept as a draft."""
        with self._errors_shown():
            last = self.ratings.undo()
            if last is None:
                return
            if self.item is not None:
                self._drafts[self.item["item"]] = self._shown_answer()
            self._drafts[last["item"]] = last
            self._go_on(last["item"])

    def _go_on(self, name: str | None = None) -> None:
        """Show one comparison, by default the first without an answer, or the end."""
        waiting = self.ratings.waiting
        items = {item["item"]: item for item in self.comparisons.items}
        if name is None and waiting:
            name = waiting[0]
        self.item = items.get(name)
        self.progress.value = len(items) - len(waiting)
        self.undo.disabled = not self.ratings.answers
        if self.item is None:
            self._show_end()
        else:
            self._show_item(self.item)
        self._say("")
        self.progress.focus()  # scrolls there, and Tab goes on from there

    def _show_item(self, item: dict[str, Any]) -> None:
        rater = f'<span class="ddpo-quiet">· {escape(self.ratings.rater)}</span>'
        number = self.progress.value + 1
        place = f"Comparison {number} of {self.progress.max}"
        self.heading.value = f"<h3>{place} {rater}</h3>"
        self.prompt.value = f'<div class="ddpo-prompt"><h4>Prompt</h4>{_text(item["prompt"])}</div>'
        for side, column in self.sides.items():
            stories = [f"<h3>Set {side}</h3>"]
            for number, story in enumerate(item[side], 1):
                title = f"<h4>{side}{number}</h4>"
                stories.append(f'<div class="ddpo-story">{title}{_text(story)}</div>')
            column.value = "".join(stories)
        draft = self._drafts.get(item["item"], {})
        for question, choice in self.questions.items():
            choice.value = draft.get(question)
        self.comment.value = whole_text(draft.get("comment", ""))
        self._since = time.monotonic() - (draft.get("seconds") or 0.0)
        self.children = self._top + self._task

    def _show_end(self) -> None:
        self.heading.value = (
            f"<h3>All {self.progress.max} comparisons are rated</h3>"
            f"<p>Your answers are in <code>{escape(str(self.ratings.path))}</code>. Run the next "
            "cells to read them, or send that file to whoever gave you the comparisons.</p>"
        )
        self.children = [*self._top, HBox([self.undo, self.message])]


def rate(comparisons: Comparisons, folder: str | Path, rater: str) -> RatingWidget:
    """The widget, for the last line of a cell. Run again, it goes on at the first open item.

    The answers are in the folder's file `<rater>.json`; their seconds are those for which the
    comparison was shown, breaks included.
    """
    return RatingWidget(comparisons, folder, rater)
