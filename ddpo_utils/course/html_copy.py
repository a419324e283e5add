"""A notebook as HTML that runs no script and loads nothing."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from pathlib import Path

from ..storage.files import write_text

__all__ = ["write_html"]

# A browser obeys the policy: text of data that got into the page as markup could not run.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
TEMPLATE = (
    """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}<meta http-equiv="Content-Security-Policy" content="POLICY">{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block data_png %}{% set alt = output | get_metadata('alt', 'image/png') or '' %}
{{- super() | replace('<img ', '<img alt="' ~ (alt | escape_html) ~ '" ', 1) -}}{% endblock %}"""
).replace("POLICY", POLICY)
# Code is matched first, so that a dollar sign in it begins no formula.
FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
SPELLINGS = (  # what matplotlib does not read, and how it may be written instead
    (r"\\(d?frac)\s*(\w)(\w)", r"\\\1{\2}{\3}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\[bB]igg?", ""),
)


def write_html(path: Path) -> None:
    """Write the notebook as HTML beside it; formulas become pictures with their TeX beside them."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_drawn, cell.source)
    html, _ = HTMLExporter(raw_template=TEMPLATE).from_notebook_node(
        notebook, {"metadata": {"name": path.stem}}
    )
    write_text(path.with_suffix(".html"), html)


def _drawn(match: re.Match[str]) -> str:
    """A formula as an SVG picture; as code where matplotlib cannot draw it."""
    from matplotlib.mathtext import math_to_image

    code, display, inline = match.groups()
    if code:
        return code
    tex = " ".join((display or inline).split())
    spelled = tex.replace(r"\frac", r"\dfrac") if display else tex
    for old, new in SPELLINGS:
        spelled = re.sub(old, new, spelled)
    picture = io.BytesIO()
    try:
        depth = math_to_image(f"${spelled}$", picture, format="svg")
    except ValueError:
        return f"`{tex}`"
    data = base64.b64encode(picture.getvalue()).decode()
    image = (
        f'<img alt="{escape(tex)}" src="data:image/svg+xml;base64,{data}" '
        f'style="display:inline;vertical-align:-{depth:.1f}pt">'
    )
    return f'<div style="text-align:center">{image}</div>' if display else image
