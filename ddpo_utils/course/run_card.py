"""The run card: one page of Markdown from which others can judge a run and the claim on it.

Every figure comes from the run's records. People score the content of the claim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..storage.files import file_digest
from ..storage.markdown import markdown_table, markdown_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RUBRIC", "Claim", "claim_form", "run_card"]

RUBRIC = {
    "evidence": "It names the figure it rests on: what was measured, of how many prompts and "
    "samples.",
    "control": "It names the control that could have shown the same without deviation, and what "
    "that one showed.",
    "uncertainty": "It gives an interval, and does not call a difference shown where that includes "
    "0.",
    "limit": "It says what it is not about: these adapters, this data, what was not measured.",
}
FEWEST, MOST = 40, 150  # words in a claim of one paragraph
NUMBER = r"[-−+]?\d+(?:[.,]\d+)?"
INTERVAL = rf"\[\s*{NUMBER}\s*(?:,|;|to)\s*{NUMBER}\s*\]|±\s*{NUMBER}|from {NUMBER} to {NUMBER}"


@dataclass(frozen=True)
class Claim:
    """One paragraph, and points (0 or 1) for lines of RUBRIC; None or absent: not scored yet."""

    text: str = ""
    points: Mapping[str, int | None] = field(default_factory=dict)


def claim_form(text: str) -> list[str]:
    """What the form of a claim lacks, one sentence each; says nothing about its content."""
    length = len(text.split())
    lacks = []
    if not FEWEST <= length <= MOST:
        lacks.append(f"It has {length} words: one paragraph of {FEWEST} to {MOST} is asked for.")
    if "\n\n" in text.strip():
        lacks.append("It has more than one paragraph.")
    if not re.search(INTERVAL, text):
        lacks.append("It holds no interval, such as [-0.02, 0.05], ±0.03 or from -0.02 to 0.05.")
    if not re.search(r"\bshuffled\b|\bcontrols?\b|\bmatched\b", text, re.IGNORECASE):
        lacks.append("It names no control: shuffled weights, or DPO at matched KL.")
    return lacks


def run_card(
    data: Path,
    stories: pd.DataFrame,
    left_out: Mapping[Any, str],
    audit: Mapping[str, tuple[float, float]],
    records: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Any],
    table: str = "",
    claim: Claim = Claim(),
) -> str:
    """The card as Markdown.

    Args:
        data: file of the stories; the card gives its name and a digest, no path.
        stories: all of the file. left_out: row -> reason.
        audit: name -> (share of the weights' variance explained, share that chance stays below).
        records: of `train_arms`. results: of `evaluate`. table: its results.md.
    """
    first = next(iter(records.values()))
    settings = first["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    name = markdown_text(data.name)
    by_split = stories.groupby("split")
    splits = by_split.agg(prompts=("prompt_id", "nunique"), responses=("text", "size"))
    prompts = stories["prompt_id"]
    removed = []
    for row, reason in left_out.items():
        facts = map(markdown_text, (row, prompts[row], reason))
        removed.append("- row {} ({}): {}".format(*facts))
    shares = [(name, f"{share:.0%}", f"{chance:.0%}") for name, (share, chance) in audit.items()]
    blocks = [
        f"# Run card: {name}",
        f"## Data\n\n{name}, SHA-256 {file_digest(data)}...",
        markdown_table(["split", "prompts", "responses"], splits.itertuples()),
        f"Left out of training: {len(removed)}",
        "\n".join(removed),
        "## What the weights go with",
        markdown_table(["by itself", "explains", "chance stays below"], shares),
        "## Training",
        markdown_text(
            f"{first['model']}, seed {settings['seed']}, {first['hardware']}, code {first['code']}"
        ),
        _arms(records),
        "## Measured",
        table.strip() or "Nothing.",
        "## Not measured",
        f"- {results['quality']}\n- what people would say\n- another seed: one run of each arm",
        "## Claim",
        _claim(claim) if claim.text.strip() else "None yet.",
        "## Settings and versions",
        markdown_text(f"{versions}, Python {first['python']}"),
        markdown_table(["setting", "value"], settings.items()),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _arms(records: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each arm; SFT has no pairs, ORPO no KL."""
    rows = []
    for arm, record in records.items():
        pairs = ["-"] * 3
        if "pairs" in record:
            effective, mean_weight = record["effective_pairs"], record["mean_weight"]
            pairs = [record["pairs"], f"{effective:.2f}", f"{mean_weight:.2f}"]
        kl = list(record.get("kl", {}).values())
        last_kl = f"{kl[-1]:.2f}" if kl else "-"
        rows.append([arm, *pairs, len(record["log"]), last_kl, f"{record['seconds']:.0f}"])
    kl_name = "KL along SFT's texts (nats)"
    names = ["arm", "pairs", "effective", "mean weight", "steps", kl_name, "seconds"]
    return markdown_table(names, rows)


def _claim(claim: Claim) -> str:
    rows = []
    for line, text in RUBRIC.items():
        points = claim.points.get(line)
        rows.append([text, "not scored" if points is None else points])
    text = escape(" ".join(claim.text.split()), quote=False)
    form = " ".join(claim_form(claim.text)) or "complete, which says nothing about its content."
    table = markdown_table(["rubric, applied by a person", "points"], rows)
    return f"> {text}\n\nForm: {form}\n\n{table}"
