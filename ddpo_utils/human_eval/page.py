"""The comparisons as one HTML file for raters without Python: any browser, no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from ..storage.files import write_text
from .comparisons import QUESTIONS, Comparisons


def _policy_hash(template: str, tag: str) -> str:
    """The template's one inline style or script, as a Content-Security-Policy names it."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def write_page(comparisons: Comparisons, path: str | Path) -> Path:
    """The path of the rating page, a file that needs no network and holds no key.

    It keeps every choice in the browser at once and hands the answers over as a download, which
    `ratings.read_ratings` reads. Its Content-Security-Policy allows its own script and style, by
    their hashes, and nothing else; texts are data in it and never HTML.
    """
    template = files(__package__).joinpath("rating_page.html").read_text(encoding="utf-8")
    for tag in ("style", "script"):
        template = template.replace(f"@{tag.upper()}@", _policy_hash(template, tag))
    # In ASCII and without "<", no text can end the element that holds it.
    data = json.dumps(asdict(comparisons) | {"questions": QUESTIONS}).replace("<", "\\u003c")
    head, tail = template.split("@COMPARISONS@")
    write_text(path, head + data + tail)
    return Path(path)
