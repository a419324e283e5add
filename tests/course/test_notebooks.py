"""Every stored notebook: run with the present sources and data, readable, honest, private."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import find_comment_markers, find_metadata_tags

from ddpo_utils.course.notebooks import QUIET, execute
from ddpo_utils.settings import CourseError, get_profile
from stored_outputs import data_digest, inputs_digest, readme_figures, store_outputs

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LONGEST_CELL = 40  # lines
SITTING = (2600, 350)  # words and lines of code of a notebook, without its exercises
FIRST_PICTURE = 300  # words before it
STRICT = {"01": 0.7, "02": 0.7, "03": 0.7}  # least share of printing cells that are compared
STRICT_COURSE = 0.5
PRIVATE = (
    r"(?<![\w./:])/(?:home|root|Users|tmp|private|content|opt|mnt|work|usr|var)/[\w.]",
    r"(?<!\w)[A-Z]:\\\w|site-packages|ipykernel_\d",
    r"\b(?:sk|pk|ghp|gho|hf|xox[bp])[-_][A-Za-z0-9_-]{16,}",
    r"\bAKIA[0-9A-Z]{16}\b|Bearer \S{16,}",
)


def code_cells(notebook: Any) -> list[Any]:
    """The code cells that are run: exercises wait for a learner."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in code if "exercise" not in cell.metadata.get("tags", [])]


def text_of(output: Any) -> str:
    """What nbval compares of an output; a picture has no text."""
    if output.output_type == "stream":
        return output.text
    kinds = output.get("data", {})
    left_out = ("image/", "text/plain") if "image/png" in kinds else ()
    return "".join(str(text) for kind, text in kinds.items() if not kind.startswith(left_out))


def is_freed(cell: Any) -> bool:
    marks = {**dict(find_metadata_tags(cell.metadata)), **dict(find_comment_markers(cell.source))}
    return marks.get("check") is False or "skip" in marks


def strictness(notebook: Any) -> tuple[int, int]:
    """How many cells print, and how many of those are compared."""
    cells = code_cells(notebook)
    printing = [cell for cell in cells if "".join(map(text_of, cell.outputs)).strip()]
    return len(printing), sum(not is_freed(cell) for cell in printing)


def cell_faults(cell: Any) -> Iterator[str]:
    lines = cell.source.split("\n")
    if len(lines) > LONGEST_CELL:
        yield f"has {len(lines)} lines"
    if is_freed(cell) and not any(re.match(r"# Not compared: \w", line) for line in lines[:2]):
        yield "is not compared, without a reason"
    for output in cell.outputs:
        yield from output_faults(output)


def output_faults(output: Any) -> Iterator[str]:
    if output.output_type == "error":
        yield f"stores an error, {output.ename}"
        return
    text, kinds = text_of(output), output.get("data", {})
    images = re.findall(r"<img\b[^>]*>", text)
    alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
    if ("image/png" in kinds and not alt.strip()) or any("alt=" not in image for image in images):
        yield "has a picture without alternative text"
    if "\r" in text or any("widget-view" in kind for kind in kinds):
        yield "stores a progress bar or a widget"
    if match := re.search("|".join(PRIVATE), text):
        yield f"stores a path or a key, {match[0][:30]!r}"


def faults(notebook: Any, name: str, data: Path = ROOT / "data") -> list[str]:
    """Everything that is wrong with a notebook, one line each."""
    found = []
    code = code_cells(notebook)
    if notebook.metadata.get("ddpo", {}).get("inputs") != inputs_digest(notebook, data):
        found.append("stale: its source or the data changed since it was run")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not executed in order")
    for number, cell in enumerate(code, 1):
        found += [f"code cell {number} {fault}" for fault in cell_faults(cell)]
    if "image/png" not in json.dumps(code):
        found.append("no picture is among its outputs")
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            found.append(f"a picture in the text cell {cell.id} has no alternative text")
    metadata = [notebook.metadata, *(cell.metadata for cell in notebook.cells)]
    if any({"papermill", "execution", "widgets"} & part.keys() for part in metadata):
        found.append("its metadata hold traces of its execution")
    printing, strict = strictness(notebook)
    if strict < STRICT.get(name[:2], 0.0) * printing:
        found.append(f"only {strict} of {printing} printing cells are compared")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_whole(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if found := faults(notebook, path.name):
        lines = "\n".join(found)
        pytest.fail(f"{path.name}: run `make notebooks` after mending:\n{lines}", pytrace=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_one_sitting_and_shows_a_picture_early(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    told = [len(c.source.split()) for c in prose if not c.id.startswith(("ex-", "hint-"))]
    lines = [line for cell in code_cells(notebook) for line in cell.source.split("\n")]
    size = (sum(told), sum(bool(line.strip()) for line in lines))
    assert size[0] <= SITTING[0] and size[1] <= SITTING[1], size
    before = 0
    for cell in notebook.cells:
        kinds = [kind for output in cell.get("outputs", []) for kind in output.get("data", {})]
        if "image/png" in kinds:
            break
        before += len(cell.source.split()) if cell.cell_type == "markdown" else 0
    assert before <= FIRST_PICTURE


def test_half_of_the_course_is_compared() -> None:
    counts = [strictness(nbformat.read(path, as_version=4)) for path in NOTEBOOKS]
    printing, strict = map(sum, zip(*counts, strict=True))
    assert strict >= STRICT_COURSE * printing > 0


def test_the_readme_shows_pictures_of_the_stored_runs() -> None:
    stored = {}
    for path in NOTEBOOKS:
        stored |= readme_figures(nbformat.read(path, as_version=4))
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(notebooks/figures/([\w-]+\.png)\)", readme)
    assert shown
    for name in shown:
        assert (ROOT / "notebooks" / "figures" / name).read_bytes() == stored.get(name), name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "results").mkdir(parents=True)
    (folder / "b.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n')
    (folder / "results" / "a.csv").write_bytes(b"x,y\n1,2\n")
    (folder / "fit.npz").write_bytes(b"\x00\r\n\x01")
    return folder


def stamped(notebook: Any, data: Path) -> Any:
    notebook.metadata["ddpo"] = nbformat.from_dict({"inputs": inputs_digest(notebook, data)})
    return notebook


@pytest.fixture
def good(data: Path) -> Any:
    """A small notebook without fault."""
    picture = new_output("display_data", {"image/png": "AAAA", "text/plain": "<Image>"})
    picture.metadata = nbformat.from_dict({"image/png": {"alt": "A line that rises"}})
    printed = new_output("stream", name="stdout", text="1\n")
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("print(1)", outputs=[printed], execution_count=1),
        new_code_cell("draw()", outputs=[picture], execution_count=2),
    ]
    return stamped(new_notebook(cells=cells), data)


PICTURE = new_output("display_data", {"image/png": "AAAA"})
FREED = "# NBVAL_IGNORE_OUTPUT\nprint(1)"


@pytest.mark.parametrize(
    ("cell", "field", "value", "part"),
    [
        (2, "execution_count", None, "in order"),
        (1, "outputs", [new_output("error", ename="ValueError", traceback=[])], "ValueError"),
        (1, "source", FREED, "0 of 1 printing"),
        (2, "outputs", [], "no picture"),
        (2, "outputs", [PICTURE], "alternative text"),
        (1, "outputs", [new_output("stream", text="in /home/someone/course")], "'/home/s'"),
        (1, "outputs", [new_output("stream", text="hf_" + "a1B2" * 8)], "'hf_a1B2"),
        (1, "outputs", [new_output("stream", text="\r 50%")], "progress bar"),
        (1, "metadata", {"papermill": {"duration": 1.0}}, "traces"),
    ],
)
def test_each_fault_is_named(
    good: Any, data: Path, cell: int, field: str, value: Any, part: str
) -> None:
    assert faults(good, "01_try.ipynb", data) == []
    good.cells[cell][field] = value
    found = faults(stamped(nbformat.from_dict(good), data), "01_try.ipynb", data)
    assert any(part in fault for fault in found), found


def fresh_digest(data: Path, notebook: Any) -> str:
    data_digest.cache_clear()
    return inputs_digest(notebook, data)


def test_changed_source_makes_outputs_stale(good: Any, data: Path) -> None:
    first = fresh_digest(data, good)
    good.cells[0].source = "# A better title"  # prose makes no output
    good.cells.insert(1, new_code_cell('REPOSITORY = ""  # the Colab cell\nprint(1)'))
    exercise = new_code_cell("def weights(): ...", metadata={"tags": ["exercise"]})
    good.cells.insert(2, exercise)
    assert fresh_digest(data, good) == first
    exercise.metadata["tags"] = []
    assert fresh_digest(data, good) != first


READERS = "load_world read_labels trust_table"


@pytest.mark.parametrize(
    ("name", "content", "readers", "others"),  # whose outputs are stale then
    [
        ("b.jsonl", b'{"a": 3}\n', True, True),
        ("b.jsonl", b'{"a": 1}\r\n{"a": 2}\r\n', False, False),
        ("c.jsonl", b"{}", True, True),
        ("fit.npz", b"\x00\n\x01", True, True),  # every byte of a binary file counts
        ("README.md", b"{}", False, False),
        (".DS_Store", b"{}", False, False),
        ("results/training.json", b"{}", False, False),
        ("results/world/1.json", b"{}", True, False),
        ("contrasts.jsonl", b"{}", True, False),
    ],
)
def test_changed_data_make_their_readers_stale(
    good: Any, data: Path, name: str, content: bytes, readers: bool, others: bool
) -> None:
    reader = copy.deepcopy(good)
    reader.cells[1].source += f"\nprint({READERS!r})"
    before = [fresh_digest(data, notebook) for notebook in (reader, good)]
    (data / name).parent.mkdir(parents=True, exist_ok=True)
    (data / name).write_bytes(content)
    after = [fresh_digest(data, notebook) for notebook in (reader, good)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [readers, others]
    sources = "".join(path.read_text("utf-8") for path in NOTEBOOKS)
    assert all(word in sources for word in READERS.split()), "READ_BY is out of date"


def test_stored_outputs_hold_no_traces(good: Any, data: Path, tmp_path: Path) -> None:
    source, executed = tmp_path / "01_try.ipynb", tmp_path / "executed.ipynb"
    nbformat.write(good, source)
    ids = [cell.id for cell in good.cells]
    injected = new_code_cell('profile = "smoke"', metadata={"tags": ["injected-parameters"]})
    good.cells.insert(1, injected)
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "100%"}
    result = new_output("execute_result", {"text/plain": "1"}, execution_count=2)
    good.cells[2].outputs += [new_output("display_data", widget), result]
    for cell in code_cells(good):
        cell.metadata["papermill"] = cell.metadata["execution"] = {"start": "2026-01-01T00:00:00"}
    good.metadata["papermill"] = {"input_path": "/home/someone/01_try.ipynb"}
    nbformat.write(good, executed)
    store_outputs(source, executed, data)
    stored = nbformat.read(source, as_version=4)
    assert faults(stored, "01_try.ipynb", data) == []
    assert [cell.id for cell in stored.cells] == ids
    kinds = [output.output_type for output in stored.cells[1].outputs]
    assert kinds == ["stream", "execute_result"]
    assert stored.cells[1].outputs[1].execution_count == 1
    assert "2026-01-01" not in source.read_text() and "someone" not in source.read_text()
    good.cells[2].source = "print(2)"
    nbformat.write(good, executed)
    with pytest.raises(CourseError, match=r"01_try\.ipynb"):
        store_outputs(source, executed, data)


def test_a_kernel_is_quiet(tmp_path: Path) -> None:
    """tqdm's notebook bar ignores TQDM_DISABLE, so the package's bars look at it themselves."""
    lines = [
        "import os, torch",
        "from ddpo_utils.embeddings.encoders import load_encoder",
        "from ddpo_utils.settings import progress_bar",
        "for _ in progress_bar(range(3)): pass",
        "rows = load_encoder('stylometric').encode([f'Story {i}.' for i in range(201)])",
        f"assert {QUIET!r}.items() <= dict(os.environ).items()",
    ]
    parameters = new_code_cell('profile = ""', metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[parameters, new_code_cell("\n".join(lines))])
    nbformat.write(notebook, tmp_path / "01_bars.ipynb")
    outcome = execute(tmp_path / "01_bars.ipynb", get_profile("smoke"), tmp_path / "out")
    assert not outcome.fault
    executed = nbformat.read(tmp_path / "out" / "01_bars.ipynb", as_version=4)
    assert [cell.outputs for cell in executed.cells] == [[]] * 3


@pytest.mark.parametrize("given", [True, False])
def test_notebook_09_takes_the_file_that_it_is_given(
    given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": "Write one.", "text": f"Text {i}.", "score": i} for i in range(3)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOKS[8], as_version=4).cells}
    names: dict[str, Any] = {"display": print}
    exec(cells["params"], names)
    names |= {"profile": "smoke", "overrides": {"data": str(file)} if given else {}}
    exec(cells["imports"], names)
    exec(cells["a2"], names)
    assert len(names["everything"]) == (3 if given else 60)
    assert names["file"].name == ("mine.jsonl" if given else "example.jsonl")
    assert names["settings"].data == str(names["file"])
