"""The comparisons as one HTML file for raters without Python: it opens in any browser and asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from importlib.resources import files
from pathlib import Path

from .comparisons import QUESTIONS, Comparisons

__all__ = ["write_page"]


def _hash(template: str, tag: str) -> str:
    """The one inline style or script of the template, as a Content-Security-Policy names it."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def write_page(comparisons: Comparisons, path: str | Path) -> Path:
    """Write the rating page, whole or not at all.

    The page keeps every choice in the browser at once and hands the answers over as a download, which
    `ratings.read_ratings` reads: `<rater>-<first six of the comparisons' id>.json`. Its Content-Security-Policy allows
    its own script and style, by their hashes, and nothing else; the texts are data in it and are never read as HTML.

    Args:
        comparisons: what is rated; the page holds nothing else, and no key.
        path: of the file, which may be sent to raters.

    Returns:
        The path.
    """
    template = files(__package__).joinpath("rating_page.html").read_text(encoding="utf-8")
    content = {
        "id": comparisons.id,
        "shown": comparisons.shown,
        "questions": QUESTIONS,
        "items": comparisons.items,
    }
    # In ASCII and without "<", no text can end the element that it stands in.
    data = json.dumps(content).replace("<", "\\u003c")
    page = template.replace("@STYLE@", _hash(template, "style")).replace(
        "@SCRIPT@", _hash(template, "script")
    )
    head, tail = page.split("@COMPARISONS@")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(head + data + tail, encoding="utf-8", newline="\n")
    os.replace(part, path)
    return path
