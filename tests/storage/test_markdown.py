"""Text of data in Markdown is only text, whatever it holds."""

from __future__ import annotations

import re
from html import unescape

import pytest
from nbconvert.filters import markdown2html

from ddpo_utils.storage.markdown import markdown_table, markdown_text, printable

TAGS = {"p", "table", "thead", "tbody", "tr", "th", "td"}
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</td></table><script>alert(1)</script>",
    "[a](javascript:alert(1)) ![b](http://example.org/x.png)",
    "a | b `c` *d* ~~e~~ $f$ \\(g\\) &lt;h&gt;",
    "one\n\n# two\n- three",
    "\x1b[31mred\x07 \u202edesrever\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_of_a_table_shows_its_text(text: str) -> None:
    html = markdown2html(f"{markdown_text(text)}\n\n{markdown_table(['a', text], [[text, 1]])}")
    assert set(re.findall(r"<(\w+)", html)) <= TAGS and html.count("<td>") == 2
    paragraph = re.search(r"<p>(.*?)</p>", html, re.DOTALL)[1]
    assert unescape(paragraph).split() == printable(text).split()


def test_one_line_without_control_characters() -> None:
    assert printable("a\x1b[2Jb\nc\td\u2028é語", keep="\n") == "a [2Jb\nc d é語"
