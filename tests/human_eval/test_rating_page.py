"""The page for raters as a file; what it does in a browser is tested in tests/slow."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pandas as pd
from bs4 import BeautifulSoup

from ddpo_utils.human_eval.comparisons import QUESTIONS, build_comparisons
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
OUTSIDE = r"https?:|//\w+\.|@import|url\(|fetch\(|XMLHttp|WebSocket|innerHTML|eval\("


def test_texts_arrive_as_data_and_the_page_runs_and_loads_nothing_else(tmp_path: Path) -> None:
    sides = []
    for texts in (HOSTILE[:4], HOSTILE[4:]):
        sides.append(pd.DataFrame({"prompt_id": "p", "prompt": HOSTILE[0], "text": texts}))
    comparisons, _ = build_comparisons(*sides, ("secretive-one", "secretive-two"))
    path = write_page(comparisons, tmp_path / "new" / "page.html")
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    data, code = page.find_all("script")
    assert (data["type"], code.attrs) == ("application/json", {})
    content = {"id": comparisons.id, "shown": "whole", "questions": QUESTIONS}
    assert json.loads(data.string) == content | {"items": comparisons.items}
    assert data.string.isascii()
    assert "secretive" not in str(page)
    policy = page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for element in (page.style, code):
        digest = hashlib.sha256(element.string.encode()).digest()
        allowed = f"'sha256-{base64.b64encode(digest).decode()}'"
        assert rules.pop(f"{element.name}-src") == allowed
        assert not re.search(OUTSIDE, element.string)
    assert not {rule for rule in rules if rule.endswith("-src")} - {"default-src"}
    for element in page.find_all(True):
        assert not {"src", "href", "style", "action"} & element.attrs.keys(), element
        assert not [name for name in element.attrs if name.startswith("on")], element
