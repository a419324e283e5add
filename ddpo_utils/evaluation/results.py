"""The evaluation's figures and tables: by prompt, means, differences, verdicts and notes.

Rows are models and Gold, as in arXiv 2503.17126.

No diversity is shown without the share of usable stories beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..embeddings.encoders import load_encoder
from ..models.sampling import DECODING
from ..settings import Profile
from ..storage.files import write_text
from ..training.runs import run_facts
from .statistics import difference, mean_interval, share_interval, verdict
from .usability import FAULTS, Thresholds, prompt_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURES", "ROWS", "make_results", "measure_row", "show_table", "write_results"]

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
}
MEASURES = {  # of diversity, with the setting that names the encoder; the 2nd ones make no weights
    "semantic": "semantic",
    "style": "style",
    "semantic, 2nd": "judge_semantic",
    "style, 2nd": "judge_style",
}
FITTED = {"stylometric", "delta"}  # encoders that depend on the bundled authors
CUT = 25  # words at which texts are compared at a common length
USABLE_ALONE = [f"{name} (usable)" for name in MEASURES]
CUT_TEXTS = [f"{name} ({CUT} words)" for name in MEASURES]
SECTIONS = {  # of the table: title -> columns
    "mean ± half of the 95% interval over prompts, or [both its ends]; diversity is mean pairwise "
    "cosine distance": ["reward", *MEASURES, "usable"],
    "failures (shares); lengths; KL from SFT (nats a story)": [*FAULTS, "words", "tokens", "kl"],
    "diversity of usable stories alone, where a prompt has two": ["usable", *USABLE_ALONE],
    f"diversity of every story's first {CUT} words": ["usable", *CUT_TEXTS],
}
DIFFERENCES = ["reward", *MEASURES, "usable", "words", "kl"]


# -- figures ---------------------------------------------------------------------------------------


def measure_row(
    profile: Profile,
    frame: pd.DataFrame,
    checks: pd.DataFrame,
    kl: Mapping[Any, float] | None = None,
    reward: Sequence[float] | None = None,
) -> pd.DataFrame:
    """One line per prompt of a row's stories, every measure a column.

    `kl` maps prompt_id to the KL from SFT (nats a story); `reward` holds a score per story.
    """
    encoders = {name: getattr(profile, setting) for name, setting in MEASURES.items()}
    prompts = frame["prompt_id"]
    cut = prompt_table(frame, checks, encoders, cut_to=CUT)[list(encoders)]
    table = prompt_table(frame, checks, encoders)
    table = table.join(checks[FAULTS].groupby(prompts).mean())
    table = table.join(cut.rename(columns=lambda name: f"{name} ({CUT} words)"))
    if reward is not None:
        table["reward"] = frame.assign(reward=reward).groupby("prompt_id")["reward"].mean()
    if "tokens" in frame:
        table["tokens"] = frame.groupby("prompt_id")["tokens"].mean()
    if kl:
        table["kl"] = table.index.map(kl)
    return table


def _interval(values: pd.Series, stories: pd.Series | None = None) -> dict[str, Any] | None:
    """An interval as JSON holds it; None where fewer than two prompts have a value.

    With the number of stories per prompt, the values are shares of them (see `share_interval`).
    """
    if values.notna().sum() < 2:
        return None
    got = mean_interval(values) if stories is None else share_interval(values * stories, stories)
    ends = {end: round(getattr(got, end), 5) for end in ("mean", "low", "high")}
    return ends | {"n": got.n}


def _differences(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """{"ddpo - dpo": {measure: interval}}, paired by prompt; prompts that one lacks drop out."""
    out = {}
    for row, table in tables.items():
        method, _, kind = row.partition("-")
        suffix = f"-{kind}" if kind else ""
        controls = {
            "ddpo": ["gold", "dpo", "dpo-matched", f"shuffled{suffix}", f"divpo{suffix}"],
            "dorpo": ["gold", "orpo"],
        }.get(method, [])
        for control in controls:
            # the matched checkpoint is matched to DDPO-both alone
            if control in tables and not (kind and control == "dpo-matched"):
                other = tables[control].reindex(index=table.index, columns=table.columns)
                gap = table - other
                out[f"{row} - {control}"] = {name: _interval(gap[name]) for name in gap}
    return out


def _verdicts(
    tables: Mapping[str, pd.DataFrame], thresholds: Thresholds, reward_spread: float | None
) -> dict[str, Any]:
    """The course's verdict on each measure, where DDPO-both has both controls with their KLs."""
    rows = {"ddpo": "ddpo", "shuffled": "shuffled"}
    rows["dpo"] = "dpo-matched" if "dpo-matched" in tables else "dpo"
    if any("kl" not in tables.get(row, ()) for row in rows.values()):
        return {}
    compared = {arm: tables[row] for arm, row in rows.items()}

    def values(name: str) -> dict[str, pd.Series]:
        return {arm: table[name] for arm, table in compared.items()}

    quality = "quality not measured"
    if reward_spread is not None:
        reward, margin = values("reward"), thresholds.quality_margin * reward_spread
        gaps = [difference(reward["ddpo"], reward[control]) for control in ("shuffled", "dpo")]
        equal = all(gap.low > -margin for gap in gaps)
        quality = "at equal quality" if equal else "equal quality not shown"
    usable, margin = values("usable"), thresholds.usable_margin
    texts = {name: verdict(values(name), usable, margin, quality)["verdict"] for name in MEASURES}
    return {"control": rows["dpo"], "measures": texts}


def _cut_by_encoders(encoders: Iterable[str], texts: Sequence[str]) -> dict[str, Any]:
    """Encoder -> [tokens that it reads, share of longer texts], where there are some."""
    out = {}
    for name in dict.fromkeys(encoders):
        encoder = load_encoder(name).encoder
        if hasattr(encoder, "token_counts"):
            share = float((encoder.token_counts(texts) > encoder.limit).mean())
            if share:
                out[name] = [encoder.limit, round(share, 4)]
    return out


def _number(value: float) -> float | None:
    """The value as JSON holds it."""
    return None if math.isnan(value) else round(float(value), 4)


def make_results(
    profile: Profile,
    frames: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    thresholds: Thresholds,
    reward_spread: float | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        frames, tables: row -> stories, and their `measure_row`.
        reward_spread: standard deviation of the training stories' rewards; None: not measured.
        facts: further entries, which some notes read (see `evaluate`).
    """
    rows, by_prompt = {}, {}
    for row, table in tables.items():
        by_prompt[row] = {"prompt_id": table.index.tolist()}
        by_prompt[row] |= {name: list(map(_number, table[name])) for name in table}
        stories = frames[row].groupby("prompt_id").size()
        shares = dict.fromkeys(["usable", *FAULTS], stories)
        means = {name: _interval(table[name], shares.get(name)) for name in table}
        rows[row] = {"label": ROWS.get(row, row), "stories": len(frames[row])}
        rows[row] |= {"prompts": len(table), "means": means}
    encoders = {name: getattr(profile, setting) for name, setting in MEASURES.items()}
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
        differences=_differences(tables),
        verdicts=_verdicts(tables, thresholds, reward_spread),
        by_prompt=by_prompt,
    )
    notes = [*_measure_notes(results), *_row_notes(results), *_comparison_notes(results)]
    return results | {"notes": notes}


# -- notes -----------------------------------------------------------------------------------------


def _labels(rows: Iterable[str]) -> str:
    return ", ".join(ROWS.get(row, row) for row in rows)


def _measure_notes(results: Mapping[str, Any]) -> Iterator[str]:
    yield results["quality"]
    yield "One training run of each arm: what shows here is said of these adapters, not of methods."
    first, second, third, fourth = results["encoders"].values()
    yield f"Encoders: {first} and {second} make weights; 2nd: {third} and {fourth} make none."
    if results["settings"]["data"] != "bundled" and FITTED & {first, second, third, fourth}:
        yield "stylometric and delta were fitted on the bundled authors, and depend on them."
    for name, (limit, share) in results["cut_by_encoders"].items():
        yield f"{name} reads {limit} tokens of a story; {share:.1%} of all are longer."
    yield "Usable: long enough, not cut, not repeating, on topic, and plausible to SFT."
    yield f"On topic: its prompt is among the nearest 29% of {results['pool']} (by chance: 29%)."
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
    means = [*(row["means"] for row in rows.values()), *results["differences"].values()]
    values = [value for by_measure in means for value in by_measure.values() if value]
    if any(value["low"] == value["high"] for value in values):
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
        control = verdicts["control"]
        far, near = (rows[row]["means"]["kl"]["mean"] for row in (control, "ddpo"))
        yield f"Controls: shuffled weights; {_labels([control])}, {far:.2f} nats from SFT."
        yield f"DDPO-both is {near:.2f} nats from SFT."
    elif "ddpo" in arms:
        yield "No verdict: it needs the KLs of DDPO-both, its shuffled weights and DPO from SFT."
    lone = [row for row in arms if "shuffled" + row.removeprefix("ddpo") not in rows]
    if lone:
        yield f"No credit to deviation, without their own shuffled weights: {_labels(lone)}."


# -- tables ----------------------------------------------------------------------------------------


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return "-"
    digits = 3 if abs(value["mean"]) < 10 else 1
    mean, low, high = (round(value[end], digits) for end in ("mean", "low", "high"))
    if value["low"] == value["high"]:
        return f"{mean:.{digits}f} (alike)"
    if abs((high - mean) - (mean - low)) > 1.5 * 10**-digits:  # a share's interval is not symmetric
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f} ±{value['high'] - value['mean']:.{digits}f}"


def _sections(results: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Title -> one part of the table as text; columns that no row has are left out."""
    import pandas as pd

    rows = {row["label"]: row["means"] for row in results["rows"].values()}
    gaps = {}
    for pair, gap in results["differences"].items():
        gaps[" - ".join(ROWS.get(row, row) for row in pair.split(" - "))] = gap
    parts = [(title, columns, rows) for title, columns in SECTIONS.items()]
    parts.append(("differences, paired by prompt", DIFFERENCES, gaps))
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
    print(_headline(results))
    for title, cells in _sections(results).items():
        print(f"\n{title}\n{cells.to_string()}")
    print("\n" + "\n".join(results["notes"]))


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """results.json (everything), results.csv (rows and differences), results.md (as printed)."""
    import pandas as pd

    lines = {row: (entry, entry["means"]) for row, entry in results["rows"].items()}
    lines |= {pair: ({}, gap) for pair, gap in results["differences"].items()}
    flat = []
    for row, (entry, means) in lines.items():
        line = {"row": row} | {key: entry.get(key) for key in ("label", "stories", "prompts")}
        for name, value in means.items():
            if value:
                line |= {name: value["mean"]}
                line |= {f"{name} {end}": value[end] for end in ("low", "high")}
        flat.append(line)
    write_text(folder / "results.csv", pd.DataFrame(flat).convert_dtypes().to_csv(index=False))
    parts = [f"{_headline(results)}; `{results['command']}`"]
    for title, cells in _sections(results).items():
        header = ["", *cells.columns]
        table = [header, ["---"] * len(header), *cells.reset_index().to_numpy().tolist()]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table))
    parts.append("\n".join(f"- {note}" for note in results["notes"]))
    write_text(folder / "results.md", "\n\n".join(parts) + "\n")
    # the values by prompt are many: they go into one line at the end
    short = {name: value for name, value in results.items() if name != "by_prompt"}
    by_prompt = json.dumps(results["by_prompt"])
    head = json.dumps(short, indent=1).removesuffix("\n}")
    write_text(folder / "results.json", f'{head},\n "by_prompt": {by_prompt}\n}}\n')
