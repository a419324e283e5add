"""Teaching notes and glossary name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat

from ddpo_utils import cli

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NOTES = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "notebooks" / "GLOSSARY.md").read_text(encoding="utf-8")


def test_the_notes_name_every_notebook_and_real_commands() -> None:
    course_map, _, rest = NOTES.partition("## Start anywhere")
    starts = rest.partition("# Teaching notes")[0]
    names = [path.stem for path in NOTEBOOKS]
    assert re.findall(r"^\| (\d\d\w+) \|", course_map, re.MULTILINE) == names
    numbers = [name[:2] for name in names]
    assert re.findall(r"^\| (\d\d) \|", starts, re.MULTILINE) == numbers
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", NOTES))
    assert targets and targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = re.findall(r"python -m ddpo_utils ([^`\n]+)", NOTES)
    assert len(commands) >= 4
    for command in commands:
        cli._parser().parse_args(command.split())  # exits if it cannot


def test_the_figure_under_discussion_is_notebook_01_s() -> None:
    pattern = r"already reaches (\d\.\d\d)\?\*\*.*begins `([^`]+)`.*authors have (\d\.\d\d)"
    assistant, beginning, authors = re.search(pattern, NOTES).groups()
    cells = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    (cell,) = (cell for cell in cells if cell.source.startswith(beginning))
    printed = json.dumps(cell.outputs)
    for name, figure in (("assistant_iter", assistant), ("authors", authors)):
        value = float(re.search(rf"{name}\s+(\d\.\d+) \[", printed)[1])
        assert abs(value - float(figure)) <= 0.0051, name


def test_no_notebook_needs_another_s_files() -> None:
    """A notebook's working folder is its own; in place of 04's adapters recorded ones do."""
    owner: dict[str, str] = {}
    for path in NOTEBOOKS:
        code = path.read_text(encoding="utf-8").replace('\\"', '"')
        for folder in re.findall(r'work_dir\(settings\) / f?"([\w-]+)', code):
            assert owner.setdefault(folder, path.name) == path.name, folder
    assert owner["adapters"] == "04_train_ddpo.ipynb"


def test_the_glossary_is_sorted_and_names_real_notebooks() -> None:
    row = r"^\| ([^|]+) \| \[(\d\d)\]\(([^)]+)\) \| ([^|]+) \|$"
    rows = re.findall(row, GLOSSARY, re.MULTILINE)
    assert len(rows) == GLOSSARY.count("\n| ") - 2 > 40
    terms = [term.lower() for term, *_ in rows]
    assert terms == sorted(set(terms))
    for term, number, file, meaning in rows:
        assert (ROOT / "notebooks" / file).is_file() and file.startswith(number), term
        assert meaning.endswith((".", ")")) and len(meaning.split()) < 60, term
