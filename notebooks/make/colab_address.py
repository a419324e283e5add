"""Writes this clone's web address into pyproject.toml and the notebooks' Colab cells: make colab

Notebooks and README get badges if the remote `origin` is on GitHub, which Colab can open; earlier
badges are removed. Called again, it changes nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from nbformat.v4 import new_markdown_cell

from ddpo_utils.course.notebooks import course_root, find_notebooks, read_notebook
from ddpo_utils.settings import CourseError
from ddpo_utils.storage.files import write_text
from stored_outputs import ADDRESS, write_notebook

COLAB = "https://colab.research.google.com/"
BADGE = "colab-badge"  # id of the cell on top of each notebook
MARKS = re.compile(r"(<!-- colab -->\n).*?(<!-- /colab -->)", re.DOTALL)  # around README's badge
HOME = re.compile(r'^(Repository = )".*?"', re.MULTILINE)  # in pyproject.toml
# Only what needs no quoting in code, Markdown and links; a password before the @ is dropped.
URL = r"(?:https?://|ssh://)?(?:[^@/]+@)?([\w.-]+\.\w+)(?::\d+)?[:/]([\w.~/-]+?)(?:\.git)?/?"


def write_address(root: Path) -> str:
    """Write the address of `origin` into the clone at `root`, and return it.

    Raises:
        CourseError: there is no remote `origin` on the web; nothing is changed.
    """
    match = re.fullmatch(URL, _git(root, "remote", "get-url", "origin"), re.ASCII)
    if not match:
        raise CourseError(
            "This clone has no remote on the web, or one whose address holds other characters than "
            "letters, digits and . _ ~ / -: publish it, then `git remote add origin ADDRESS`."
        )
    host, name = match[1], match[2].strip("/")
    address = f"https://{host}/{name}"  # without a password
    head = _git(root, "rev-parse", "--abbrev-ref", "origin/HEAD").removeprefix("origin/")
    branch = quote(head or _git(root, "branch", "--show-current") or "main")
    image = f"in Colab]({COLAB}assets/colab-badge.svg)]"
    links = {}
    for path in find_notebooks(root):
        notebook = read_notebook(path)
        notebook.cells = [cell for cell in notebook.cells if cell.id != BADGE]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = ADDRESS.sub(f'REPOSITORY = "{address}"', cell.source)
        if host == "github.com":
            links[path.stem] = f"{COLAB}github/{name}/blob/{branch}/notebooks/{path.name}"
            badge = f"[![Open {path.stem} {image}({links[path.stem]})"
            notebook.cells.insert(0, new_markdown_cell(badge, id=BADGE))
        write_notebook(path, notebook)
    manifest = root / "pyproject.toml"
    write_text(manifest, HOME.sub(rf'\1"{address}"', manifest.read_text(encoding="utf-8")))
    line = ""
    if links:
        numbers = " ".join(f"[{stem[:2]}]({link})" for stem, link in links.items())
        line = f"[![Open the course {image}({next(iter(links.values()))}) {numbers}\n"
    _write_readme_line(root / "README.md", line)
    return address


def _git(root: Path, *arguments: str) -> str:
    """What git prints; "" if it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def _write_readme_line(path: Path, line: str) -> None:
    """Put the line between the README's marks, which are made under its title for the first one."""
    text = path.read_text(encoding="utf-8")
    if line and not MARKS.search(text):
        text = text.replace("\n", "\n\n<!-- colab -->\n<!-- /colab -->\n", 1)
    write_text(path, MARKS.sub(rf"\g<1>{line}\g<2>", text))


if __name__ == "__main__":
    try:
        print(f"The notebooks' Colab cells now name {write_address(course_root())}.")
    except (CourseError, OSError) as fault:
        sys.exit(f"error: {fault}")
