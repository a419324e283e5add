"""What every committed notebook must hold: executed with the present sources and data, readable, honest, private."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import find_comment_markers, find_metadata_tags

from ddpo_utils.course.notebook_inputs import data_digest, inputs_digest, is_exercise
from ddpo_utils.course.notebooks import readme_figures, write_back

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
OWN_DATA = ROOT / "notebooks" / "09_your_own_data.ipynb"
MEND = "run `make notebooks` and commit what it writes"
# Share of the printing cells whose output is compared strictly, by the number of the notebook; and over the course.
STRICT, STRICT_COURSE = {"01": 0.7, "02": 0.7, "03": 0.7}, 0.5
PRIVATE = {
    "a path of a machine": r"(?<![\w./:])/(?:home|root|Users|tmp|private|content|opt|mnt|work|usr|var)/[\w.]"
    r"|(?<!\w)[A-Z]:\\\w|site-packages|ipykernel_\d",
    "what looks like a key": r"\b(?:sk|pk|ghp|gho|hf|xox[bp])[-_][A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|Bearer \S{16,}",
}


def code_cells(notebook: Any) -> list[Any]:
    """The code cells that are run: exercises wait for a learner."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not is_exercise(cell)]


def printed(output: Any) -> str:
    """The text of an output that nbval compares; the name of a picture's Python object is none."""
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    pictures = any(kind.startswith("image/") for kind in data)
    return "".join(
        text if isinstance(text, str) else json.dumps(text)
        for kind, text in data.items()
        if not kind.startswith("image/") and not (pictures and kind == "text/plain")
    )


def is_freed(cell: Any) -> bool:
    marks = {**dict(find_metadata_tags(cell.metadata)), **dict(find_comment_markers(cell.source))}
    return marks.get("check") is False or "skip" in marks


def strictness(notebook: Any) -> tuple[int, int]:
    """How many cells print, and how many of those are compared strictly."""
    printing = [
        cell
        for cell in code_cells(notebook)
        if any(printed(output).strip() for output in cell.outputs)
    ]
    return len(printing), sum(not is_freed(cell) for cell in printing)


def faults(notebook: Any, name: str, data: Path = ROOT / "data") -> list[str]:
    """Everything that is wrong with a notebook, one sentence each."""
    found, code = [], code_cells(notebook)
    stored = notebook.metadata.get("ddpo", {}).get("inputs")
    if stored != inputs_digest(notebook, data):
        found.append(f"the stored outputs are older than its source or the data: {MEND}")
    counts = [cell.execution_count for cell in code]
    if None in counts:
        found.append(f"code cell {counts.index(None) + 1} was not executed: {MEND}")
    elif counts != list(range(1, len(code) + 1)):
        found.append(f"the execution counts are not 1, 2, 3 and so on: {MEND}")
    pictures = 0
    for number, cell in enumerate(code, 1):
        lines = cell.source.split("\n")
        if len(lines) > 40:
            found.append(f"code cell {number} has {len(lines)} lines; 40 are allowed: split it")
        if is_freed(cell) and not any(re.match(r"# Not compared: \w", line) for line in lines[:2]):
            found.append(
                f"code cell {number} is freed from comparison without a `# Not compared: <reason>` line"
            )
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(
                    f"code cell {number} stores an error ({output.ename}): mend it and {MEND}"
                )
                continue
            if "image/png" in output.get("data", {}):
                pictures += 1
                if not output.metadata.get("image/png", {}).get("alt", "").strip():
                    found.append(
                        f"a picture of code cell {number} has no alternative text: use plots.show(fig, alt)"
                    )
            text = printed(output)
            if any("alt=" not in tag for tag in re.findall(r"<img\b[^>]*>", text)):
                found.append(
                    f"an <img> in the output of code cell {number} has no alternative text"
                )
            for what, pattern in PRIVATE.items():
                if match := re.search(pattern, text):
                    found.append(
                        f"the output of code cell {number} holds {what}: {match[0][:30]!r}"
                    )
    if not pictures:
        found.append("no picture is among its outputs")
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            found.append(f"a picture in the text cell {cell.id!r} has no alternative text")
        if {
            "papermill",
            "execution",
        } & cell.metadata.keys() or "injected-parameters" in cell.metadata.get("tags", []):
            found.append(f"the cell {cell.id!r} holds traces of its execution: {MEND}")
    if {"papermill", "widgets"} & notebook.metadata.keys():
        found.append(f"its metadata hold traces of its execution: {MEND}")
    printing, strict = strictness(notebook)
    if printing and strict / printing < (target := STRICT.get(name[:2], 0.0)):
        found.append(
            f"{strict} of {printing} printing cells are compared strictly, less than {target:.0%}"
        )
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_whole(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    if found := faults(notebook, path.name):
        pytest.fail("\n".join(f"{path.name}: {fault}" for fault in found), pytrace=False)


def test_half_of_the_course_is_compared_strictly() -> None:
    sums = [strictness(nbformat.read(path, as_version=4)) for path in NOTEBOOKS]
    printing, strict = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0)
    assert strict >= STRICT_COURSE * printing, (
        f"only {strict} of the course's {printing} printing cells are strict"
    )


def test_the_readme_shows_pictures_of_the_stored_runs() -> None:
    stored = {}
    for path in NOTEBOOKS:
        stored |= readme_figures(nbformat.read(path, as_version=4))
    shown = re.findall(
        r"!\[([^\]]+)\]\(notebooks/figures/([\w-]+\.png)\)", (ROOT / "README.md").read_text("utf-8")
    )
    assert shown, "the README shows no figure with alternative text from notebooks/figures"
    for _, name in shown:
        picture = (ROOT / "notebooks" / "figures" / name).read_bytes()
        assert picture == stored.get(name), (
            f"{name} is not the picture that its notebook stores: {MEND}"
        )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "results").mkdir(parents=True)
    (folder / "b.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n')
    (folder / "results" / "a.csv").write_bytes(b"x,y\n1,2\n")
    (folder / "fit.npz").write_bytes(b"\x00\r\n\x01")
    return folder


@pytest.fixture
def good(data: Path) -> Any:
    """A small notebook without fault."""
    picture = new_output("display_data", {"image/png": "AAAA", "text/plain": "<Image>"})
    picture.metadata = nbformat.from_dict({"image/png": {"alt": "A line that rises"}})
    cells = [new_markdown_cell("# Title"), new_code_cell("print(1)"), new_code_cell("draw()")]
    cells[1].outputs = [new_output("stream", name="stdout", text="1\n")]
    cells[2].outputs = [picture]
    for count, cell in enumerate(cells[1:], 1):
        cell.execution_count = count
    notebook = new_notebook(cells=cells)
    notebook.metadata["ddpo"] = nbformat.from_dict({"inputs": inputs_digest(notebook, data)})
    return notebook


def stamped(notebook: Any, data: Path) -> Any:
    notebook.metadata["ddpo"] = nbformat.from_dict({"inputs": inputs_digest(notebook, data)})
    return notebook


def freed(notebook: Any) -> None:
    notebook.cells[1].source = "# NBVAL_IGNORE_OUTPUT\nprint(1)"


def unfinished(notebook: Any) -> None:
    notebook.cells[2].execution_count = None


def out_of_order(notebook: Any) -> None:
    notebook.cells[2].execution_count = 7


def failed(notebook: Any) -> None:
    notebook.cells[1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def long(notebook: Any) -> None:
    notebook.cells[1].source = "\n".join(["x = 1"] * 41)


def without_picture(notebook: Any) -> None:
    notebook.cells[2].outputs = []


def without_alt(notebook: Any) -> None:
    notebook.cells[2].outputs[0].metadata = {}


def with_path(notebook: Any) -> None:
    notebook.cells[1].outputs[0].text = "saved in /home/someone/course"


def with_key(notebook: Any) -> None:
    notebook.cells[1].outputs[0].text = "hf_" + "a1B2" * 8


def with_traces(notebook: Any) -> None:
    notebook.cells[1].metadata["papermill"] = {"duration": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unfinished, "code cell 2 was not executed"),
        (out_of_order, "execution counts"),
        (failed, "stores an error (ValueError)"),
        (long, "41 lines"),
        (freed, "without a `# Not compared: <reason>` line"),
        (freed, "0 of 1 printing cells are compared strictly, less than 70%"),
        (without_picture, "no picture"),
        (without_alt, "no alternative text"),
        (with_path, "a path of a machine"),
        (with_key, "what looks like a key"),
        (with_traces, "traces of its execution"),
    ],
)
def test_each_fault_is_named(good: Any, data: Path, change: Any, message: str) -> None:
    assert faults(good, "01_try.ipynb", data) == []
    change(good)
    assert any(message in fault for fault in faults(stamped(good, data), "01_try.ipynb", data))


def test_changed_source_or_data_makes_outputs_stale(good: Any, data: Path) -> None:
    changed = copy.deepcopy(good)
    changed.cells[1].source = "print(2)"
    assert "make notebooks" in faults(changed, "01_try.ipynb", data)[0]
    changed = copy.deepcopy(good)
    changed.cells[0].source = "# A better title"  # prose makes no output
    assert faults(changed, "01_try.ipynb", data) == []
    (data / "b.jsonl").write_bytes(b'{"a": 3}\n')
    data_digest.cache_clear()
    assert "older than its source or the data" in faults(good, "01_try.ipynb", data)[0]


def test_digest_of_the_data_heeds_contents_and_names_alone(data: Path) -> None:
    def fresh() -> str:
        data_digest.cache_clear()
        return data_digest(data)

    first = fresh()
    (data / "b.jsonl").write_bytes((data / "b.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    (data / "README.md").write_text("a card")
    (data / ".DS_Store").write_bytes(b"rubbish")
    (data / "results" / "training.json").write_text("{}")
    assert fresh() == first
    (data / "fit.npz").write_bytes(b"\x00\n\x01")  # in a binary file every byte counts
    assert fresh() != first
    (data / "fit.npz").write_bytes(b"\x00\r\n\x01")
    (data / "b.jsonl").rename(data / "c.jsonl")
    assert fresh() != first


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("results/world/1.json", "load_world"),
        ("ratings/a/key.json", "read_labels"),
        ("contrasts.jsonl", "trust_table"),
    ],
)
def test_some_records_make_stale_what_reads_them_alone(
    good: Any, data: Path, name: str, word: str
) -> None:
    def fresh(notebook: Any) -> str:
        data_digest.cache_clear()
        return inputs_digest(notebook, data)

    reader = copy.deepcopy(good)
    reader.cells[1].source += f"\nprint({word!r})"
    before = fresh(good), fresh(reader)
    (data / name).parent.mkdir(parents=True, exist_ok=True)
    (data / name).write_text("{}")
    assert fresh(good) == before[0]
    assert fresh(reader) != before[1]


def test_an_exercise_changes_no_digest_and_needs_no_output(good: Any, data: Path) -> None:
    first = inputs_digest(good, data)
    good.cells.insert(2, new_code_cell("def weights(): ...", metadata={"tags": ["exercise"]}))
    assert inputs_digest(good, data) == first
    assert faults(stamped(good, data), "01_try.ipynb", data) == []
    good.cells[2].metadata["tags"] = []
    assert inputs_digest(good, data) != first


def test_the_colab_cell_changes_no_digest(good: Any, data: Path) -> None:
    good.cells.insert(1, new_code_cell('REPOSITORY = ""  # where this is\nprint(1)'))
    first = inputs_digest(good, data)
    good.cells[1].source = 'REPOSITORY = "https://example.org/a/b"  # where this is\nprint(2)'
    assert inputs_digest(good, data) == first
    del good.cells[1]
    assert inputs_digest(good, data) == first


def test_write_back_takes_outputs_and_leaves_traces(good: Any, data: Path, tmp_path: Path) -> None:
    source, executed = tmp_path / "01_try.ipynb", tmp_path / "executed.ipynb"
    original = copy.deepcopy(good)
    original.cells[1].outputs, original.cells[1].execution_count = [], None
    nbformat.write(original, source)
    bar = new_output("stream", name="stderr", text="\r 50%\r100%")
    widget = new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "100%"}
    )
    injected = new_code_cell('profile = "smoke"', metadata={"tags": ["injected-parameters"]})
    injected.execution_count = 1
    good.cells.insert(1, injected)
    good.cells[2].outputs[:0] = [bar, widget]
    good.cells[2].outputs.append(
        new_output("execute_result", {"text/plain": "1"}, execution_count=2)
    )
    for count, cell in enumerate(code_cells(good), 1):
        cell.execution_count = count
        cell.metadata["papermill"] = {"duration": 0.1, "start_time": "2026-01-01T00:00:00"}
        cell.metadata["execution"] = {"iopub.status.busy": "2026-01-01T00:00:00"}
    good.metadata["papermill"] = {"input_path": "/home/someone/01_try.ipynb"}
    nbformat.write(good, executed)
    write_back(source, executed, data)
    stored = nbformat.read(source, as_version=4)
    assert faults(stored, "01_try.ipynb", data) == []
    assert [cell.id for cell in stored.cells] == [cell.id for cell in original.cells]
    assert [output.output_type for output in stored.cells[1].outputs] == [
        "stream",
        "execute_result",
    ]
    assert stored.cells[1].outputs[1].execution_count == 1
    assert "2026-01-01" not in source.read_text() and "someone" not in source.read_text()
    first = source.read_bytes()
    write_back(source, executed, data)
    assert source.read_bytes() == first


@pytest.mark.parametrize("given", ["overrides", "the cell", ""])
def test_notebook_09_takes_the_file_that_it_is_given(
    given: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": "Write an excuse.", "text": f"Excuse number {i}.", "score": i} for i in range(3)
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    cells = {cell.id: cell.source for cell in nbformat.read(OWN_DATA, as_version=4).cells}
    names: dict[str, Any] = {"display": print}
    exec(cells["params"], names)
    names |= {"profile": "smoke"} | (
        {"overrides": {"data": str(file)}} if given == "overrides" else {}
    )
    exec(cells["imports"], names)
    source = cells["a2"]
    if given == "the cell":
        source = source.replace('data = overrides.get("data", "")', f"data = {str(file)!r}")
    exec(source, names)
    said = capsys.readouterr().out
    assert len(names["everything"]) == (3 if given else 60)
    assert said.startswith("mine.jsonl:" if given else "example.jsonl:")
    assert names["settings"].data == str(names["file"]) and (
        "No row has the split test" in said
    ) == bool(given)
