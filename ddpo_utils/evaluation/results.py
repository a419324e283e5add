"""The evaluation's figures and tables: by prompt, means, differences, verdicts and notes.

Rows are models and Gold, as in arXiv 2503.17126. Every diversity figure is shown beside the share
of usable stories.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..embeddings.encoders import load_encoder
from ..models.sampling import DECODING
from ..settings import Profile
from ..storage.files import write_text
from ..storage.markdown import markdown_text, printable
from ..training.run_folder import run_facts
from .statistics import (
    Interval,
    difference,
    mean_interval,
    share_difference,
    share_interval,
    verdict,
)
from .usability import CUT, CUT_TEXTS, FAULTS, MEASURES, Thresholds, encoders_by_measure

if TYPE_CHECKING:
    import pandas as pd

ROWS = {
    "gold": "Gold",
    "start": "starting model",
    "sft": "SFT",
    "dpo": "DPO",
    "dpo-matched": "DPO at DDPO-both's KL",
    "shuffled": "DPO, shuffled weights",
    "shuffled-sem": "DPO, shuffled sem weights",
    "shuffled-sty": "DPO, shuffled sty weights",
    "ddpo-sem": "DDPO-sem",
    "ddpo-sty": "DDPO-sty",
    "ddpo": "DDPO-both",
    "divpo": "DivPO-both",
    "divpo-sem": "DivPO-sem",
    "divpo-sty": "DivPO-sty",
    "orpo": "ORPO",
    "dorpo-sem": "DORPO-sem",
    "dorpo-sty": "DORPO-sty",
    "dorpo": "DORPO-both",
    "dorpo-shuffled": "ORPO, shuffled weights",
}
FITTED = {"stylometric", "delta"}  # encoders that depend on the bundled authors
USABLE_ALONE = [f"{name} (usable)" for name in MEASURES]
SECTIONS = {  # of the table: title -> columns
    "mean ± half of the 95% interval over prompts, or [both its ends]; diversity is mean pairwise "
    "cosine distance": ["reward", *MEASURES, "usable"],
    "failures (shares); lengths; KL from SFT (nats a story)": [*FAULTS, "words", "tokens", "kl"],
    "diversity of usable stories alone, where a prompt has two": ["usable", *USABLE_ALONE],
    f"diversity of every story's first {CUT} words": ["usable", *CUT_TEXTS],
}
DIFFERENCES = ["reward", *MEASURES, "usable", "words", "kl"]
SHARES = ["usable", *FAULTS]


def _interval(values: pd.Series, stories: pd.Series | None = None) -> dict[str, Any] | None:
    """An interval as JSON holds it; None where fewer than two prompts have a value.

    With the number of stories per prompt, the values are shares of them (see `share_interval`).
    """
    values = values.dropna()
    if len(values) < 2:
        return None
    interval = mean_interval(values)
    if stories is not None:
        labels = stories[values.index]
        interval = share_interval(values * labels, labels)
    return _rounded(interval)


def _rounded(interval: Interval) -> dict[str, Any]:
    return {end: round(getattr(interval, end), 5) for end in ("mean", "low", "high", "n")}


def _controls(row: str) -> list[str]:
    """Gold, and the rows from which this row differs in one respect."""
    method = row.partition("-")[0]
    kind = row.removeprefix(method)
    if row == "dorpo":
        return ["gold", "orpo", "dorpo-shuffled"]
    if method == "dorpo":
        return ["gold", "orpo"]
    if method != "ddpo":
        return []
    matched = [] if kind else ["dpo-matched"]  # matched to DDPO-both alone
    return ["gold", "dpo", *matched, f"shuffled{kind}", f"divpo{kind}"]


def _differences(
    tables: Mapping[str, pd.DataFrame], stories: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """{"ddpo - dpo": {measure: interval}}, paired by prompt; prompts that one lacks drop out."""
    differences = {}
    for row, table in tables.items():
        for control in (name for name in _controls(row) if name in tables):
            other = tables[control].reindex(index=table.index, columns=table.columns)
            gaps = table - other
            found = {name: _interval(gaps[name]) for name in gaps}
            least = min(stories[row], stories[control])  # of a prompt
            for name in (share for share in SHARES if found.get(share)):
                found[name] = _rounded(share_difference(table[name], other[name], least))
            differences[f"{row} - {control}"] = found
    return differences


def _verdicts(
    tables: Mapping[str, pd.DataFrame],
    stories: Mapping[str, int],
    thresholds: Thresholds,
    reward_spread: float | None,
) -> dict[str, Any]:
    """The course's verdict on each measure, where DDPO-both has both controls with their KLs."""
    control = "dpo-matched" if "dpo-matched" in tables else "dpo"
    rows = {"ddpo": "ddpo", "shuffled": "shuffled", "dpo": control}
    if any("kl" not in tables.get(row, ()) for row in rows.values()):
        return {}

    def values(name: str) -> dict[str, pd.Series]:
        return {arm: tables[row][name] for arm, row in rows.items()}

    quality = "quality not measured"
    if reward_spread is not None:
        reward = values("reward")
        margin = thresholds.quality_margin * reward_spread
        lows = [difference(reward["ddpo"], reward[name]).low for name in ("shuffled", "dpo")]
        quality = "at equal quality" if min(lows) > -margin else "equal quality not shown"
    texts = {}
    least = min(stories[row] for row in rows.values())
    for name in MEASURES:
        result = verdict(values(name), values("usable"), thresholds.usable_margin, quality, least)
        texts[name] = result["verdict"]
    return {"control": control, "measures": texts}


def _cut_by_encoders(encoders: Iterable[str], texts: Sequence[str]) -> dict[str, Any]:
    """Encoder -> [tokens that it reads, share of longer texts], where there are longer texts."""
    cut = {}
    for name in encoders:
        encoder = load_encoder(name).encoder
        if hasattr(encoder, "token_counts"):
            longer = encoder.token_counts(texts) > encoder.limit
            if longer.any():
                cut[name] = [encoder.limit, round(float(longer.mean()), 4)]
    return cut


def make_results(
    profile: Profile,
    frames: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    thresholds: Thresholds,
    reward_spread: float | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of results.json, from each row's stories and their `measure_row`.

    `reward_spread` is the standard deviation of the training stories' rewards, None where they are
    not measured; `facts` are further entries, some of which the notes read (see `evaluate`).
    """
    rows, by_prompt, of_prompt = {}, {}, {}
    for row, table in tables.items():
        values = table.astype(float).round(4).astype(object).where(table.notna(), None)
        by_prompt[row] = {"prompt_id": table.index.tolist(), **values.to_dict("list")}
        stories = frames[row].groupby("prompt_id").size()
        of_prompt[row] = int(stories.min())
        shares = dict.fromkeys(SHARES, stories)
        rows[row] = {
            "label": ROWS.get(row, row),
            "stories": len(frames[row]),
            "prompts": len(table),
            "means": {name: _interval(table[name], shares.get(name)) for name in table},
        }
    encoders = encoders_by_measure(profile)
    texts = [text for frame in frames.values() for text in frame["text"]]
    results = run_facts(
        profile,
        command=f"python -m ddpo_utils evaluate --profile {profile.name}",
        **facts,
        samples=profile.samples,
        decoding=DECODING,
        encoders=encoders,
        cut_by_encoders=_cut_by_encoders(encoders.values(), texts),
        rows=rows,
        differences=_differences(tables, of_prompt),
        verdicts=_verdicts(tables, of_prompt, thresholds, reward_spread),
        by_prompt=by_prompt,
    )
    notes = [*_measure_notes(results), *_row_notes(results), *_comparison_notes(results)]
    return results | {"notes": notes}


def _labels(rows: Iterable[str]) -> str:
    return ", ".join(ROWS.get(row, row) for row in rows)


def _measure_notes(results: Mapping[str, Any]) -> Iterator[str]:
    yield results["quality"]
    if results.get("served"):
        yield f"Sampled from a server: {', '.join(chain(*results['served'].values()))}."
    yield "One training run of each arm: what shows here is said of these adapters, not of methods."
    first, second, third, fourth = results["encoders"].values()
    yield f"Encoders: {first} and {second} make weights; 2nd: {third} and {fourth} make none."
    if results["settings"]["data"] != "bundled" and FITTED & {first, second, third, fourth}:
        yield "stylometric and delta were fitted on the bundled authors, and depend on them."
    for name, (limit, share) in results["cut_by_encoders"].items():
        yield f"{name} reads {limit} tokens of a story; {share:.1%} of all are longer."
    yield "Usable: long enough, not cut, not repeating, on topic, and plausible to SFT."
    yield "On topic: its prompt is among the {on_topic} nearest of {pool}.".format(**results)
    if results["plausible"]:
        low, high = results["plausible"]
        stories = results["training_stories"]
        yield f"Plausible: {low} to {high} nats a token, by {stories} training stories."
    else:
        yield "Plausible: not checked, for there is no SFT adapter."


def _row_notes(results: Mapping[str, Any]) -> Iterator[str]:
    rows = results["rows"]
    if results["missing"]:
        yield f"Left out, without an adapter: {_labels(results['missing'])}."
    if "gold" in rows:
        bundled = results["settings"]["data"] == "bundled"
        who = "the authors' stories (a language model's)" if bundled else "the data's responses"
        left_out = results["prompts"] - rows["gold"]["prompts"]
        yield f"Gold: {who}, in sets of any size; {left_out} prompts with fewer than two left out."
    else:
        yield "Gold: fewer than two of the prompts have two responses or more."
    figures = [*results["differences"].values()]
    figures += [row["means"] for row in rows.values()]
    intervals = [interval for figure in figures for interval in figure.values() if interval]
    if any(interval["low"] == interval["high"] for interval in intervals):
        yield "(alike): the same value for every prompt, and so no interval."


def _comparison_notes(results: Mapping[str, Any]) -> Iterator[str]:
    rows, verdicts = results["rows"], results["verdicts"]
    arms = [row for row in rows if row.partition("-")[0] in ("ddpo", "dorpo")]
    if results["differences"]:
        number = len(results["differences"]) * len(MEASURES)
        yield f"Of {number} differences in diversity one in twenty excludes 0 by chance."
    if verdicts:
        for name, text in verdicts["measures"].items():
            yield f"Verdict, {name}: {text}"
        yield f"Controls of the verdicts: shuffled weights; {_labels([verdicts['control']])}."
    elif "ddpo" in arms:
        yield "No verdict: it needs the KLs of DDPO-both, its shuffled weights and DPO from SFT."
    lone = [row for row in arms if "shuffled" + row.removeprefix("ddpo") not in rows]
    if lone:
        yield f"Not attributed to deviation, without their own shuffled weights: {_labels(lone)}."


def _cell(interval: Any) -> str:
    if not isinstance(interval, dict):
        return "-"
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    digits = 3 if abs(mean) < 10 else 1
    text = f"{mean:.{digits}f}"
    if low == high:
        return f"{text} (alike)"
    shown_mean, shown_low, shown_high = (round(end, digits) for end in (mean, low, high))
    asymmetry = (shown_high - shown_mean) - (shown_mean - shown_low)
    if abs(asymmetry) > 1.5 * 10**-digits:  # the interval of a share
        return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} ±{high - mean:.{digits}f}"


def _sections(results: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Title -> one part of the table as text; columns that no row has are left out."""
    import pandas as pd

    rows = {row["label"]: row["means"] for row in results["rows"].values()}
    differences = {}
    for pair, intervals in results["differences"].items():
        row, control = pair.split(" - ")
        differences[f"{ROWS.get(row, row)} - {ROWS[control]}"] = intervals
    parts = [(title, columns, rows) for title, columns in SECTIONS.items()]
    parts.append(("differences, paired by prompt", DIFFERENCES, differences))
    sections = {}
    for title, columns, lines in parts:
        cells = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
        cells = cells.dropna(axis=1, how="all").map(_cell)
        if len(cells.columns):
            sections[title] = cells
    return sections


def _headline(results: Mapping[str, Any]) -> str:
    size = f"{results['prompts']} prompts by {results['samples']} samples"
    return f"{size} of {results['model']}; {results['hardware']}"


def show_table(results: Mapping[str, Any]) -> None:
    """Print the results of `evaluate`: table and notes."""
    print(printable(_headline(results)))
    for title, cells in _sections(results).items():
        print(f"\n{title}\n{cells.to_string()}")
    print("\n" + "\n".join(map(printable, results["notes"])))


def _as_csv(results: Mapping[str, Any]) -> str:
    import pandas as pd

    entries = dict(results["rows"])
    for pair, intervals in results["differences"].items():
        entries[pair] = {"means": intervals}
    lines = []
    for row, entry in entries.items():
        line = {"row": row, **entry}
        for name, interval in line.pop("means").items():
            if interval:
                line[name] = interval["mean"]
                line[f"{name} low"] = interval["low"]
                line[f"{name} high"] = interval["high"]
        lines.append(line)
    return pd.DataFrame(lines).convert_dtypes().to_csv(index=False)


def _as_markdown(results: Mapping[str, Any]) -> str:
    parts = [markdown_text(f"{_headline(results)}; {results['command']}")]
    for title, cells in _sections(results).items():
        header = ["", *cells.columns]
        rule = ["---"] * len(header)
        body = [[markdown_text(row), *line] for row, *line in cells.reset_index().to_numpy()]
        lines = [f"| {' | '.join(line)} |" for line in (header, rule, *body)]
        parts.append("\n".join([f"**{title}**\n", *lines]))
    parts.append("\n".join(f"- {markdown_text(note)}" for note in results["notes"]))
    return "\n\n".join(parts) + "\n"


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """results.json (everything), results.csv (rows and differences), results.md (as printed)."""
    write_text(folder / "results.csv", _as_csv(results))
    write_text(folder / "results.md", _as_markdown(results))
    # the values by prompt are many: they go into one line at the end
    short = {name: value for name, value in results.items() if name != "by_prompt"}
    head = json.dumps(short, indent=1).removesuffix("\n}")
    by_prompt = json.dumps(results["by_prompt"])
    write_text(folder / "results.json", f'{head},\n "by_prompt": {by_prompt}\n}}\n')
