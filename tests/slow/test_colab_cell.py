"""The notebooks' first cell on a Python that has only what Colab usually has: a simulation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import nbformat
import pytest
from commands import ENVIRONMENT, NOTEBOOKS, ROOT, index, new_python, run_command
from packaging.requirements import Requirement

from stored_outputs import ADDRESS

__all__ = ["index"]  # the fixture
pytestmark = pytest.mark.slow
# Colab has more, in its own versions; what these need comes along.
USUAL = "torch numpy pandas scipy scikit-learn matplotlib ipykernel psutil pyyaml requests tqdm"
# The cell twice, as a reader who runs all cells again does; then every notebook's imports.
READER = """
import ast, glob, json, os, sys
import google.colab
cell, places = open("cell.py").read(), []
for _ in range(2):
    exec(cell, {})
    places.append(os.path.relpath(os.getcwd(), google.colab.CONTENT))
for path in sorted(glob.glob("[0-9]*.ipynb")):
    for cell in json.load(open(path))["cells"]:
        if cell["cell_type"] == "code":
            nodes = ast.walk(ast.parse("".join(cell["source"])))
            found = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(found, []), path, "exec"), {})
import ddpo_utils, torch
print(json.dumps({"places": places, "torch": torch.__file__, "ddpo_utils": ddpo_utils.__file__}))
"""


def first_cells() -> set[str]:
    cells = set()
    for path in NOTEBOOKS:
        code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        cells.add(code[0].source)
    return cells


def with_requirements(names: list[str]) -> set[str]:
    """The installed packages among `names`, and all that they require."""
    found, waiting = set(), [*names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requirements = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        found.add(name)
        for requirement in requirements:
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture
def colab(index: None, tmp_path: Path) -> Path:
    """A folder with a bare clone, `content` (where Colab works), and a Python that sees USUAL."""
    run_command("git", "clone", "--quiet", "--bare", ROOT, tmp_path / "remote.git")
    (tmp_path / "content").mkdir()
    usual = tmp_path / "usual"
    (usual / "google" / "colab").mkdir(parents=True)
    module = usual / "google" / "colab" / "__init__.py"
    module.write_text(f"CONTENT = {str(tmp_path / 'content')!r}\n")
    site = Path(sysconfig.get_path("purelib"))
    for name in with_requirements(USUAL.split()):
        folders = {file.parts[0] for file in distribution(name).files}
        for folder in folders - {"..", "__pycache__", "google"}:
            if not (usual / folder).exists():
                (usual / folder).symlink_to(site / folder)
    new_python(tmp_path / "venv", usual)
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is Linux; the simulation links folders")
def test_the_first_cell_makes_all_imports_work_and_keeps_torch(colab: Path) -> None:
    (cell,) = first_cells()
    cell = ADDRESS.sub(f'REPOSITORY = "file://{colab / "remote.git"}"', cell)
    content, clone = colab / "content", colab / "content" / "ddpo-course"
    (content / "cell.py").write_text(cell)
    for _ in range(2):  # the second time as after a restart of the runtime, which keeps files
        lines = run_command(colab / "venv/bin/python", "-c", READER, cwd=content).splitlines()
        result = json.loads(lines[-1])
        assert result["places"] == ["ddpo-course/notebooks"] * 2
    assert not (clone / "notebooks" / "ddpo-course").exists()  # no second clone
    assert Path(result["ddpo_utils"]).is_relative_to(clone)
    assert Path(result["torch"]).is_relative_to(colab / "usual")
    assert not list((colab / "venv").rglob("site-packages/torch"))


def test_without_an_address_the_cell_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "__init__.py").touch()
    (cell,) = first_cells()
    code = "import google.colab\n" + ADDRESS.sub('REPOSITORY = ""', cell)
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode and "make colab" in done.stderr and "Traceback" not in done.stderr


def test_elsewhere_the_first_cell_does_nothing(tmp_path: Path) -> None:
    (cell,) = first_cells()
    run_command(sys.executable, "-c", cell, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
