"""The command line: its flags, and one sentence for each fault."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from checked import NOTEBOOKS
from command_line import error_line

from ddpo_utils import cli
from ddpo_utils.course import notebooks
from ddpo_utils.settings import PROFILES, SLEEPING, CourseError

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "notebooks" / "REFERENCE.md")
README = "".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--profile", "huge"], "'huge'"),
        (["run", "--set", "seed=1", "foo"], "--set foo"),
        (["run", "--set", "learning-rat=1"], "learning_rate"),
        (["plan", "--beta", "none"], "beta"),
        ([], "command"),
        (["tarin"], "'tarin'"),
        (["train", "--method", "foo"], "'foo'"),
        (["compare", "--prompts", "ten"], "'ten'"),
        (["sample"], "--model"),
        (["plan", "--stepz", "3"], "--stepz 3"),
    ],
)
def test_a_fault_of_the_command_line_is_one_sentence(
    arguments: list[str], named: str, capsys: Any
) -> None:
    status = cli.main(arguments)
    text = error_line(capsys)
    assert named in text
    assert text.endswith("--help`\n") == (status == 2)


@pytest.mark.parametrize(
    ("error", "named", "status"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "the/file"), "the/file", 1),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space", 1),
        (KeyboardInterrupt(), "keyboard", 130),
        (ImportError("No module named 'trl'"), "trl", 1),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "--micro-batch", 1),
        (CourseError("The rater \x1b[2J\x07\u202e\udc80 is unknown."), "The rater  [2J", 1),
    ],
)
def test_a_fault_of_a_command_is_one_sentence(error, named, status, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "run", Mock(side_effect=error))
    assert cli.main(["run"]) == status
    assert named in error_line(capsys)


def test_text_of_data_does_nothing_to_the_terminal(monkeypatch, capsys):
    text = "a\tb\x1b[31m\x9b2J\u202e é語\ud800"
    monkeypatch.setattr(notebooks, "run", lambda *_, **__: print(text))
    assert cli.main(["run"]) == 0
    assert capsys.readouterr().out == "a\tb [31m 2J  é語 \n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
@pytest.mark.parametrize(
    ("end", "status", "sentence"),
    [("> /dev/full", 1, "error: "), ("| true", 1, ""), (">&-", 0, ""), ("2> /dev/full", 0, "")],
)
def test_an_output_that_cannot_be_written_is_no_traceback(end, status, sentence):
    shell = f"({sys.executable} -m ddpo_utils plan; echo $? >&3) 3>&2 {end}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    *message, code = done.stderr.splitlines()
    assert int(code) == status and len(message) == bool(sentence), done.stderr
    assert all(line.startswith(sentence) for line in message)


def test_an_unexpected_fault_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(notebooks, "run", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run"])


def test_help_says_what_each_setting_is_and_its_values(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")  # no name is broken at a hyphen
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for field in fields(PROFILES["8b"])[1:]:
        assert f"--{field.name.replace('_', '-')} " in text
        large = getattr(PROFILES["8b"], field.name)
        assert re.search(
            rf"{re.escape(field.metadata['description'])} .*8b: {re.escape(str(large))}", text
        )
    assert all(f"settings: {title}" in text for title in cli.GROUPS.values())


def test_every_command_of_the_readme_is_there():
    called = set(re.findall(r"python -m ddpo_utils (\w+)", README))
    assert called == set(cli.COMMANDS)


def test_import_needs_numpy_and_torch_alone():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import ddpo_utils; ddpo_utils.ddpo_loss; ddpo_utils.compute_deviation\n"
        "heavy = {'pandas', 'scipy', 'sklearn', 'transformers', 'trl', 'peft', 'datasets'}\n"
        "heavy |= {'matplotlib', 'IPython', 'sentence_transformers', 'umap', 'wordllama'}\n"
        "heavy |= {'papermill', 'nbformat', 'psutil', 'pydantic', 'openai'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FIRST_CELL = next(cell.source for cell in NOTEBOOKS["03_weighted_loss"] if cell.cell_type == "code")
HELP = (
    "import sys, runpy; sys.argv = ['x', '-h']; runpy.run_module('ddpo_utils', run_name='__main__')"
)


OWN_PIPELINE = "import ddpo_utils; ddpo_utils.ddpo_loss"


@pytest.mark.parametrize(
    ("code", "given", "policy"),
    [
        (HELP, "", "PASSIVE"),
        (FIRST_CELL, "", "PASSIVE"),
        (FIRST_CELL, "ACTIVE", "ACTIVE"),
        (OWN_PIPELINE, "", "None"),
    ],
)
def test_idle_threads_sleep_where_the_course_runs(code: str, given: str, policy: str) -> None:
    variables = {name: text for name, text in os.environ.items() if name not in SLEEPING}
    variables |= {"OMP_WAIT_POLICY": given} if given else {}
    state = "print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    script = f"import atexit, os, sys\natexit.register(lambda: {state})\n"
    command = [sys.executable, "-c", script + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    loaded = code == OWN_PIPELINE  # in the other cases torch must be still to come
    assert done.stdout.splitlines()[-1] == f"{policy} {loaded}"


def test_every_notebook_lets_threads_sleep_first() -> None:
    for cells in NOTEBOOKS.values():
        first = next(cell.source for cell in cells if cell.cell_type == "code")
        assert all(name in first for name in SLEEPING)
