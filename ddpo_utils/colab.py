"""The address of this clone's git remote, written where readers start from: the Colab cells and the README's badges."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .notebook_inputs import ADDRESS
from .notebooks import find_notebooks, write_notebook
from .profiles import CourseError

__all__ = ["web_address", "write_address"]

BADGES = re.compile(r"(<!-- colab -->\n).*?(<!-- /colab -->)", re.DOTALL)


def web_address(root: Path) -> str:
    """This clone's git remote in its https form, without any password that it holds."""
    git = ["git", "-C", str(root), "remote"]
    names = subprocess.run(git, capture_output=True, text=True).stdout.split()
    if not names:
        raise CourseError("This clone has no git remote: publish it, `git remote add origin ADDRESS`, and try again.")
    name = "origin" if "origin" in names else names[0]
    remote = subprocess.run([*git, "get-url", name], capture_output=True, text=True).stdout.strip()
    match = re.fullmatch(r"(?:https?://|ssh://)?(?:[^@/]+@)?([\w.-]+\.\w+)(?::\d+)?[:/](.+?)(?:\.git)?/?", remote)
    if not match:
        raise CourseError(f"The git remote {name!r} is no address on the web: Colab can only clone one that is.")
    return f"https://{match[1]}/{match[2].strip('/')}"


def write_address(root: Path) -> str:
    """Write the clone's own address into every notebook's Colab cell, and badges between the README's markers.

    Returns:
        The address.

    Raises:
        CourseError: the clone has no git remote, or one that is not on the web.
    """
    import nbformat

    address = web_address(root)
    for path in find_notebooks(root):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = ADDRESS.sub(f'REPOSITORY = "{address}"', cell.source)
        write_notebook(path, notebook)
    readme = root / "README.md"
    if address.startswith("https://github.com/") and readme.is_file():
        colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
        badge = "[![Open {0} in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({1}/blob/main/{2})\n"
        badges = "".join(
            badge.format(path.stem, colab, path.relative_to(root).as_posix()) for path in find_notebooks(root)
        )
        text = readme.read_text(encoding="utf-8")
        readme.write_text(BADGES.sub(lambda marks: marks[1] + badges + marks[2], text), encoding="utf-8", newline="\n")
    return address
