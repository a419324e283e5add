"""The page for raters as a file; what it does in a browser is tested in tests/slow."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup

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


@pytest.fixture
def comparisons() -> Comparisons:
    sides = []
    for texts in (HOSTILE[:4], HOSTILE[4:]):
        sides.append(pd.DataFrame({"prompt_id": "p", "prompt": HOSTILE[0], "text": texts}))
    return build_comparisons(*sides, ("secretive-one", "secretive-two"))[0]


@pytest.fixture
def page(comparisons: Comparisons, tmp_path: Path) -> BeautifulSoup:
    path = write_page(comparisons, tmp_path / "new" / "page.html")
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def test_every_text_arrives_and_none_becomes_an_element(comparisons, page) -> None:
    data, code = page.find_all("script")
    assert (data["type"], code.attrs) == ("application/json", {})
    content = {"id": comparisons.id, "shown": "whole", "questions": QUESTIONS}
    assert json.loads(data.string) == content | {"items": comparisons.items}
    assert data.string.isascii()
    assert "secretive" not in str(page)


def test_the_policy_allows_this_script_and_this_style_alone(page) -> None:
    policy = page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("style", "script"):
        content = page.find_all(tag)[-1].string
        digest = hashlib.sha256(content.encode()).digest()
        assert rules.pop(f"{tag}-src") == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert not {rule for rule in rules if rule.endswith("-src")} - {"default-src"}


def test_the_page_names_nothing_outside_itself(page) -> None:
    code = page.style.string + page.find_all("script")[1].string
    outside = r"https?:|//\w+\.|@import|url\(|fetch\(|XMLHttp|WebSocket|innerHTML|eval\("
    assert not re.search(outside, code)
    for element in page.find_all(True):
        assert not {"src", "href", "style", "action"} & element.attrs.keys(), element
        assert not [name for name in element.attrs if name.startswith("on")], element
