"""The evaluation's table in the paper's form, on the screen and in files, with what must be said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..storage.files import write_text
from .results import CUT, FAULTS, MEASURES, ROWS

__all__ = ["make_notes", "show_table", "write_tables"]


def _names(rows: Any) -> str:
    return ", ".join(ROWS.get(row, row) for row in rows)


def make_notes(results: Mapping[str, Any]) -> list[str]:
    """What must be said beside these rows, as sentences.

    Args:
        results: of `make_results`.
    """
    rows, by, own = results["rows"], results["encoders"], results["settings"]["data"] == "bundled"
    arms = [row for row in rows if row.partition("-")[0] in ("ddpo", "dorpo")]
    likely = "whether SFT finds it plausible is not checked: there is no SFT adapter."
    if results["plausible"]:
        (low, high), number = results["plausible"], results["training_stories"]
        likely = (
            f"and between {low} and {high} nats a token under SFT, by {number} training stories."
        )
    notes = [
        results["quality"],
        "One training run of each arm: whatever shows here is said of these adapters, not of the methods.",
        f"Encoders: {by['semantic']} and {by['style']} make weights; 2nd: {by['semantic, 2nd']} and {by['style, 2nd']} "
        "make none.",
        f"Usable: long enough, not cut, not repeating, on topic, {likely}",
        f"On topic: of {results['pool']} prompts its own is among the nearest 29%, where a random text would be as "
        "often.",
    ]
    for name, (limit, share) in results["cut_by_encoders"].items():
        notes.append(
            f"{name} reads {limit} tokens of a story; {share:.1%} of all stories are longer."
        )
    if results["missing"]:
        notes.append(f"Left out, without an adapter: {_names(results['missing'])}.")
    if "gold" in rows:
        who = "the authors' stories (a language model's)" if own else "the responses in the data"
        notes.append(
            f"Gold: {who}; {results['prompts'] - rows['gold']['prompts']} prompts with fewer than two are left out. "
            "Its sets differ in size, and a mean pairwise distance is the mean over all its subsets of any one size."
        )
    else:
        notes.append("Gold: fewer than two of the prompts have two responses or more.")
    every = [*(row["means"] for row in rows.values()), *results["differences"].values()]
    if any(value and value["low"] == value["high"] for means in every for value in means.values()):
        notes.append(
            "(alike): the same value for every prompt; without variation there is no interval."
        )
    if results["differences"]:
        number = len(results["differences"]) * len(MEASURES)
        notes.append(f"Of {number} differences in diversity one in twenty excludes 0 by chance.")
    if verdicts := results["verdicts"]:
        kl = {row: rows[row]["means"]["kl"]["mean"] for row in ("ddpo", verdicts["control"])}
        notes += [f"Verdict, {name}: {text}" for name, text in verdicts["measures"].items()]
        notes.append(
            f"The verdicts' DPO is {_names([verdicts['control']])}, {kl[verdicts['control']]:.2f} nats from SFT; "
            f"DDPO-both stands at {kl['ddpo']:.2f}. Its other control are shuffled weights."
        )
    elif "ddpo" in arms:
        notes.append(
            "No verdict: DDPO-both, its shuffled weights and DPO, each with its KL from SFT, are needed."
        )
    if alone := [row for row in arms if "shuffled" + row.removeprefix("ddpo") not in rows]:
        notes.append(
            f"Without shuffled weights of their own no difference is credited to deviation: {_names(alone)}."
        )
    if not own and {"stylometric", "delta"} & set(by.values()):
        notes.append(
            "stylometric and delta were fitted on the bundled authors: their figures depend on that corpus."
        )
    return notes


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value["mean"]) < 10 else 1
    if value["low"] == value["high"]:
        return f"{value['mean']:.{digits}f} (alike)"
    mean, low, high = (round(value[end], digits) for end in ("mean", "low", "high"))
    if abs((high - mean) - (mean - low)) > 1.5 * 10**-digits:  # a share's interval is not symmetric
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f} ±{value['high'] - value['mean']:.{digits}f}"


def _sections(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and cells of each part of the table; columns that nobody has are left out."""
    names = list(MEASURES)
    rows = {row["label"]: row["means"] for row in results["rows"].values()}
    gaps = {
        " - ".join(ROWS.get(row, row) for row in pair.split(" - ")): gap
        for pair, gap in results["differences"].items()
    }
    alone, cut = [f"{name} (usable)" for name in names], [f"{name} ({CUT} words)" for name in names]
    parts = [
        (
            "mean ± half of the 95% interval over prompts, or [both its ends]; diversity is mean pairwise cosine distance",
            ["reward", *names, "usable"],
            rows,
        ),
        (
            "shares of stories that fail (one can fail several checks); lengths; KL from SFT in nats a story",
            [*FAULTS, "words", "tokens", "kl"],
            rows,
        ),
        ("diversity of usable stories alone, where a prompt has two", ["usable", *alone], rows),
        (f"diversity of every story's first {CUT} words", ["usable", *cut], rows),
        ("differences, paired by prompt", ["reward", *names, "usable", "words", "kl"], gaps),
    ]
    out = []
    for title, columns, lines in parts:
        columns = [c for c in columns if any(means.get(c) for means in lines.values())]
        cells = [[label, *(_cell(means.get(c)) for c in columns)] for label, means in lines.items()]
        out += [(title, ["", *columns], cells)] if cells else []
    return out


def _headline(results: Mapping[str, Any]) -> str:
    return f"{results['prompts']} prompts by {results['samples']} samples of {results['model']}; {results['hardware']}"


def show_table(results: Mapping[str, Any]) -> None:
    """Print results of `evaluate`, aligned, with everything that must be said beside them."""
    print(_headline(results))
    for title, header, cells in _sections(results):
        widths = [max(len(line[i]) for line in (header, *cells)) for i in range(len(header))]
        print(f"\n{title}")
        for label, *line in (header, *cells):
            print("  ".join([label.ljust(widths[0]), *map(str.rjust, line, widths[1:])]))
    print("\n" + "\n".join(results["notes"]))


def write_tables(results: Mapping[str, Any], folder: Path) -> None:
    """results.json (everything), results.csv (means, differences and intervals, a row a line), results.md (what is
    printed)."""
    import pandas as pd

    ends = (("mean", ""), ("low", " low"), ("high", " high"))
    lines = {row: (entry, entry["means"]) for row, entry in results["rows"].items()}
    lines |= {pair: ({}, gap) for pair, gap in results["differences"].items()}
    flat = [
        {"row": row, **{key: entry.get(key) for key in ("label", "stories", "prompts")}}
        | {name + end: value[key] for name, value in means.items() if value for key, end in ends}
        for row, (entry, means) in lines.items()
    ]
    text = [f"{_headline(results)}; `{results['command']}`"]
    for title, header, cells in _sections(results):
        table = [header, ["---"] * len(header), *cells]
        text.append(
            f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in table)
        )
    text.append("\n".join(f"- {note}" for note in results["notes"]))
    write_text(folder / "results.csv", pd.DataFrame(flat).convert_dtypes().to_csv(index=False))
    write_text(folder / "results.md", "\n\n".join(text) + "\n")
    short = json.dumps(
        {name: value for name, value in results.items() if name != "by_prompt"}, indent=1
    )
    write_text(
        folder / "results.json",
        short[:-2] + f',\n "by_prompt": {json.dumps(results["by_prompt"])}\n}}\n',
    )
