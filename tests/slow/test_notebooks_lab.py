"""Every notebook in a real JupyterLab: "Run All Cells" as a learner would who starts there, and its key figure."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from lab import CHROMIUM, browser_page, jupyter_lab
from playwright.sync_api import Page, TimeoutError, expect

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
KEY_FIGURES = dict(
    zip(
        NOTEBOOKS,
        ("gap-25", "dev-42", "policy-fig", "c24", "c29", "weight-fig", "r4", "l7", "b7"),
        strict=True,
    )
)
PICTURES = ROOT / "build" / "lab"  # one screenshot a notebook, to be looked at
OWN_CACHE = os.environ.get(
    "DDPO_CACHE", ""
)  # before the tests' own takes its place: models that are fetched already
MINUTES = 10  # for one notebook on a busy machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs an installed Chromium (Debian: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the course without any stored output, so that what is seen was made in JupyterLab."""
    folder = tmp_path_factory.mktemp("course")
    for part in ("ddpo_utils", "data", "notebooks"):
        shutil.copytree(
            ROOT / part,
            folder / part,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in NOTEBOOKS:
        notebook = nbformat.read(folder / "notebooks" / name, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / "notebooks" / name)
    return folder


@pytest.fixture(scope="module")
def lab(course: Path) -> Iterator[Callable[[str], str]]:
    """The address of a file in a JupyterLab whose kernels import the copy, with the profile smoke."""
    with jupyter_lab(
        course, PYTHONPATH=str(course), DDPO_PROFILE="smoke", DDPO_CACHE=OWN_CACHE
    ) as (address, _):
        yield address


def run_all(page: Page, file: Path) -> nbformat.NotebookNode:
    """Run > Run All Cells, and the saved notebook when its last cell has run or one has failed."""
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    for label in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=label, exact=True).click()
    last = page.locator(".jp-CodeCell .jp-InputPrompt").last  # [ ] waits, [*] runs, [7] has run
    error = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
    ended = last.filter(has_text=re.compile(r"\[\d+\]")).or_(error).first
    try:
        ended.wait_for(state="attached", timeout=60_000 * MINUTES)
        for _ in range(10):  # what is on the disk may lag behind what is seen
            page.keyboard.press("Control+s")
            page.wait_for_timeout(2000)
            notebook = nbformat.read(file, as_version=4)
            code = [cell for cell in notebook.cells if cell.cell_type == "code"]
            if code[-1].execution_count or any(
                o.output_type == "error" for cell in code for o in cell.outputs
            ):
                return notebook
        raise TimeoutError(f"{file.name} has run and is not saved.")
    except TimeoutError:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{file.stem}_unfinished.png")
        raise


@pytest.mark.parametrize(
    "name", NOTEBOOKS[::-1]
)  # the last first: none may need what another leaves behind
def test_a_learner_runs_all_cells_and_sees_the_key_figure(
    name: str, course: Path, lab: Callable[[str], str]
) -> None:
    with browser_page(lab(f"notebooks/{name}")) as page:
        notebook = run_all(page, course / "notebooks" / name)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                wrong = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
                assert not wrong and cell.execution_count, (cell.id, wrong)
                said = "".join(o.get("text", "") for o in cell.outputs)
                if "exercise" in cell.metadata.get(
                    "tags", []
                ):  # nobody has done it yet, and it stops nothing
                    assert said.startswith("Not yet"), (cell.id, said)
        place = [cell.id for cell in notebook.cells].index(KEY_FIGURES[name])
        figure = page.locator(".jp-Notebook .jp-Cell").nth(place).locator(".jp-OutputArea img")
        figure.scroll_into_view_if_needed()
        expect(figure).to_be_visible()
        size = figure.evaluate(
            "image => [image.naturalWidth, image.clientWidth, image.closest('.jp-Cell').clientWidth]"
        )
        assert (
            size[0] > 600 and 600 < size[1] <= size[2]
        )  # drawn large enough, and nothing is cut off at the side
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{Path(name).stem}.png")
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
