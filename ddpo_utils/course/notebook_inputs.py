"""What a notebook's stored outputs come from, as one hash: when it changes, they are stale."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["ADDRESS", "data_digest", "inputs_digest", "is_exercise"]

TEXT = {".csv", ".json", ".jsonl", ".md", ".txt", ".yaml"}
ADDRESS = re.compile(r'^REPOSITORY = "[^"\n]*"', re.MULTILINE)
UNREAD = {
    "results/benchmarks.json",
    "results/training.json",
}  # no notebook reads them: a new row makes none stale
# these make stale those notebooks alone whose code holds the word: the beginning of the file's name -> the word
READ_BY = {
    "claims.json": "load_world",
    "results/world": "load_world",
    "results/rivals": "load_world",
    "contrasts.jsonl": "trust_table",
    "results/measures": "trust_table",
    "ratings/": "read_labels",
    "your_own/": "your_own",
}


@lru_cache(maxsize=8)
def data_digest(folder: Path, unread: tuple[str, ...] = ()) -> str:
    """SHA-256 of names and contents of all files below `folder`, but for README.md, hidden files, UNREAD ones and what
    begins with one of `unread`.

    Neither git's line endings nor the file system's order changes it. Kept for the life of the process.
    """
    digest = hashlib.sha256()
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    for name in sorted(files):
        if (
            files[name].name == "README.md"
            or name in UNREAD
            or any(part.startswith(".") for part in name.split("/"))
        ):
            continue
        if name.startswith(unread):
            continue
        content = files[name].read_bytes()
        if files[name].suffix in TEXT:
            content = content.replace(b"\r\n", b"\n")
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def inputs_digest(notebook: Any, data: Path) -> str:
    """SHA-256 of what a notebook's outputs come from: the sources of its code cells, and the files in `data`.

    The Colab cell is left out, which does nothing elsewhere, and so are exercises: they change no output.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and not is_exercise(cell)]
    sources = [
        cell.source.replace("\r\n", "\n") for cell in code if not ADDRESS.search(cell.source)
    ]
    unread = tuple(
        name for name, word in READ_BY.items() if not any(word in source for source in sources)
    )
    digest = hashlib.sha256(data_digest(data, unread).encode())
    for source in sources:
        digest.update(b"\0" + source.encode())
    return digest.hexdigest()


def is_exercise(cell: Any) -> bool:
    """Whether the learner has to fill the cell in: it is not run here, and its solution is."""
    return "exercise" in cell.metadata.get("tags", [])
