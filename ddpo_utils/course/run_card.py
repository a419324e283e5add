"""The run card: one page of Markdown from which somebody else can judge a run on your own data, and the claim on it.

Every figure comes from the run's own records. What the card cannot know (whether the claim is worth anything) is scored
by a person; `claim_form` looks at the form of a claim and at nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RUBRIC", "claim_form", "run_card"]

RUBRIC = {
    "evidence": "It names the figure it rests on: what was measured, of how many prompts and samples.",
    "control": "It names the control that could have shown the same without deviation, and what that one showed.",
    "uncertainty": "It gives an interval, and does not call a difference shown where that includes 0.",
    "limit": "It says what it is not about: these adapters, this data, what was not measured.",
}
FEWEST, MOST = 40, 150  # words in a claim of one paragraph


def claim_form(claim: str) -> list[str]:
    """What the form of a claim lacks, one sentence each; an empty list says nothing about what it is worth."""
    number = r"[-−+]?\d+(?:[.,]\d+)?"
    length = len(claim.split())
    lacks = []
    if not FEWEST <= length <= MOST:
        lacks.append(f"It has {length} words: one paragraph of {FEWEST} to {MOST} is asked for.")
    if "\n\n" in claim.strip():
        lacks.append("It has more than one paragraph.")
    if not re.search(
        rf"\[\s*{number}\s*(?:,|;|to)\s*{number}\s*\]|±\s*{number}|from {number} to {number}", claim
    ):
        lacks.append("It holds no interval, such as [-0.02, 0.05], ±0.03 or from -0.02 to 0.05.")
    if not re.search(r"\bshuffled\b|\bcontrols?\b|\bmatched\b", claim, re.IGNORECASE):
        lacks.append("It names no control: shuffled weights, or DPO at matched KL.")
    return lacks


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _claim(claim: str, points: Mapping[str, int | None]) -> str:
    scored = [
        [RUBRIC[line], "not scored" if points.get(line) is None else points[line]]
        for line in RUBRIC
    ]
    form = " ".join(claim_form(claim)) or "complete, which says nothing about its content."
    return f"> {' '.join(claim.split())}\n\nForm: {form}\n\n{_table(['rubric, applied by a person', 'points'], scored)}"


def run_card(
    data: Path,
    stories: pd.DataFrame,
    left_out: Mapping[Any, str],
    audit: Mapping[str, tuple[float, float]],
    records: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Any],
    table: str = "",
    claim: str = "",
    points: Mapping[str, int | None] | None = None,
) -> str:
    """The card as Markdown.

    Args:
        data: the file of the stories; its name and a digest of its content are given, and no path.
        stories: what it holds, before anything was left out. left_out: row -> reason.
        audit: what -> (share of the weights' variance that it explains, the share that chance stays below).
        records: of `arms.train_arms`. results: of `evaluate.evaluate`. table: its results.md.
        claim: one paragraph; points: of the lines of RUBRIC, 0 or 1, None where not scored yet.
    """
    first = next(iter(records.values()))
    digest = hashlib.sha256(data.read_bytes()).hexdigest()[:16]
    parts = stories.groupby("split").agg(
        prompts=("prompt_id", "nunique"), responses=("text", "size")
    )
    out = [f"- row {row} ({stories.loc[row, 'prompt_id']}): {why}" for row, why in left_out.items()]
    shares = [[what, f"{share:.0%}", f"{chance:.0%}"] for what, (share, chance) in audit.items()]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    sections = {
        "Data": [
            f"{data.name}, SHA-256 {digest}...",
            _table(["split", "prompts", "responses"], [list(row) for row in parts.itertuples()]),
            "\n".join([f"Left out of training: {len(out)}", "", *out]).strip(),
        ],
        "What the weights go with": [
            _table(["by itself", "explains", "chance stays below"], shares)
        ],
        "Training": [
            f"{first['model']}, seed {first['settings']['seed']}, {first['hardware']}, code {first['code']}",
            _table(
                [
                    "arm",
                    "pairs",
                    "effective",
                    "mean weight",
                    "steps",
                    "KL from SFT (nats)",
                    "seconds",
                ],
                [_arm(arm, record) for arm, record in records.items()],
            ),
        ],
        "Measured": [table.strip() or "Nothing."],
        "Not measured": [
            f"- {results['quality']}\n- what people would say\n- another seed: one run of each arm"
        ],
        "Claim": [_claim(claim, points or {}) if claim.strip() else "None yet."],
        "Settings and versions": [
            f"{versions}, Python {first['python']}",
            _table(
                ["setting", "value"], [[name, value] for name, value in first["settings"].items()]
            ),
        ],
    }
    text = [f"# Run card: {data.name}"]
    for title, blocks in sections.items():
        text += [f"## {title}", *blocks]
    return "\n\n".join(text) + "\n"


def _arm(arm: str, record: Mapping[str, Any]) -> list[Any]:
    kl = list(record.get("kl", {}).values())
    weights = [
        f"{record[name]:.2f}" if name in record else "-"
        for name in ("effective_pairs", "mean_weight")
    ]
    steps = len(record["log"])
    return [
        arm,
        record.get("pairs", "-"),
        *weights,
        steps,
        f"{kl[-1]:.2f}" if kl else "-",
        f"{record['seconds']:.0f}",
    ]
