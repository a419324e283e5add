"""Runs the notebooks and stores their outputs in notebooks/, with a digest of what made them.

python notebooks/make/stored_outputs.py [01 03 ...]      `make notebooks` runs all of them
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat

from ddpo_utils.course.notebooks import course_root, has_tag, read_notebook, run
from ddpo_utils.settings import CourseError, get_profile
from ddpo_utils.storage.files import write_text

ADDRESS = re.compile(r'^REPOSITORY = "[^"\n]*"', re.MULTILINE)  # in the Colab cell
TEXT_SUFFIXES = {".csv", ".json", ".jsonl", ".md", ".txt", ".yaml"}
NEVER_READ = ("make/", "results/benchmarks.json", "results/training.json")
# Files below data/ that only notebooks with a certain word in their code read.
READ_BY = {
    "claims.json": "load_world",
    "published.csv": "published.csv",
    "results/influence.json": "influence.json",
    "results/novelty.json": "novelty.json",
    "second_round.json": "load_second_round",
    "results/second_round": "load_second_round",
    "tiny_stories.json": "tiny_stories",
    "results/tiny_stories": "load_tiny_stories",
    "results/world": "load_world",
    "results/rivals": "load_rivals",
    "contrasts.jsonl": "trust_table",
    "results/measures": "trust_table",
    "ratings/": "read_labels",
    "your_own/": "your_own",
}
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@lru_cache(maxsize=8)
def data_digest(folder: Path, unread: tuple[str, ...] = ()) -> str:
    """SHA-256 of names and contents of the files below `folder`, whatever their line ends; cached.

    Left out: README.md, hidden files, NEVER_READ, and names that begin with one of `unread`.
    """
    digest = hashlib.sha256()
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in sorted(paths.items()):
        hidden = "/." in f"/{name}" or path.name == "README.md"
        if hidden or name.startswith((*NEVER_READ, *unread)) or not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix in TEXT_SUFFIXES:
            content = content.replace(b"\r\n", b"\n")
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def inputs_digest(notebook: Any, data: Path) -> str:
    """SHA-256 of what the outputs come from: the sources of code cells, and the files in `data`.

    The Colab cell and exercises are left out: they change no output.
    """
    sources = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and not has_tag(cell, "exercise"):
            source = cell.source.replace("\r\n", "\n")
            if not ADDRESS.search(source):
                sources.append(source)
    text = "\0".join(sources)
    unread = tuple(name for name, word in READ_BY.items() if word not in text)
    digest = hashlib.sha256(data_digest(data, unread).encode())
    for source in sources:
        digest.update(b"\0" + source.encode())
    return digest.hexdigest()


def store_outputs(path: Path, executed: Path, data: Path) -> None:
    """Store outputs and counts of an executed copy in the notebook, with its inputs' digest.

    Ids, tags and sources stay. Widgets, timings and the machine's metadata are left out.

    Raises:
        CourseError: the copy was made from other sources.
    """
    notebook = read_notebook(path)
    copy = read_notebook(executed)
    done = [cell for cell in copy.cells if not has_tag(cell, "injected-parameters")]
    cells = [cell for cell in notebook.cells if not has_tag(cell, "exercise")]
    if [cell.source for cell in done] != [cell.source for cell in cells]:
        raise CourseError(f"{path.name} was changed while it ran: run `make notebooks` again.")
    count = 0
    for cell, executed_cell in zip(cells, done, strict=True):
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [output for output in executed_cell.outputs if not _is_widget(output)]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
        for trace in ("papermill", "execution"):
            cell.metadata.pop(trace, None)
    stamp = {"ddpo": {"inputs": inputs_digest(notebook, data)}}
    notebook.metadata = nbformat.from_dict(METADATA | stamp)
    write_notebook(path, notebook)
    for name, picture in readme_figures(notebook).items():
        target = path.parent / "figures" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(picture)


def _is_widget(output: Any) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def readme_figures(notebook: Any) -> dict[str, bytes]:
    """File name and PNG of the first picture of each cell with a tag `figure:<name>`."""
    figures = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            kind, _, name = tag.partition(":")
            if kind == "figure":
                data = [output.get("data", {}) for output in cell.outputs]
                pictures = [formats["image/png"] for formats in data if "image/png" in formats]
                figures[f"{name}.png"] = base64.b64decode(pictures[0])
    return figures


def write_notebook(path: Path, notebook: Any) -> None:
    """Store the notebook in one step."""
    write_text(path, nbformat.writes(notebook).removesuffix("\n") + "\n")


def main() -> bool:
    """Run the notebooks in the profile laptop and store what passed; true if all passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebooks", help="some of them, such as 01 03", nargs="*")
    data = course_root() / "data"

    def store(path: Path, executed: Path) -> None:
        store_outputs(path, executed, data)

    return run(get_profile("laptop"), parser.parse_args().notebooks, store)


if __name__ == "__main__":
    try:
        sys.exit(not main())
    except (CourseError, OSError) as fault:
        sys.exit(f"error: {fault}")
