"""The notebook's instrument for raters: blind comparisons one at a time, each answer on the disk at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from ipywidgets import HTML, Button, HBox, IntProgress, Layout, Text, Textarea, ToggleButtons, VBox

from ..settings import CourseError
from .comparisons import QUESTIONS, UNDECIDED, Comparisons
from .ratings import Ratings

__all__ = ["RatingWidget", "rate"]

# Colours come from JupyterLab's theme, light or dark; elsewhere (Colab) from the page. A choice is marked by a tick
# beside its colour, so that it does not rest on colour alone.
STYLE = """<style>
.ddpo-rating { max-width: 1200px; padding: 4px 12px 12px; color: var(--jp-ui-font-color1, inherit); }
.ddpo-rating > * { flex-shrink: 0; margin-top: 12px; }
.ddpo-rating.ddpo-rating .widget-html-content {
  line-height: 1.5; font-size: var(--jp-content-font-size1, 14px);
  font-family: var(--jp-content-font-family, sans-serif); }
.ddpo-rating h3, .ddpo-rating h4, .ddpo-rating p { margin: 0; line-height: inherit; }
.ddpo-rating h3 { font-size: 1.1em; }
.ddpo-rating .widget-hprogress, .ddpo-rating .progress { height: 8px; scroll-margin-top: 60px; }
.ddpo-rating .ddpo-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.ddpo-rating .ddpo-text + .ddpo-text { margin-top: 0.5em; }
.ddpo-rating .ddpo-prompt { border-left: 4px solid var(--jp-brand-color1, #1976d2); padding: 2px 12px; }
.ddpo-rating .ddpo-story { border-top: 1px solid var(--jp-border-color2, #8886); padding-top: 8px; margin-top: 10px; }
.ddpo-rating .ddpo-quiet { color: var(--jp-ui-font-color2, inherit); font-size: 0.93em; font-weight: 400; }
.ddpo-rating .ddpo-message { font-weight: 600; padding-left: 8px; }
.ddpo-rating :focus:not(:focus-visible) { outline: none; }
.ddpo-rating button:focus-visible, .ddpo-rating textarea:focus-visible, .ddpo-rating input:focus-visible {
  outline: 2px solid var(--jp-ui-font-color1, currentColor); outline-offset: 2px; }
.ddpo-rating .widget-box, .ddpo-rating .widget-toggle-buttons { overflow: visible; }
.ddpo-rating .widget-toggle-button { border: 1px solid var(--jp-border-color1, #8888); padding: 0 16px 0 6px; }
.ddpo-rating .widget-toggle-button::before { content: "✓"; display: inline-block; width: 16px; visibility: hidden; }
.ddpo-rating .widget-toggle-button.mod-active::before { visibility: visible; }
.ddpo-rating .widget-toggle-button.mod-active.mod-active {
  background: var(--jp-brand-color1, #1976d2); color: var(--jp-ui-inverse-font-color1, #fff); font-weight: 600; }
</style>"""


class RatingWidget(VBox):
    """Two sets of stories, the two questions, a comment, and what leads on and back.

    Its parts are attributes, so that a program can do what a rater does: `name` and `start`; `questions` ("diverse" and
    "best"), `comment`, `next` and `undo`; `message` says what is missing or wrong. The key is never read.

    Attributes:
        ratings: the rater's answers; None until there is a rater.
        item: the comparison shown; None at the start and at the end.
    """

    def __init__(self, comparisons: Comparisons, folder: str | Path, rater: str = ""):
        self.comparisons, self.folder = comparisons, Path(folder)
        self.ratings: Ratings | None = None
        self.item: dict[str, Any] | None = None
        self._drafts: dict[
            str, dict[str, Any]
        ] = {}  # by comparison: what stood there when `undo` led away or back
        self._since = time.monotonic()

        self.name = Text(
            value=rater, placeholder="Your name", continuous_update=False
        )  # Enter takes it, too
        self.start = Button(description="Start", button_style="primary")
        self.heading, self.progress = (
            HTML(),
            IntProgress(max=len(comparisons.items), layout=Layout(width="auto")),
        )
        self.progress.tabbable = (
            False  # it takes the focus of a new comparison, and is no stop for Tab
        )
        self.prompt, self.sides = (
            HTML(),
            {side: HTML(layout=Layout(flex="1 1 340px")) for side in "AB"},
        )
        self.questions = {question: self._choice(question) for question in QUESTIONS}
        self.comment = Textarea(
            description="Comment", placeholder="If you like", rows=2, layout=Layout(width="auto")
        )
        self.comment.style.description_width = "auto"
        self.next = Button(description="Next", button_style="primary")
        self.undo = Button(description="Undo the last answer", layout=Layout(width="auto"))
        self.message = HTML()

        self.name.observe(lambda change: self._begin(), "value")
        self.start.on_click(lambda button: self._begin())
        self.next.on_click(lambda button: self._next())
        self.undo.on_click(lambda button: self._undo())
        for choice in self.questions.values():
            choice.observe(lambda change: self._say(""), "value")
        hint = "Every answer is saved at once. After a restart, run this cell again: it goes on where you were."
        if comparisons.shown == "summaries":
            hint = f"Each text is a summary of a longer story. {hint}"
        columns = HBox(
            list(self.sides.values()), layout=Layout(flex_flow="row wrap", grid_gap="0 32px")
        )
        self._task = [self.heading, self.progress, self.prompt, columns]
        for number, (question, text) in enumerate(QUESTIONS.items(), 1):
            self._task.append(
                VBox([HTML(f"<h4>{number}. {escape(text)}</h4>"), self.questions[question]])
            )
        buttons = HBox([self.next, self.undo, self.message])
        self._task += [self.comment, buttons, HTML(f'<p class="ddpo-quiet">{hint}</p>')]
        super().__init__()
        self.add_class("ddpo-rating")
        self._ask_name()
        if rater.strip():
            self._begin()

    def __repr__(self) -> str:
        """The same in every run and on every machine: notebooks store it for where nothing can be clicked."""
        return f"Instrument to rate {len(self.comparisons.items)} comparisons; it needs a running notebook."

    def _choice(self, question: str) -> ToggleButtons:
        names = {"A": "Set A", "B": "Set B", UNDECIDED: "Hard to decide"}
        options = [
            (names.get(answer, answer), answer) for answer in self.comparisons.allowed(question)
        ]
        return ToggleButtons(options=options, value=None, style={"button_width": "auto"})

    def _say(self, text: str) -> None:
        self.message.value = f'<p class="ddpo-message" role="alert">{escape(text)}</p>'

    @contextmanager
    def _errors_shown(self) -> Iterator[None]:
        """What a button's work raises would end in a log that raters do not see."""
        try:
            yield
        except CourseError as error:
            self._say(str(error))
        except OSError as error:
            self._say(
                f"{self.folder} cannot be used ({error.strerror}): make it writable, then press the button again."
            )

    def _ask_name(self) -> None:
        text = "By which name shall your answers be kept? The same name goes on with them later."
        self.children = [
            HTML(f"{STYLE}<h4>{text}</h4>"),
            HBox([self.name, self.start]),
            self.message,
        ]

    def _begin(self) -> None:
        with self._errors_shown():
            self.ratings = Ratings(self.folder, self.comparisons, self.name.value)
            self._go_on()

    def _next(self) -> None:
        """Save the answer, or say what is missing."""
        chosen = {question: choice.value for question, choice in self.questions.items()}
        if missing := [question for question, value in chosen.items() if value is None]:
            which = (
                "both questions"
                if len(missing) == 2
                else f"question {list(QUESTIONS).index(missing[0]) + 1}"
            )
            return self._say(f'Please answer {which}; "Hard to decide" is an answer, too.')
        with self._errors_shown():
            self.ratings.save(
                self.item["item"],
                **chosen,
                comment=self.comment.value.strip(),
                seconds=self._seconds(),
            )
            self._drafts.pop(self.item["item"], None)
            self._go_on()

    def _undo(self) -> None:
        """Take the last answer back and show it again; what is chosen on the screen waits until its turn."""
        with self._errors_shown():
            last = self.ratings.undo()
            if last is None:
                return self._say("There is no answer to take back.")
            if self.item is not None:
                chosen = {question: choice.value for question, choice in self.questions.items()}
                self._drafts[self.item["item"]] = {
                    **chosen,
                    "comment": self.comment.value,
                    "seconds": self._seconds(),
                }
            self._drafts[last["item"]] = last
            self._show(last["item"])

    def _seconds(self) -> float:
        return round(time.monotonic() - self._since, 1)

    def _go_on(self) -> None:
        """To the first comparison without an answer, or to the end."""
        waiting = self.ratings.waiting
        self._show(waiting[0] if waiting else None)

    def _show(self, name: str | None) -> None:
        """Show one comparison, with what was chosen before it was left; None: the end."""
        self.item = next((item for item in self.comparisons.items if item["item"] == name), None)
        self.progress.value = self.progress.max - len(self.ratings.waiting)
        self.undo.disabled = not self.ratings.answers
        if self.item is None:
            self._show_end()
        else:
            self._show_item(self.item)
        self._say("")
        self.progress.focus()  # scrolls there, and Tab goes on from there

    def _show_item(self, item: dict[str, Any]) -> None:
        who = f'<span class="ddpo-quiet">· {escape(self.ratings.rater)}</span>'
        self.heading.value = (
            f"{STYLE}<h3>Comparison {self.progress.value + 1} of {self.progress.max} {who}</h3>"
        )
        self.prompt.value = f'<div class="ddpo-prompt"><h4>Prompt</h4>{_text(item["prompt"])}</div>'
        for side, column in self.sides.items():
            stories = enumerate(map(_text, item[side]), 1)
            column.value = f"<h3>Set {side}</h3>" + "".join(
                f'<div class="ddpo-story"><h4>{side}{n}</h4>{story}</div>' for n, story in stories
            )
        draft = self._drafts.get(item["item"], {})
        for question, choice in self.questions.items():
            choice.value = draft.get(question)
        self.comment.value = draft.get("comment", "")
        self._since = time.monotonic() - (draft.get("seconds") or 0.0)
        self.children = self._task

    def _show_end(self) -> None:
        self.heading.value = (
            f"{STYLE}<h3>All {self.progress.max} comparisons are rated</h3>"
            f"<p>Your answers lie in <code>{escape(str(self.ratings.path))}</code>. Run the next cells to read them, "
            "or send that file to whoever gave you the comparisons. The key stays closed until every rater is done.</p>"
        )
        self.children = [self.heading, self.progress, HBox([self.undo, self.message])]


def _text(text: str) -> str:
    """A text as HTML that shows it as it is: nothing in it is taken for markup."""
    paragraphs = re.split(r"\n\s*\n", escape(text))
    return "".join(f'<p class="ddpo-text">{paragraph}</p>' for paragraph in paragraphs)


def rate(comparisons: Comparisons, folder: str | Path, rater: str = "") -> RatingWidget:
    """The instrument, to stand as the last line of a notebook's cell. Run again, it goes on at the first open item.

    Args:
        comparisons: what is rated.
        folder: where the rater's file `<rater>.json` stands or is begun.
        rater: the rater's name; without one the instrument asks for it.

    Returns:
        A widget. What hinders it (say, a file that rates other comparisons) it says itself in one sentence. The seconds
        of an answer are those for which its comparison was shown, breaks included.
    """
    return RatingWidget(comparisons, folder, rater)
