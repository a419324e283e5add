"""The evaluation's table: measures by prompt, means with 95% intervals over prompts, paired differences, and what must
be said with them. Rows are models and Gold, as in arXiv 2503.17126.

Diversity pays for failure, so no diversity stands here without the share of usable stories, over all stories and over
usable ones alone; and lengths differ, so it stands at a common length too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .metrics import check_stories, prompt_table
from .profiles import CourseError, Profile
from .runs import run_facts, write_text
from .sampling import DECODING
from .stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROWS", "make_results", "show_table", "write_tables"]

ROWS = {
    "gold": "Gold", "start": "starting model", "sft": "SFT", "dpo": "DPO", "shuffled": "DPO, shuffled weights",
    "shuffled-sem": "DPO, shuffled sem weights", "shuffled-sty": "DPO, shuffled sty weights",
    "ddpo-sem": "DDPO-sem", "ddpo-sty": "DDPO-sty", "ddpo": "DDPO-both",
}  # fmt: skip
CUT = 25  # words at which texts are compared at a common length
FAULTS = ["short", "cut", "repeating", "off_topic", "implausible"]


def _encoders(profile: Profile) -> dict[str, str]:
    return {
        "semantic": profile.semantic, "style": profile.style,
        "semantic, 2nd": profile.judge_semantic, "style, 2nd": profile.judge_style,
    }  # fmt: skip


def _quality(profile: Profile, frames: Mapping[str, pd.DataFrame], reward: Path | None) -> tuple[dict[str, Any], str]:
    """The reward's score of every story by row, if it passed its trial; and what is to be said of quality."""
    from .reward import Target, public_backbone, score_stories
    from .reward_record import load_trial
    from .reward_trial import choose_reward

    if reward is None:
        return {}, "quality not measured: no reward was given"
    try:
        trial = load_trial(profile, reward)
    except OSError:
        raise CourseError(
            f"There is no reward's trial in {reward}: make one with `python -m ddpo_utils reward`."
        ) from None
    objective = trial["final"].partition("/")[0]
    accuracy = trial["accuracy"][objective]
    share = accuracy["unseen prompts and writers"] or accuracy["unseen prompts"]
    what = f"it orders {share} of unseen pairs rightly, and the lower end must reach {trial['bound']}"
    if trial["backbone"] != public_backbone(profile):
        return {}, f"quality not measured: the reward's trial is of {trial['backbone']}, another backbone"
    if not choose_reward({objective: accuracy}, trial["bound"])["passed"]:
        return {}, f"quality not measured: the reward did not pass its trial ({what})"
    scores: dict[str, Any] = {
        row: score_stories(profile, reward / trial["final"], frame) for row, frame in frames.items() if row != "gold"
    }
    said = f"reward: {objective} on {trial['backbone']} ({what})"
    if "gold" in frames and objective == "regression":
        scores["gold"] = Target(**trial["target"])(frames["gold"]["score"])
        said += "; Gold's is its own scores on the same scale, not the model's"
    return scores, said


def _by_prompt(
    frame: pd.DataFrame, checks: pd.DataFrame, encoders: Mapping[str, str], kl: Mapping[Any, float], reward: Any
) -> pd.DataFrame:
    """One row a prompt, every measure a column."""
    table = prompt_table(frame, checks, encoders)
    cut = prompt_table(frame, checks, encoders, cut_to=CUT)
    groups = checks.assign(prompt_id=frame["prompt_id"]).groupby("prompt_id")
    table = table.join(groups[FAULTS].mean())
    table = table.join(cut[list(encoders)].rename(columns=lambda name: f"{name} ({CUT} words)"))
    if reward is not None:
        table["reward"] = frame.assign(reward=reward).groupby("prompt_id")["reward"].mean()
    if "tokens" in frame:
        table["tokens"] = frame.groupby("prompt_id")["tokens"].mean()
    if kl:
        table["kl"] = table.index.map(kl)
    return table


def _plain(values: pd.Series) -> dict[str, Any] | None:
    """An interval as JSON holds it; None where fewer than two prompts have a value."""
    if values.notna().sum() < 2:
        return None
    got = mean_interval(values)
    return {"mean": round(got.mean, 5), "low": round(got.low, 5), "high": round(got.high, 5), "n": got.n}


def _differences(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Each DDPO row minus DPO and minus shuffled weights, by prompt: {"ddpo - dpo": {measure: interval}}.

    A row's own shuffled weights go first ("shuffled-sem" for "ddpo-sem"); where there are none, those of both."""
    out = {}
    for row in (row for row in tables if row.partition("-")[0] == "ddpo"):
        own = "shuffled" + row.removeprefix("ddpo")
        for control in ("dpo", own if own in tables else "shuffled"):
            if control in tables:
                gap = tables[row] - tables[control].reindex(columns=tables[row].columns)
                out[f"{row} - {control}"] = {name: _plain(gap[name]) for name in gap}
    return out


def _notes(
    profile: Profile, rows: Sequence[str], missing: Sequence[str], no_gold: int, pool: int, plausible: Any
) -> list[str]:
    """What must be said beside these rows."""
    by, arms = _encoders(profile), [row for row in rows if row.partition("-")[0] == "ddpo"]
    likely = "whether SFT finds it plausible is not checked: there is no SFT adapter."
    if plausible:
        likely = f"and between {plausible[0]} and {plausible[1]} nats a token under SFT, as training stories are."
    notes = [
        "One training run of each arm: whatever shows here is said of these adapters, not of the methods.",
        f"Encoders: {by['semantic']} and {by['style']} make weights; 2nd: {by['semantic, 2nd']} and {by['style, 2nd']} "
        "make none.",
        f"Usable: long enough, not cut, not repeating, on topic, {likely}",
        f"On topic: of {pool} prompts its own is among the nearest 29%, where a random text would be as often.",
    ]
    if missing:
        notes.append("Left out, without an adapter: " + ", ".join(ROWS.get(row, row) for row in missing) + ".")
    if "gold" in rows:
        who = "the authors' stories (a language model's)" if profile.data == "bundled" else "the responses in the data"
        notes.append(
            f"Gold: {who}; {no_gold} prompts with fewer than two are left out of its means. Its sets differ in size, "
            "which does not change what a mean pairwise distance is expected to be."
        )
    else:
        notes.append("Gold: fewer than two of the prompts have two responses or more.")
    if arms and "dpo" in rows:
        notes.append("DPO stands at its own KL from SFT (column kl), not at DDPO's: differences to it are no verdict.")
    if arms and not any(row.startswith("shuffled") for row in rows):
        notes.append("Without the arm with shuffled weights no difference to DPO can be credited to deviation.")
    if "shuffled" in rows and (others := [row for row in arms if "shuffled" + row[4:] not in rows]):
        names = " and ".join(ROWS.get(row, row) for row in others)
        notes.append(f"The shuffled weights are DDPO-both's; {names} stand without a control of their own.")
    if profile.data != "bundled" and {"stylometric", "delta"} & set(by.values()):
        notes.append("stylometric and delta were fitted on the bundled authors: their figures depend on that corpus.")
    return notes


def make_results(
    profile: Profile,
    frames: Mapping[str, pd.DataFrame],
    n_prompts: int,
    missing: Sequence[str],
    kl: Mapping[str, Mapping[Any, float]],
    plausible: tuple[float, float] | None,
    pool: Sequence[str] | None,
    reward: Path | None,
) -> dict[str, Any]:
    """Measure every row's stories; the dict that results.json holds.

    Args:
        frames: row -> stories with prompt_id, prompt, text, and where known tokens, finished, score, logp.
        n_prompts: how many prompts are evaluated. missing: rows that have no adapter.
        kl: row -> prompt_id -> KL from SFT, nats a story. plausible: range of logp. pool: see `check_stories`.
        reward: folder of a reward's trial, or None.
    """
    scores, quality = _quality(profile, frames, reward)
    tables = {}
    for row, frame in frames.items():
        checks = check_stories(frame, profile.semantic, plausible, pool)
        tables[row] = _by_prompt(frame, checks, _encoders(profile), kl.get(row, {}), scores.get(row))
    no_gold = n_prompts - len(tables.get("gold", ()))
    return run_facts(
        profile, command=f"python -m ddpo_utils evaluate --profile {profile.name}", prompts=n_prompts,
        samples=profile.samples, decoding=DECODING, quality=quality,
        notes=_notes(profile, list(frames), missing, no_gold, len(pool) if pool else 70, plausible),
        rows={row: {"label": ROWS.get(row, row), "stories": len(frames[row]), "prompts": len(table),
                    "means": {name: _plain(table[name]) for name in table}} for row, table in tables.items()},
        differences=_differences(tables),
        by_prompt={row: {"prompt_id": table.index.tolist(), **{
            name: [None if math.isnan(v) else round(float(v), 4) for v in table[name]] for name in table
        }} for row, table in tables.items()},
    )  # fmt: skip


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value["mean"]) < 10 else 1
    return f"{value['mean']:.{digits}f} ±{value['high'] - value['mean']:.{digits}f}"


def _sections(results: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and cells of each part of the table; columns that nobody has are left out."""
    names = ["semantic", "style", "semantic, 2nd", "style, 2nd"]
    rows = {row["label"]: row["means"] for row in results["rows"].values()}
    gaps = {
        " - ".join(ROWS.get(row, row) for row in pair.split(" - ")): gap for pair, gap in results["differences"].items()
    }
    alone, cut = [f"{name} (usable)" for name in names], [f"{name} ({CUT} words)" for name in names]
    parts = [
        ("mean ± half of the 95% interval over prompts; diversity is mean pairwise cosine distance",
         ["reward", *names, "usable"], rows),
        ("shares of stories that fail (one can fail several checks); lengths; KL from SFT in nats a story",
         [*FAULTS, "words", "tokens", "kl"], rows),
        ("diversity of usable stories alone", ["usable", *alone], rows),
        (f"diversity of every story's first {CUT} words", ["usable", *cut], rows),
        ("differences, paired by prompt", ["reward", *names, "usable", "words"], gaps),
    ]  # fmt: skip
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
    print(f"\n{results['quality']}")
    print("\n".join(results["notes"]))


def write_tables(results: Mapping[str, Any], folder: Path) -> None:
    """results.json (everything), results.csv (means and intervals, a row a line), results.md (what is printed)."""
    import pandas as pd

    ends = (("mean", ""), ("low", " low"), ("high", " high"))
    flat = [
        {"row": row, **{key: entry[key] for key in ("label", "stories", "prompts")}}
        | {name + end: value[key] for name, value in entry["means"].items() if value for key, end in ends}
        for row, entry in results["rows"].items()
    ]
    text = [f"{_headline(results)}; `{results['command']}`"]
    for title, header, cells in _sections(results):
        lines = [header, ["---"] * len(header), *cells]
        text.append(f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    text.append("\n".join(f"- {note}" for note in (results["quality"], *results["notes"])))
    write_text(folder / "results.csv", pd.DataFrame(flat).to_csv(index=False))
    write_text(folder / "results.md", "\n\n".join(text) + "\n")
    short = json.dumps({name: value for name, value in results.items() if name != "by_prompt"}, indent=1)
    write_text(folder / "results.json", short[:-2] + f',\n "by_prompt": {json.dumps(results["by_prompt"])}\n}}\n')
