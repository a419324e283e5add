"""The address of a clone in the notebooks' Colab cells, and the badges."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest

import colab_address
from colab_address import write_address
from ddpo_utils.settings import CourseError
from stored_outputs import ADDRESS, inputs_digest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
GITHUB = "https://github.com/someone/ddpo"
COLAB_LINK = re.compile(r"\]\((https://colab\.research\.google\.com/github/[^)]*)\)")


def git(root: Path, *arguments: str) -> None:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def contents(root: Path) -> dict[str, bytes]:
    paths = (*root.glob("notebooks/*.ipynb"), root / "README.md")
    return {path.name: path.read_bytes() for path in paths}


def addresses(path: Path) -> list[str]:
    sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return [match[0].split('"')[1] for match in map(ADDRESS.search, sources) if match]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Two of the notebooks without outputs, address or badge, and a README; no remote yet."""
    (tmp_path / "notebooks").mkdir()
    for path in NOTEBOOKS[:2]:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell.id != colab_address.BADGE]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.source = [], ADDRESS.sub('REPOSITORY = ""', cell.source)
        nbformat.write(notebook, tmp_path / "notebooks" / path.name)
    (tmp_path / "README.md").write_text("# Title\n\nText.\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    git(tmp_path, "init", "-q", "-b", "trunk")
    return tmp_path


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/someone/ddpo.git", GITHUB),
        ("git@github.com:someone/ddpo.git", GITHUB),
        ("ssh://git@example.org:2222/group/sub/ddpo", "https://example.org/group/sub/ddpo"),
        ("https://user:secret@example.org/someone/ddpo/", "https://example.org/someone/ddpo"),
    ],
)
def test_address_and_badges_of_each_remote(clone: Path, remote: str, address: str) -> None:
    paths = sorted((clone / "notebooks").iterdir())
    before = [inputs_digest(nbformat.read(path, 4), ROOT / "data") for path in paths]
    git(clone, "remote", "add", "origin", remote)
    assert write_address(clone) == address
    assert [inputs_digest(nbformat.read(path, 4), ROOT / "data") for path in paths] == before
    first = contents(clone)
    assert write_address(clone) == address and contents(clone) == first
    assert b"secret" not in b"".join(first.values())
    base = "https://colab.research.google.com/github/someone/ddpo/blob/trunk/notebooks/"
    links = [base + path.name for path in paths] if address == GITHUB else []
    for place, path in enumerate(paths):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert addresses(path) == [address]
        assert COLAB_LINK.findall(notebook.cells[0].source) == links[place : place + 1]
    readme = (clone / "README.md").read_text()
    assert COLAB_LINK.findall(readme) == links[:1] + links
    assert readme.startswith("# Title\n") and readme.endswith("Text.\n")
    manifest = tomllib.loads((clone / "pyproject.toml").read_text())
    assert manifest["project"]["urls"]["Repository"] == address


def test_badges_follow_the_remote_and_its_default_branch(clone: Path) -> None:
    git(clone, "remote", "add", "origin", GITHUB)
    git(clone, "commit", "-q", "--allow-empty", "-m", "first")
    git(clone, "update-ref", "refs/remotes/origin/stable", "HEAD")
    git(clone, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/stable")
    write_address(clone)
    assert "/ddpo/blob/stable/notebooks/" in (clone / "README.md").read_text()
    git(clone, "remote", "set-url", "origin", "https://example.org/someone/ddpo")
    write_address(clone)
    everything = b"".join(contents(clone).values())
    assert b"colab-badge.svg" not in everything and b"github.com" not in everything


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "/srv/course.git",
        'https://example.org/x"; import os; os.system("id") #',
        "https://example.org/someone/ddpo)](javascript:alert(1))",
        "https://exämple.org/someone/ddpo",
    ],
)
def test_without_a_plain_address_on_the_web_nothing_is_changed(clone: Path, remote: str) -> None:
    before = contents(clone)
    if remote:
        git(clone, "remote", "add", "origin", remote)
    with pytest.raises(CourseError):
        write_address(clone)
    assert contents(clone) == before


def test_a_notebook_without_cell_ids_gets_its_badge(clone: Path) -> None:
    git(clone, "remote", "add", "origin", GITHUB)
    path = next((clone / "notebooks").iterdir())
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        del cell["id"]
    path.write_text(json.dumps(notebook | {"nbformat_minor": 4}))
    write_address(clone)
    nbformat.validate(nbformat.read(path, 4))
    assert addresses(path) == [GITHUB] and path.read_text().count("colab-badge.svg") == 1
    path.write_text("[]")
    with pytest.raises(CourseError, match=path.name):
        write_address(clone)


def test_the_course_holds_no_dead_link() -> None:
    """All notebooks name one address; there are badges, and to that one, if it is on GitHub."""
    (address,) = {line for path in NOTEBOOKS for line in addresses(path)}
    home = address.replace("github.com", "colab.research.google.com/github") + "/blob/"
    for path in (*NOTEBOOKS, ROOT / "README.md"):
        links = COLAB_LINK.findall(path.read_text("utf-8"))
        assert bool(links) == address.startswith("https://github.com/"), f"{path.name}: make colab"
        assert all(link.startswith(home) for link in links), f"{path.name}: make colab"
