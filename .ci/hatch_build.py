"""Build hook: the README of a wheel links to the repository, also from outside of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)]+)\)")


def absolute(text: str, home: str) -> str:
    """The Markdown with each link to a file of the repository at the address `home`."""

    def link(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        return f"{picture}{label}({home}/{'raw' if picture else 'blob'}/main/{path})"

    return LINK.sub(link, text)


class ReadmeHook(MetadataHookInterface):
    """Fills in `readme`; the address stands in pyproject.toml alone."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata["urls"]["Repository"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
