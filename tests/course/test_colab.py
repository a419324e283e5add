"""The address that `make colab` writes, and the badges: on copies of the course's notebooks, in a git repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import torch

from ddpo_utils.course.colab import web_address, write_address
from ddpo_utils.course.notebook_inputs import ADDRESS, inputs_digest
from ddpo_utils.models.policy import number_type
from ddpo_utils.settings import CourseError, get_profile
from ddpo_utils.training.recipes import trainer_arguments
from ddpo_utils.training.runs import process

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
GITHUB = "https://github.com/someone/ddpo"
OPEN = re.compile(r"\]\((https://colab\.research\.google\.com/github/[^)]*)\)")


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (*root.glob("notebooks/*.ipynb"), root / "README.md")
    }


def digests(root: Path) -> list[str]:
    return [
        inputs_digest(nbformat.read(path, 4), ROOT / "data")
        for path in sorted(root.glob("notebooks/*.ipynb"))
    ]


def addresses(path: Path) -> list[str]:
    cells = nbformat.read(path, 4).cells
    return [
        match[0]
        for cell in cells
        if cell.cell_type == "code" and (match := ADDRESS.search(cell.source))
    ]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Two of the course's own notebooks without outputs, an address or a badge, and a README; no remote yet."""
    (tmp_path / "notebooks").mkdir()
    for path in NOTEBOOKS[:2]:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell.id != "colab-badge"]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.source = [], ADDRESS.sub('REPOSITORY = ""', cell.source)
        nbformat.write(notebook, tmp_path / "notebooks" / path.name)
    (tmp_path / "README.md").write_text("# Title\n\nText.\n")
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
def test_the_address_and_badges_of_each_remote(clone: Path, remote: str, address: str) -> None:
    before = digests(clone)
    git(clone, "remote", "add", "origin", remote)
    assert write_address(clone) == address
    assert digests(clone) == before, "outputs would be called stale"
    first = contents(clone)
    assert write_address(clone) == address
    assert contents(clone) == first, "called again, it changes something"
    assert b"secret" not in b"".join(first.values())
    names = [path.name for path in NOTEBOOKS[:2]]
    links = [
        f"https://colab.research.google.com/github/someone/ddpo/blob/trunk/notebooks/{name}"
        for name in names
    ]
    for name, link in zip(names, links, strict=True):
        path = clone / "notebooks" / name
        nbformat.validate(nbformat.read(path, 4))
        assert addresses(path) == [f'REPOSITORY = "{address}"']
        top = nbformat.read(path, 4).cells[0]
        assert OPEN.findall(top.source) == ([link] if address == GITHUB else [])
        assert top.source.startswith("[![Open " if address == GITHUB else "# ")
    readme = (clone / "README.md").read_text()
    assert OPEN.findall(readme) == ([links[0], *links] if address == GITHUB else [])
    assert readme.startswith("# Title\n") and readme.endswith("Text.\n")
    assert address == GITHUB or readme == "# Title\n\nText.\n", (
        "without badges the README stays as it is"
    )


def test_badges_are_taken_away_with_the_remote_that_they_named(clone: Path) -> None:
    git(clone, "remote", "add", "origin", GITHUB)
    write_address(clone)
    assert b"colab-badge.svg" in b"".join(contents(clone).values())
    git(clone, "remote", "set-url", "origin", "https://example.org/someone/ddpo")
    write_address(clone)
    assert b"colab-badge.svg" not in b"".join(contents(clone).values())
    assert b"github.com" not in b"".join(contents(clone).values())


def test_badges_lead_to_the_remote_s_default_branch(clone: Path) -> None:
    git(clone, "remote", "add", "origin", GITHUB)
    git(
        clone,
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "first",
    )
    git(clone, "update-ref", "refs/remotes/origin/stable", "HEAD")
    git(clone, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/stable")
    write_address(clone)
    links = OPEN.findall((clone / "README.md").read_text())
    assert links and all("/ddpo/blob/stable/notebooks/" in link for link in links)


@pytest.mark.parametrize(
    ("remote", "reason"), [("", "no git remote"), ("a folder", "no address on the web")]
)
def test_without_an_address_nothing_is_changed(clone: Path, remote: str, reason: str) -> None:
    before = contents(clone)
    if remote:
        git(clone, "remote", "add", "origin", str(clone))
    with pytest.raises(CourseError, match=reason):
        web_address(clone)
    with pytest.raises(CourseError, match=reason):
        write_address(clone)
    assert contents(clone) == before


def test_the_course_itself_holds_no_dead_link() -> None:
    """Every notebook names the same address; badges lead to that one, and there are none while it is unknown."""
    (address,) = {line for path in NOTEBOOKS for line in addresses(path)}
    address = address.split('"')[1]
    home = (
        address.replace("https://github.com/", "https://colab.research.google.com/github/")
        + "/blob/"
    )
    cells = {path: nbformat.read(path, 4).cells for path in NOTEBOOKS}
    texts = {path: "".join(cell.source for cell in own) for path, own in cells.items()}
    for path in (*NOTEBOOKS, ROOT / "README.md"):
        links = OPEN.findall(texts.get(path) or path.read_text("utf-8"))
        assert bool(links) == address.startswith("https://github.com/"), (
            f"{path.name}: run `make colab`"
        )
        assert all(link.startswith(home) for link in links), f"{path.name}: run `make colab`"
        if path in texts:
            assert all(link.endswith(f"/notebooks/{path.name}") for link in links), (
                f"{path.name}: run `make colab`"
            )


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_a_t4_trains_in_fp16_and_newer_cards_in_bf16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    """The card itself is not here: what it says of itself is put in its place."""
    process()  # finds this machine's devices before another is pretended
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    profile = get_profile("colab")
    assert number_type(profile) == dtype
    asked = trainer_arguments(dict, tmp_path, profile)
    assert asked["fp16"] == (dtype == torch.float16) and asked["bf16"] == (dtype == torch.bfloat16)
    assert not asked["use_cpu"]
