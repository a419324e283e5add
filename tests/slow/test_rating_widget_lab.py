"""A rater in a real JupyterLab: a whole task by mouse and keyboard, with a kernel killed in the middle."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from lab import CHROMIUM, PATIENCE, browser_page, jupyter_lab
from playwright.sync_api import Page, TimeoutError, expect

from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.human_eval.comparisons import (
    Comparisons,
    build_comparisons,
    read_comparisons,
    write_comparisons,
)
from ddpo_utils.human_eval.ratings import read_ratings

pytestmark = pytest.mark.slow

CELL = """\
from ddpo_utils.human_eval.comparisons import read_comparisons
from ddpo_utils.human_eval.widget import rate

rate(read_comparisons("for_raters/comparisons.json"), "ratings", "Anna")"""


def task(folder: Path, items: int = 10) -> Comparisons:
    """A folder with comparisons of bundled stories and a notebook whose one cell shows the instrument."""
    frame = load_stories()
    sides: list[pd.DataFrame] = [
        frame[frame["source"] == source] for source in ("assistant", "authors")
    ]
    path = write_comparisons(
        folder, *build_comparisons(*sides, ("assistant", "authors"), prompts=items)
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, folder / "task.ipynb")
    return read_comparisons(path)


def run_cell(page: Page) -> None:
    """Run the notebook's cell; JupyterLab forgets a run that is asked for before its kernel has settled."""
    cell = page.locator(".jp-CodeCell").first
    for _ in range(12):
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        if (
            dialog := page.locator(".jp-Dialog .jp-mod-accept")
        ).count():  # a slow start may end in a question
            dialog.first.click()
        with suppress(TimeoutError):
            cell.locator(".cm-content").click(timeout=PATIENCE / 12)
        page.keyboard.press("Control+Enter")
        with suppress(AssertionError):
            expect(cell.locator(".jp-InputPrompt")).to_have_text(
                re.compile(r"\[\d+\]:"), timeout=PATIENCE / 12
            )
            break
    page.locator(".ddpo-rating").wait_for()


def at_item(page: Page, number: int, of: int = 10) -> None:
    """Wait until that comparison is shown, with nothing chosen yet."""
    expect(page.locator(".ddpo-rating h3").first).to_contain_text(
        f"Comparison {number} of {of}", timeout=PATIENCE
    )
    expect(page.locator(".ddpo-rating .mod-active")).to_have_count(0, timeout=PATIENCE)


def press(page: Page, label: str, question: int = 0) -> None:
    """Click a button; of those that stand under each question ("Hard to decide") the one of that question."""
    page.locator(".ddpo-rating").get_by_role("button", name=label, exact=True).nth(question).click()


def press_by_key(page: Page, label: str, key: str, question: int = 0) -> None:
    """Walk to a button with Tab alone, and press it with a key."""
    wanted = (
        page.locator(".ddpo-rating").get_by_role("button", name=label, exact=True).nth(question)
    )
    for _ in range(20):
        page.keyboard.press("Tab")
        if wanted.evaluate("button => button === document.activeElement"):
            return page.keyboard.press(key)
    pytest.fail(f"Tab does not reach the button {label!r}.")


def kill_kernel(server: subprocess.Popen) -> None:
    """As a crash or the system's want of memory would."""
    children = psutil.Process(server.pid).children(recursive=True)
    (kernel,) = [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]
    kernel.kill()


@pytest.mark.skipif(
    CHROMIUM is None, reason="needs an installed Chromium (Debian: apt-get install chromium)"
)
def test_a_whole_task_in_jupyterlab_survives_a_killed_kernel(tmp_path: Path) -> None:
    comparisons, file = task(tmp_path), tmp_path / "ratings" / "anna.json"
    with jupyter_lab(tmp_path) as (address, server), browser_page(address("task.ipynb")) as page:
        run_cell(page)
        at_item(page, 1)
        press(page, "Next")
        expect(page.get_by_role("alert")).to_contain_text(
            "Please answer both questions", timeout=PATIENCE
        )
        press(page, "Set A")
        press(page, "B4")
        press(page, "Next")

        at_item(page, 2)  # by keys alone
        expect(page.locator(".ddpo-rating .widget-hprogress")).to_be_focused(
            timeout=PATIENCE
        )  # Tab goes on from there
        expect(page.locator(".ddpo-rating h3").first).to_be_in_viewport()
        press_by_key(page, "Set B", "Space")
        press_by_key(page, "Hard to decide", "Enter", question=1)
        page.keyboard.press("Tab")
        page.keyboard.type("dd, and a comment")
        press_by_key(page, "Next", "Enter")

        at_item(page, 3)
        press(page, "Undo the last answer")
        expect(page.locator(".ddpo-rating h3").first).to_contain_text(
            "Comparison 2 of 10", timeout=PATIENCE
        )
        expect(page.locator(".ddpo-rating .mod-active")).to_have_text(
            ["Set B", "Hard to decide"], timeout=PATIENCE
        )
        expect(page.get_by_placeholder("If you like")).to_have_value("dd, and a comment")
        assert len(read_ratings(file, comparisons)["answers"]) == 1
        press(page, "A2")
        press(page, "Next")
        for number in (3, 4):
            at_item(page, number)
            press(page, "Hard to decide")
            press(page, "A1")
            press(page, "Next")
        at_item(page, 5)
        press(page, "Set B")  # begun, not given
        assert len(read_ratings(file, comparisons)["answers"]) == 4

        kill_kernel(server)
        page.locator(".jp-Dialog").get_by_role("button", name="Ok").click()  # "Kernel Restarting"
        run_cell(page)
        for number in range(5, 11):
            at_item(page, number)
            press(page, "Set B")
            press(page, "B1")
            press(page, "Next")
        expect(page.locator(".ddpo-rating h3").first).to_have_text(
            "All 10 comparisons are rated", timeout=PATIENCE
        )
        expect(page.locator(".ddpo-rating code")).to_have_text("ratings/anna.json")
    content = read_ratings(file, comparisons)
    given = [("A", "B4"), ("B", "A2"), *[("undecided", "A1")] * 2, *[("B", "B1")] * 6]
    assert [(answer["diverse"], answer["best"]) for answer in content["answers"]] == given
    assert [answer["item"] for answer in content["answers"]] == [
        item["item"] for item in comparisons.items
    ]
    assert [answer["comment"] for answer in content["answers"]] == [
        "",
        "dd, and a comment",
        *[""] * 8,
    ]
    assert content["rater"] == "Anna" and content["kind"] == "person"
    assert all(answer["seconds"] > 0 for answer in content["answers"])
