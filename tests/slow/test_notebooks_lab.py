"""Each notebook in a real JupyterLab: Run All Cells as a learner does, its key figure, the map."""

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
CELLS = ("gap-25", "dev-62", "policy-fig", "c24", "ts-path", "weight-fig", "r4", "l7", "b7")
KEY_FIGURES = dict(zip(NOTEBOOKS, CELLS, strict=True))
PICTURES = ROOT / "build" / "lab"  # one screenshot a notebook, to be looked at
USER_CACHE = os.environ.get("DDPO_CACHE", "")  # with the models, before the tests get their own
MINUTES = 10  # for one notebook on a busy machine
WIDTHS = "image => [image.naturalWidth, image.clientWidth, image.closest('.jp-Cell').clientWidth]"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the course without stored outputs, so that what is seen was made in JupyterLab."""
    folder = tmp_path_factory.mktemp("course")
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for part in ("ddpo_utils", "data", "notebooks"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path in (folder / "notebooks").glob("[0-9]*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def lab(course: Path) -> Iterator[Callable[[str], str]]:
    """From a file to its address in a JupyterLab that imports the copy, with the profile smoke."""
    variables = {"PYTHONPATH": str(course), "DDPO_PROFILE": "smoke", "DDPO_CACHE": USER_CACHE}
    with jupyter_lab(course, **variables) as (address, _):
        yield address


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def errors(cell: nbformat.NotebookNode) -> list[str]:
    faults = [output for output in cell.outputs if output.output_type == "error"]
    return [f"{fault.ename}: {fault.evalue}" for fault in faults]


def printed(cell: nbformat.NotebookNode) -> str:
    """A cell's stdout; libraries that are imported late may warn on stderr before it."""
    parts = [output.text for output in cell.outputs if output.get("name") == "stdout"]
    return "".join(parts)


def run_all(page: Page, file: Path) -> nbformat.NotebookNode:
    """Run > Run All Cells, and the saved notebook when its last cell has run or one has failed."""
    # Without a kernel JupyterLab asks for one. The toolbar's circle says idle before there is one.
    page.get_by_text("(ipykernel) | Idle").wait_for()
    for label in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=label, exact=True).click()
    last = page.locator(".jp-CodeCell .jp-InputPrompt").last  # [ ] waits, [*] runs, [7] has run
    error = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
    ended = last.filter(has_text=re.compile(r"\[\d+\]")).or_(error).first
    try:
        ended.wait_for(state="attached", timeout=60_000 * MINUTES)
        for _ in range(10):  # the file on disk may lag behind the page
            page.keyboard.press("Control+s")
            page.wait_for_timeout(2000)
            notebook = nbformat.read(file, as_version=4)
            code = code_cells(notebook)
            if code[-1].execution_count or any(map(errors, code)):
                return notebook
        raise TimeoutError(f"{file.name} has run and is not saved.")
    except TimeoutError:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{file.stem}_unfinished.png")
        raise


@pytest.mark.parametrize("name", NOTEBOOKS[::-1])  # the last first: none may need another's files
def test_a_learner_runs_all_cells_and_sees_the_key_figure(
    name: str, course: Path, lab: Callable[[str], str]
) -> None:
    with browser_page(lab(f"notebooks/{name}")) as page:
        notebook = run_all(page, course / "notebooks" / name)
        for cell in code_cells(notebook):
            assert not errors(cell) and cell.execution_count, (cell.id, errors(cell))
            if "exercise" in cell.metadata.get("tags", []):
                assert printed(cell).startswith("Not yet"), cell.id
        place = [cell.id for cell in notebook.cells].index(KEY_FIGURES[name])
        figure = page.locator(".jp-Notebook .jp-Cell").nth(place).locator(".jp-OutputArea img")
        figure.scroll_into_view_if_needed()
        expect(figure).to_be_visible()
        natural, shown, cell_width = figure.evaluate(WIDTHS)
        assert natural > 600 and 600 < shown <= cell_width  # large, and not cut off at the side
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{Path(name).stem}.png")
        for label in ("Kernel", "Shut Down Kernel"):
            page.get_by_role("menuitem", name=label, exact=True).click()


def test_the_stored_map_shows_a_story_under_the_pointer_without_a_network(tmp_path: Path) -> None:
    name = "02_see_deviation.ipynb"
    shutil.copy(ROOT / "notebooks" / name, tmp_path)
    cells = [cell.id for cell in nbformat.read(tmp_path / name, as_version=4).cells]
    with jupyter_lab(tmp_path) as (address, _), browser_page(address(name)) as page:
        page.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
        cell = page.locator(".jp-Notebook .jp-Cell").nth(cells.index("dev-42"))
        picture = cell.locator("img.plot-img")  # until the pointer is on it
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 200, steps=5)
        point = cell.locator(".js-plotly-plot .points path").nth(80)
        box = point.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        expect(cell.locator(".hoverlayer")).to_contain_text(re.compile(r"\w+, weight \d\.\d\d"))
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "02_map.png")
