"""The notebooks' first cell on a clean Python that has only what Colab usually has: a simulation, not Colab itself."""

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
from packaging.requirements import Requirement
from test_whole import ENVIRONMENT, ROOT, carried_out

from ddpo_utils.course.notebooks import ADDRESS

# Colab has more, in versions of its own; what these need comes along.
USUAL = [
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "ipykernel",
    "psutil",
    "pyyaml",
    "requests",
    "tqdm",
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
# The cell twice, as a reader who runs all cells again does; then every import of every notebook in the clone.
READER = """
import ast, glob, json, os, sys
import google.colab
cell, places = open("cell.py").read(), []
for _ in range(2):
    exec(cell, {})
    places.append(os.path.relpath(os.getcwd(), google.colab.CONTENT))
for path in sorted(glob.glob("[0-9]*.ipynb")):
    for source in ("".join(c["source"]) for c in json.load(open(path))["cells"] if c["cell_type"] == "code"):
        found = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(found, []), path, "exec"), {})
import ddpo_utils, torch
print(json.dumps({"places": places, "torch": torch.__file__, "ddpo_utils": ddpo_utils.__file__}))
"""

pytestmark = pytest.mark.slow


def first_cell() -> str:
    return next(
        cell.source for cell in nbformat.read(NOTEBOOKS[0], 4).cells if cell.cell_type == "code"
    )


def with_what_they_need(names: list[str]) -> set[str]:
    """The installed packages among `names`, and all that they ask for."""
    found, waiting = set(), [*names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            asked = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [r.name for r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where pip reaches no package index."""
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(tmp_path_factory.mktemp("p")),
    ]
    if subprocess.run([*probe, "hatchling"], capture_output=True, env=ENVIRONMENT).returncode:
        pytest.skip("pip reaches no package index")


@pytest.fixture(scope="module")
def colab(index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bare clone, `content` (where Colab works), and `venv`, which sees USUAL and google.colab."""
    base = tmp_path_factory.mktemp("colab")
    carried_out("git", "clone", "--quiet", "--bare", ROOT, base / "remote.git")
    (base / "content").mkdir()
    usual = base / "usual"
    (usual / "google" / "colab").mkdir(parents=True)
    (usual / "google" / "colab" / "__init__.py").write_text(
        f"CONTENT = {str(base / 'content')!r}\n"
    )
    site = Path(sysconfig.get_path("purelib"))
    for name in with_what_they_need(USUAL):
        for top in {file.parts[0] for file in distribution(name).files} - {
            "..",
            "__pycache__",
            "google",
        }:
            if not (usual / top).exists():
                (usual / top).symlink_to(site / top)
    carried_out(sys.executable, "-m", "venv", base / "venv")
    own = carried_out(
        base / "venv/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    (Path(own) / "usual.pth").write_text(str(usual))
    return base


@pytest.mark.skipif(
    sys.platform == "win32", reason="Colab is Linux, and the simulation links folders"
)
def test_the_first_cell_makes_every_notebook_s_imports_work_and_keeps_torch(colab: Path) -> None:
    cell = ADDRESS.sub(f'REPOSITORY = "file://{colab / "remote.git"}"', first_cell())
    (colab / "content" / "cell.py").write_text(cell)
    for start in ("first", "after a restart of the runtime, which keeps the files"):
        lines = carried_out(
            colab / "venv/bin/python", "-c", READER, cwd=colab / "content"
        ).splitlines()
        told = json.loads(lines[-1])
        assert told["places"] == ["ddpo-course/notebooks"] * 2, (
            start,
            "run again, the cell goes elsewhere",
        )
    assert not (colab / "content/ddpo-course/notebooks/ddpo-course").exists(), (
        "run again, it clones once more"
    )
    assert Path(told["ddpo_utils"]).is_relative_to(colab / "content/ddpo-course")
    assert Path(told["torch"]).is_relative_to(colab / "usual"), (
        "another torch was installed over Colab's"
    )
    assert not list((colab / "venv").rglob("site-packages/torch"))


def test_without_an_address_the_cell_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "__init__.py").touch()
    code = "import google.colab\n" + ADDRESS.sub('REPOSITORY = ""', first_cell())
    options = {
        "cwd": tmp_path,
        "capture_output": True,
        "text": True,
        "env": ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
    }
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode and "make colab" in done.stderr and "Traceback" not in done.stderr


def test_every_notebook_has_the_same_first_cell_and_elsewhere_it_does_nothing(
    tmp_path: Path,
) -> None:
    cells = {
        next(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")
        for path in NOTEBOOKS
    }
    assert len(cells) == 1
    carried_out(sys.executable, "-c", cells.pop(), cwd=tmp_path)
    assert not list(tmp_path.iterdir())
