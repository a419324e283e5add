"""The evaluation's figures: measures by prompt, means with 95% intervals over prompts, paired differences, the verdict.

Rows are models and Gold, as in arXiv 2503.17126. The unit is the prompt throughout. Diversity pays for failure, so no
diversity stands here without the share of usable stories, over all stories and over usable ones alone; and lengths
differ, so it is also taken at a common length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import decisions
from ..embeddings.encoders import load_encoder
from ..models.sampling import DECODING
from ..settings import CourseError, Profile
from ..training.runs import run_facts
from .rates import share_interval
from .statistics import difference, mean_interval, verdict
from .usability import check_stories, prompt_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CUT", "FAULTS", "MEASURES", "ROWS", "Material", "find_trial", "make_results"]

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
MEASURES = {  # of diversity, with the setting that names the encoder; the second of each kind made no weights
    "semantic": "semantic",
    "style": "style",
    "semantic, 2nd": "judge_semantic",
    "style, 2nd": "judge_style",
}
FAULTS = ["short", "cut", "repeating", "off_topic", "implausible"]
SHARES = ("usable", *FAULTS)  # of a prompt's stories
CUT = 25  # words at which texts are compared at a common length


@dataclass
class Material:
    """What is measured, and what the SFT model says of it.

    frames: row -> stories with prompt_id, prompt, text, and where known tokens, finished, score, logp.
    train: a sample of the training stories. missing: rows that have no adapter.
    kl: row -> prompt_id -> KL from SFT, nats a story. plausible: range of logp, nats a token.
    pool: prompts among which a story must find its own; None: the course's 70.
    """

    frames: Mapping[str, pd.DataFrame]
    train: pd.DataFrame
    missing: Sequence[str] = ()
    kl: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)
    plausible: tuple[float, float] | None = None
    pool: Sequence[str] | None = None


def _by_prompt(
    frame: pd.DataFrame,
    checks: pd.DataFrame,
    encoders: Mapping[str, str],
    kl: Mapping[Any, float],
    reward: Any,
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


def _plain(values: pd.Series, stories: pd.Series | None = None) -> dict[str, Any] | None:
    """An interval as JSON holds it; None where fewer than two prompts have a value.

    With the number of stories of each prompt the values are shares of them: no end leaves [0, 1], and where every
    prompt has the same share (all usable, none) the interval has a width all the same.
    """
    if values.notna().sum() < 2:
        return None
    got = mean_interval(values) if stories is None else share_interval(values * stories, stories)
    return {
        "mean": round(got.mean, 5),
        "low": round(got.low, 5),
        "high": round(got.high, 5),
        "n": got.n,
    }


def _means(table: pd.DataFrame, frame: pd.DataFrame) -> dict[str, dict[str, Any] | None]:
    """Each measure's interval over prompts, of a row's `_by_prompt`."""
    stories = frame.groupby("prompt_id").size()
    return {name: _plain(table[name], stories if name in SHARES else None) for name in table}


def _differences(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Each DDPO row minus Gold, both DPOs, its own shuffled weights and DivPO, each DORPO row minus Gold and ORPO,
    paired by prompt: {"ddpo - dpo": {measure: interval}}. Prompts that one of the two lacks are left out."""
    out = {}
    for row in (row for row in tables if row.partition("-")[0] in ("ddpo", "dorpo")):
        matched = ["dpo-matched"] if row == "ddpo" else []  # the checkpoint is matched to DDPO-both
        kind = row.removeprefix("ddpo")
        controls = (
            ("dpo", *matched, "shuffled" + kind, "divpo" + kind)
            if row.startswith("ddpo")
            else ("orpo",)
        )
        for control in ("gold", *controls):
            if control in tables:
                gap = tables[row] - tables[control].reindex(
                    index=tables[row].index, columns=tables[row].columns
                )
                out[f"{row} - {control}"] = {name: _plain(gap[name]) for name in gap}
    return out


def find_trial(profile: Profile, reward: Path) -> dict[str, Any]:
    """The trial that `python -m ddpo_utils reward` left in a folder; CourseError where there is none."""
    from .reward_record import load_trial

    trial = load_trial(profile, reward) if reward.is_dir() else None
    if trial is None or not (reward / trial["final"]).is_dir():
        raise CourseError(
            f"There is no reward's trial in {reward}: make one with `python -m ddpo_utils reward`."
        )
    return trial


def _scores(
    profile: Profile, material: Material, reward: Path | None
) -> tuple[dict[str, Any], float | None, str]:
    """The reward's score of every story by row, the standard deviation of the training stories' scores, and what is to
    be said of quality; no scores where the reward has not passed its trial."""
    from .reward import Target, public_backbone, score_stories
    from .reward_trial import choose_reward

    if reward is None:
        return {}, None, "quality not measured: no reward was given"
    trial = find_trial(profile, reward)
    objective = trial["final"].partition("/")[0]
    accuracy = trial["accuracy"][objective]
    share = accuracy["unseen prompts and writers"] or accuracy["unseen prompts"]
    what = (
        f"it orders {share} of unseen pairs rightly, and the lower end must reach {trial['bound']}"
    )
    if trial["backbone"] != public_backbone(profile):
        return (
            {},
            None,
            f"quality not measured: the reward's trial is of {trial['backbone']}, another backbone",
        )
    if not choose_reward({objective: accuracy}, trial["bound"])["passed"]:
        return {}, None, f"quality not measured: the reward did not pass its trial ({what})"

    def score(frame: pd.DataFrame) -> np.ndarray:
        return score_stories(profile, reward / trial["final"], frame)

    scores = {row: score(frame) for row, frame in material.frames.items() if row != "gold"}
    said = f"reward: {objective} on {trial['backbone']} ({what})"
    if "gold" in material.frames and objective == "regression":
        scores["gold"] = Target(**trial["target"])(material.frames["gold"]["score"])
        said += "; Gold's is its own scores on the same scale, not the model's"
    return scores, float(np.std(score(material.train))), said


def _verdicts(tables: Mapping[str, pd.DataFrame], spread: float | None) -> dict[str, Any]:
    """The course's rule (`stats.verdict`) for each measure, where DDPO-both has both its controls with their KLs.

    `spread` is the standard deviation of the training stories' reward, None where quality was not measured.
    """
    rules, arms = decisions(), {"ddpo": "ddpo", "shuffled": "shuffled", "dpo": "dpo"}
    arms["dpo"] = "dpo-matched" if "dpo-matched" in tables else "dpo"
    if any("kl" not in tables.get(row, ()) for row in arms.values()):
        return {}
    quality = "quality not measured"
    if spread is not None:
        gaps = [
            difference(tables["ddpo"]["reward"], tables[arms[to]]["reward"])
            for to in ("shuffled", "dpo")
        ]
        equal = all(gap.low > -rules["quality_margin"] * spread for gap in gaps)
        quality = "at equal quality" if equal else "equal quality not shown"
    usable = {arm: tables[row]["usable"] for arm, row in arms.items()}
    return {
        "control": arms["dpo"],
        "measures": {
            name: verdict(
                {a: tables[row][name] for a, row in arms.items()},
                usable,
                rules["usable_margin"],
                quality,
            )["verdict"]
            for name in MEASURES
        },
    }


def _cut_by_encoders(
    encoders: Mapping[str, str], frames: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Encoder -> [tokens that it reads, share of all stories that are longer], where any is."""
    texts = [text for frame in frames.values() for text in frame["text"]]
    out = {}
    for name in dict.fromkeys(encoders.values()):
        encoder = load_encoder(name).encoder
        if hasattr(encoder, "token_counts"):
            share = float((encoder.token_counts(texts) > encoder.limit).mean())
            out |= {name: [encoder.limit, round(share, 4)]} if share else {}
    return out


def make_results(
    profile: Profile, material: Material, prompts: int, reward: Path | None
) -> dict[str, Any]:
    """Measure every row's stories; the dict that results.json holds, without its notes.

    Args:
        prompts: how many are evaluated. reward: folder of a reward's trial, or None.
    """
    encoders = {name: getattr(profile, setting) for name, setting in MEASURES.items()}
    scores, spread, quality = _scores(profile, material, reward)
    tables = {}
    for row, frame in material.frames.items():
        checks = check_stories(frame, profile.semantic, material.plausible, material.pool)
        tables[row] = _by_prompt(frame, checks, encoders, material.kl.get(row, {}), scores.get(row))
    return run_facts(
        profile,
        command=f"python -m ddpo_utils evaluate --profile {profile.name}",
        prompts=prompts,
        samples=profile.samples,
        decoding=DECODING,
        quality=quality,
        missing=list(material.missing),
        plausible=material.plausible,
        training_stories=len(material.train),
        pool=len(material.pool or ()) or 70,
        encoders=encoders,
        cut_by_encoders=_cut_by_encoders(encoders, material.frames),
        rows={
            row: {
                "label": ROWS.get(row, row),
                "stories": len(material.frames[row]),
                "prompts": len(table),
                "means": _means(table, material.frames[row]),
            }
            for row, table in tables.items()
        },
        differences=_differences(tables),
        verdicts=_verdicts(tables, spread),
        by_prompt={
            row: {
                "prompt_id": table.index.tolist(),
                **{
                    name: [None if math.isnan(v) else round(float(v), 4) for v in table[name]]
                    for name in table
                },
            }
            for row, table in tables.items()
        },
    )
