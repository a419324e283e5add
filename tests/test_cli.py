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

import pytest
from checked import NOTEBOOKS
from command_line import error_line

from ddpo_utils import cli
from ddpo_utils.course import notebooks
from ddpo_utils.settings import PROFILES, SLEEPING, CourseError

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def fail_with(error: BaseException) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("arguments", [["run"], ["fetch"], ["train"], ["plan"]])
def test_an_unknown_profile_is_named(arguments, monkeypatch, capsys):
    assert cli.main([*arguments, "--profile", "huge"]) == 1
    assert "'huge'" in error_line(capsys)
    monkeypatch.setenv("DDPO_PROFILE", "vast")
    assert cli.main(arguments) == 1
    assert "'vast'" in error_line(capsys)


def test_a_faulty_setting_is_named(capsys):
    assert cli.main(["run", "--set", "seed=1", "foo"]) == 1
    assert "--set foo" in error_line(capsys)
    assert cli.main(["run", "--set", "learning-rat=1"]) == 1
    assert "learning_rate" in error_line(capsys)
    assert cli.main(["plan", "--beta", "none"]) == 1
    assert "beta" in error_line(capsys)


BAD_COMMAND_LINES = [
    ([], "command", ""),
    (["tarin"], "'tarin'", ""),
    (["train", "--method", "foo"], "'foo'", " train"),
    (["compare", "--prompts", "ten"], "'ten'", " compare"),
    (["sample"], "--model", " sample"),
    (["plan", "--stepz", "3"], "--stepz 3", " plan"),
]


@pytest.mark.parametrize(("arguments", "named", "command"), BAD_COMMAND_LINES)
def test_faults_of_the_command_line_are_one_line(arguments, named, command, capsys):
    assert cli.main(arguments) == 2
    text = error_line(capsys)
    assert named in text
    assert text.endswith(f"`python -m ddpo_utils{command} --help`\n")


@pytest.mark.parametrize("number", ["EISDIR", "EEXIST", "ENOTDIR", "ENOENT", "EACCES", "ENOSPC"])
def test_a_file_that_cannot_be_used_is_named(number, monkeypatch, capsys):
    fault = OSError(getattr(errno, number), os.strerror(getattr(errno, number)), "the/file")
    monkeypatch.setattr(notebooks, "run", fail_with(fault))
    assert cli.main(["run"]) == 1
    assert "the/file" in error_line(capsys)


@pytest.mark.parametrize(
    ("error", "named", "status"),
    [
        (KeyboardInterrupt(), "keyboard", 130),
        (ImportError("No module named 'trl'"), "trl", 1),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space", 1),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "--micro-batch", 1),
        (CourseError("The rater \x1b[2J\x07\u202e\udc80 is unknown."), "The rater  [2J", 1),
    ],
)
def test_other_faults_are_one_sentence(error, named, status, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "run", fail_with(error))
    assert cli.main(["run"]) == status
    assert named in error_line(capsys)


def test_text_of_data_does_nothing_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(
        notebooks, "run", lambda *_, **__: print("a\tb\x1b[31m\x9b2J\u202e é語\ud800")
    )
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
    monkeypatch.setattr(notebooks, "run", fail_with(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run"])


def test_help_says_what_each_setting_is_and_its_values(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")  # no name is broken at a hyphen
    assert cli.main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(PROFILES["8b"])[1:]:
        laptop, large = (getattr(PROFILES[name], field.name) for name in ("laptop", "8b"))
        assert f"--{field.name.replace('_', '-')} " in text
        assert f"{field.metadata['description']} (laptop: {laptop}, 8b: {large})" in text


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


@pytest.mark.parametrize(
    ("code", "given", "policy"),
    [
        (HELP, "", "PASSIVE"),
        (HELP, "ACTIVE", "ACTIVE"),
        (FIRST_CELL, "", "PASSIVE"),
        (FIRST_CELL, "ACTIVE", "ACTIVE"),
        ("import ddpo_utils; ddpo_utils.ddpo_loss", "", "None"),  # a user's own pipeline
    ],
)
def test_idle_threads_sleep_where_the_course_runs(code: str, given: str, policy: str) -> None:
    variables = {name: text for name, text in os.environ.items() if name not in SLEEPING}
    variables |= {"OMP_WAIT_POLICY": given} if given else {}
    said = "print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    script = f"import atexit, os, sys\natexit.register(lambda: {said})\n"
    command = [sys.executable, "-c", script + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    loaded = policy == "None"  # in the other cases torch must be still to come
    assert done.stdout.splitlines()[-1] == f"{policy} {loaded}"


def test_every_notebook_lets_threads_sleep_first() -> None:
    for cells in NOTEBOOKS.values():
        first = next(cell.source for cell in cells if cell.cell_type == "code")
        assert all(name in first for name in SLEEPING)
