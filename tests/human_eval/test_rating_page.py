"""The page for raters as a file; what it does in a browser is tested in tests/slow."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from ddpo_utils.human_eval.comparisons import QUESTIONS, Comparisons, build_comparisons
from ddpo_utils.human_eval.page import write_page

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "\u2028\u2029\x00\x0b",
    "é 🙂 אב",
    "&lt;b&gt; & \"'`",
    "@STYLE@ @SCRIPT@ @COMPARISONS@",
    "\\u003c ${1} \\",
]


class Elements(HTMLParser):
    """The elements of a page and the text in each, as a browser tells them apart."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}, ""))  # what follows is no text of that element

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for found, attributes, text in self.found if found == tag]


@pytest.fixture
def comparisons() -> Comparisons:
    sides = []
    for texts in (HOSTILE[:4], HOSTILE[4:]):
        sides.append(pd.DataFrame({"prompt_id": "p", "prompt": HOSTILE[0], "text": texts}))
    return build_comparisons(*sides, ("secretive-one", "secretive-two"))[0]


@pytest.fixture
def page(comparisons: Comparisons, tmp_path: Path) -> str:
    return write_page(comparisons, tmp_path / "new" / "page.html").read_text(encoding="utf-8")


def test_every_text_arrives_and_none_becomes_an_element(comparisons, page: str) -> None:
    scripts = Elements(page).all("script")
    assert [attributes.get("type") for attributes, _ in scripts] == ["application/json", None]
    data = scripts[0][1]
    content = {"id": comparisons.id, "shown": "whole", "questions": QUESTIONS}
    assert json.loads(data) == content | {"items": comparisons.items}
    assert data.isascii()
    assert "secretive" not in page


def test_the_policy_allows_this_script_and_this_style_alone(page: str) -> None:
    elements = Elements(page)
    (policy,) = (a["content"] for a, _ in elements.all("meta") if a.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("style", "script"):
        digest = hashlib.sha256(elements.all(tag)[-1][1].encode()).digest()
        assert rules.pop(f"{tag}-src") == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert not {rule for rule in rules if rule.endswith("-src")} - {"default-src"}


def test_the_page_names_nothing_outside_itself(page: str) -> None:
    elements = Elements(page)
    code = elements.all("style")[0][1] + elements.all("script")[1][1]
    outside = r"https?:|//\w+\.|@import|url\(|fetch\(|XMLHttp|WebSocket|innerHTML|eval\("
    assert not re.search(outside, code)
    for tag, attributes, _ in elements.found:
        assert not {"src", "href", "style", "action"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
