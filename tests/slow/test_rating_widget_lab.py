"""A rater in a real JupyterLab: a whole task by mouse and keyboard, the kernel killed midway."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from lab import CHROMIUM, PATIENCE, browser_page, jupyter_lab
from playwright.sync_api import Page, TimeoutError, expect
from study import SYSTEMS, stories

from ddpo_utils.human_eval.comparisons import build_comparisons, write_comparisons
from ddpo_utils.human_eval.ratings import read_ratings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs chromium")]
expect.set_options(timeout=PATIENCE)
CELL = """\
from ddpo_utils.human_eval.comparisons import read_comparisons
from ddpo_utils.human_eval.widget import rate

rate(read_comparisons("for_raters/comparisons.json"), "ratings", "Anna")"""


def run_cell(page: Page) -> None:
    """Run the cell; JupyterLab forgets a run that is asked for before its kernel has settled."""
    cell = page.locator(".jp-CodeCell").first
    for _ in range(12):
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        dialog = page.locator(".jp-Dialog .jp-mod-accept")
        if dialog.count():  # a slow start may end in a question
            dialog.first.click()
        with suppress(TimeoutError, AssertionError):
            cell.locator(".cm-content").click(timeout=PATIENCE / 12)
            page.keyboard.press("Control+Enter")
            number = cell.locator(".jp-InputPrompt")
            expect(number).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE / 12)
            break
    page.locator(".ddpo-rating").wait_for()


def at_item(page: Page, number: int) -> None:
    """Wait until that comparison is shown, with nothing chosen yet."""
    heading = page.locator(".ddpo-rating h3").first
    expect(heading).to_contain_text(f"Comparison {number} of 6")
    expect(page.locator(".ddpo-rating .mod-active")).to_have_count(0)


def press(page: Page, label: str, question: int = 0, key: str = "") -> None:
    """Press a button, by mouse, or with `key` after walking to it with Tab alone."""
    buttons = page.locator(".ddpo-rating").get_by_role("button", name=label, exact=True)
    button = buttons.nth(question)  # "Hard to decide" is under each question
    if not key:
        return button.click()
    for _ in range(20):
        page.keyboard.press("Tab")
        if button.evaluate("button => button === document.activeElement"):
            return page.keyboard.press(key)
    pytest.fail(f"Tab does not reach the button {label!r}.")


def kill_kernel(server: subprocess.Popen) -> None:
    for child in psutil.Process(server.pid).children(recursive=True):
        if "ipykernel_launcher" in " ".join(child.cmdline()):
            child.kill()


def test_a_whole_task_in_jupyterlab_survives_a_killed_kernel(tmp_path: Path) -> None:
    comparisons, key = build_comparisons(*map(stories, SYSTEMS), SYSTEMS)
    write_comparisons(tmp_path, comparisons, key)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(CELL)]
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "task.ipynb"
    )
    file = tmp_path / "ratings" / "anna.json"
    with jupyter_lab(tmp_path) as (address, server), browser_page(address("task.ipynb")) as page:
        heading, chosen = (page.locator(f".ddpo-rating {part}") for part in ("h3", ".mod-active"))
        run_cell(page)
        at_item(page, 1)
        press(page, "Next")
        expect(page.get_by_role("alert")).to_contain_text("question 1 and 2")
        for label in ("Set A", "B4", "Next"):
            press(page, label)
        at_item(page, 2)  # by keys alone
        expect(page.locator(".ddpo-rating .widget-hprogress")).to_be_focused()
        expect(heading.first).to_be_in_viewport()
        press(page, "Set B", key="Space")
        press(page, "Hard to decide", question=1, key="Enter")
        page.keyboard.press("Tab")
        page.keyboard.type("dd, and a comment")
        press(page, "Next", key="Enter")
        at_item(page, 3)
        press(page, "Undo the last answer")
        expect(heading.first).to_contain_text("Comparison 2 of 6")
        expect(chosen).to_have_text(["Set B", "Hard to decide"])
        expect(page.get_by_placeholder("If you like")).to_have_value("dd, and a comment")
        assert len(read_ratings(file, comparisons)["answers"]) == 1
        for label in ("A2", "Next"):
            press(page, label)
        at_item(page, 3)
        press(page, "Set B")  # begun, not given
        kill_kernel(server)
        page.locator(".jp-Dialog").get_by_role("button", name="Ok").click()  # "Kernel Restarting"
        run_cell(page)
        for number in range(3, 7):
            at_item(page, number)
            for label in ("Hard to decide", "B1", "Next"):
                press(page, label)
        expect(page.locator(".ddpo-rating code")).to_have_text("ratings/anna.json")
    answers = read_ratings(file, comparisons)["answers"]
    given = [(a["item"], a["diverse"], a["best"], a["comment"]) for a in answers]
    rest = [(f"c0{number}", "undecided", "B1", "") for number in range(3, 7)]
    assert given == [("c01", "A", "B4", ""), ("c02", "B", "A2", "dd, and a comment"), *rest]
    assert all(answer["seconds"] > 0 for answer in answers)
