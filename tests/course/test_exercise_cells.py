"""The exercises as they stand in the notebooks: starter, hint and folded solution of each that the package checks."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import nbformat
import pytest

from ddpo_utils.course.checks import exercises

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {
    path: nbformat.read(path, as_version=4)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
}


def tagged(cells, tag):
    return [
        (place, cell) for place, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])
    ]


def checked(cell):
    """The exercise that a cell asks the check of."""
    return re.search(r'check\("(\w+)", \1\)', cell.source)[1]


STARTERS = {
    checked(cell): cell for book in NOTEBOOKS.values() for _, cell in tagged(book.cells, "exercise")
}


def test_every_exercise_stands_in_the_notebooks_once_in_the_order_of_the_course():
    found = [
        checked(cell) for book in NOTEBOOKS.values() for _, cell in tagged(book.cells, "exercise")
    ]
    assert sorted(found) == sorted(exercises())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_starter_hint_and_solution_stand_together(path):
    cells = NOTEBOOKS[path].cells
    for place, starter in tagged(cells, "exercise"):
        statement, hint, solution = cells[place - 1], cells[place + 1], cells[place + 2]
        assert re.search(
            r"^### Exercise \d: .+\n\n\*(Easy|Medium|Hard), \d+ minutes", statement.source
        )
        assert hint.source.startswith("<details><summary>Hint</summary>") and hint.source.endswith(
            "</details>"
        )
        assert (
            solution.metadata["tags"] == ["solution"]
            and solution.metadata["jupyter"]["source_hidden"] is True
        )
        assert "assert check(" in solution.source and checked(solution) == checked(starter)
        assert starter.outputs == [] and starter.execution_count is None
        said = "".join(output.get("text", "") for output in solution.outputs)
        assert said.startswith("Right: "), said


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_asks_for_the_learner_s_own_code(name, capsys):
    source = STARTERS[name].source
    linecache.cache[name] = (
        len(source),
        None,
        source.splitlines(keepends=True),
        name,
    )  # as a notebook's kernel does
    exec(compile(source, name, "exec"), {})
    wanted = "All the right weights are there" if name == "weighted_rows" else "Replace the dots"
    assert capsys.readouterr().out.startswith(f"Not yet: {wanted}")
