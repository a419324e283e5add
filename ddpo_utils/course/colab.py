"""The address of this clone's git remote, written where readers start from: Colab cells, and badges that open them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ..settings import CourseError
from .notebook_inputs import ADDRESS
from .notebooks import find_notebooks, write_notebook

__all__ = ["web_address", "write_address"]

GITHUB, COLAB = "https://github.com/", "https://colab.research.google.com/"
MARKS = re.compile(r"(<!-- colab -->\n).*?(<!-- /colab -->)", re.DOTALL)
BADGE = "colab-badge"  # id of the text cell that is put on the top of each notebook


def _git(root: Path, *arguments: str) -> str:
    """What git prints, without blanks at its ends; "" where it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def _remote(root: Path) -> str:
    names = _git(root, "remote").split()
    if not names:
        raise CourseError(
            "This clone has no git remote: publish it, `git remote add origin ADDRESS`, and try again."
        )
    return "origin" if "origin" in names else names[0]


def web_address(root: Path) -> str:
    """This clone's git remote in its https form, without any password that it holds."""
    name = _remote(root)
    remote = _git(root, "remote", "get-url", name)
    match = re.fullmatch(
        r"(?:https?://|ssh://)?(?:[^@/]+@)?([\w.-]+\.\w+)(?::\d+)?[:/](.+?)(?:\.git)?/?", remote
    )
    if not match:
        raise CourseError(
            f"The git remote {name!r} is no address on the web: Colab can only clone one that is."
        )
    return f"https://{match[1]}/{match[2].strip('/')}"


def _links(root: Path, address: str) -> dict[Path, str]:
    """Where Colab opens each notebook, on the remote's default branch (else the present one); none but from GitHub."""
    if not address.startswith(GITHUB):
        return {}
    name = _remote(root)
    head = _git(root, "rev-parse", "--abbrev-ref", f"{name}/HEAD").removeprefix(f"{name}/")
    branch = head or _git(root, "branch", "--show-current") or "main"
    base = f"{COLAB}github/{address.removeprefix(GITHUB)}/blob/{branch}/"
    return {path: base + path.relative_to(root).as_posix() for path in find_notebooks(root)}


def _image(name: str, link: str) -> str:
    return f"[![Open {name} in Colab]({COLAB}assets/colab-badge.svg)]({link})"


def _put_badge(notebook: Any, badge: str) -> None:
    """The badge as the notebook's first cell, in place of an earlier one; without a badge, no such cell."""
    from nbformat.v4 import new_markdown_cell

    notebook.cells = [cell for cell in notebook.cells if cell.id != BADGE]
    if badge:
        notebook.cells.insert(0, new_markdown_cell(badge, id=BADGE))


def _write_readme(readme: Path, links: dict[Path, str]) -> None:
    """A badge that opens the first notebook and links to all, between two marks, which are set below the title."""
    text = readme.read_text(encoding="utf-8")
    if not MARKS.search(text):
        if not links:
            return
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n<!-- colab -->\n<!-- /colab -->\n{rest}"
    line = ""
    if links:
        numbers = " ".join(f"[{path.stem[:2]}]({link})" for path, link in links.items())
        line = f"{_image('the course', next(iter(links.values())))} {numbers}\n"
    scratch = readme.with_suffix(".part")
    scratch.write_text(
        MARKS.sub(lambda marks: marks[1] + line + marks[2], text), encoding="utf-8", newline="\n"
    )
    os.replace(scratch, readme)


def write_address(root: Path) -> str:
    """Write the clone's own address into every notebook's Colab cell, and badges onto the notebooks and the README.

    Colab opens notebooks of GitHub alone: with another remote there are no badges, and earlier ones are taken away.
    Called again, it changes nothing.

    Returns:
        The address.

    Raises:
        CourseError: the clone has no git remote, or one that is not on the web; nothing is changed.
    """
    import nbformat

    address = web_address(root)
    links = _links(root, address)
    for path in find_notebooks(root):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = ADDRESS.sub(f'REPOSITORY = "{address}"', cell.source)
        _put_badge(notebook, _image(path.stem, links[path]) if links else "")
        write_notebook(path, notebook)
    if (root / "README.md").is_file():
        _write_readme(root / "README.md", links)
    return address
