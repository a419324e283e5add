"""What the SFT model says of sampled stories: how probable it finds them, and how far an arm has moved from it.

Scores are stored in <folder>/<row>-<key>.logp.jsonl and .kl.jsonl, a line a piece, as they come: a killed run goes on
after the last whole line. The key is of the stories, the adapters and the number type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import decisions
from ..models.policy import load_policy, public_name
from ..models.scoring import mean_logps, token_kl
from ..settings import Profile, progress_bar
from ..storage.files import short_digest, write_text
from ..training.runs import adapter_digest, process

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_with_sft"]

PIECE = 32  # stories whose scores are stored at a time


def _missing(path: Path, stories: pd.DataFrame) -> range:
    """Where the pieces begin that `path` does not hold yet; a broken-off last line is cut from it."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        write_text(path, "".join(lines := lines[:-1]))
    return range(PIECE * len(lines), len(stories), PIECE)


def _store(path: Path, stories: pd.DataFrame, score: Callable[[pd.DataFrame], np.ndarray]) -> None:
    starts, main = _missing(path, stories), process().is_main_process
    for start in progress_bar(
        starts, shown=len(starts) >= 4 and main, desc=path.name.partition("-")[0], leave=False
    ):
        values = [round(float(v), 4) for v in score(stories.iloc[start : start + PIECE])]
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _stored(path: Path) -> list[float]:
    return [
        value
        for line in path.read_text(encoding="utf-8").splitlines()
        for value in json.loads(line)
    ]


def compare_with_sft(
    profile: Profile,
    adapters: Mapping[str, Path | None],
    frames: Mapping[str, pd.DataFrame],
    train: pd.DataFrame,
    folder: Path,
) -> tuple[dict[str, list[float]], dict[str, dict[Any, float]], tuple[float, float]]:
    """Log-probs under the SFT adapter and KLs from it; under `accelerate launch` each process does some of the rows.

    Args:
        adapters: row -> folder; "sft" must be among them, None is the starting model.
        frames: row -> stories with prompt and text, of sampled rows also prompt_id and sample; rows that are no
            adapter's are scored like SFT's own.
        train: training stories, whose log-probs say what is plausible.
        folder: of the scores.

    Returns:
        Mean log-probs of a token under SFT for each row's stories (nats a token); for each arm the KL(arm || SFT)
        along its first sample of each prompt (nats a story, by prompt_id); and the range of plausible log-probs, from
        the quantile of the training stories' that data/decisions.json sets to its mirror.
    """
    sft = adapters["sft"]
    frames = {"train": train, **frames}
    arms = [row for row in frames if adapters.get(row) is not None and row != "sft"]
    base = [
        public_name(profile),
        profile.tokenizer,
        profile.quantize,
        profile.dtype,
        adapter_digest(sft),
    ]
    keys = {
        row: short_digest(
            base, adapter_digest(adapters.get(row)), f["prompt"].tolist(), f["text"].tolist()
        )
        for row, f in frames.items()
    }

    def path(row: str, what: str) -> Path:
        return folder / f"{row}-{keys[row]}.{what}.jsonl"

    def run(rows: list[str], adapter: Path | None) -> None:
        @cache  # loaded at the first story that has no score yet
        def loaded() -> tuple[Any, Any]:
            model, tokenizer = load_policy(profile, adapter or sft)
            if adapter:
                model.load_adapter(str(sft), adapter_name="ref")
            return model, tokenizer

        def logps(stories: pd.DataFrame) -> np.ndarray:
            loaded()[0].set_adapter("ref" if adapter else "default")
            return mean_logps(*loaded(), stories)

        def kls(stories: pd.DataFrame) -> np.ndarray:
            loaded()[0].set_adapter("default")
            return token_kl(*loaded(), stories)

        for row in rows:
            _store(path(row, "logp"), frames[row], logps)
            if adapter:
                _store(path(row, "kl"), frames[row][frames[row]["sample"] == 0], kls)

    tasks = [
        ([row for row in frames if row not in arms], None),
        *(([row], adapters[row]) for row in arms),
    ]
    for rows, adapter in tasks[process().process_index :: process().num_processes]:
        run(rows, adapter)
    process().wait_for_everyone()  # all rows' scores are there now
    logp = {row: _stored(path(row, "logp")) for row in frames}
    first = {row: frames[row]["prompt_id"][frames[row]["sample"] == 0] for row in arms}
    kl = {row: dict(zip(first[row], _stored(path(row, "kl")), strict=True)) for row in arms}
    tail = decisions()["logprob_quantile"]
    low, high = np.quantile(logp.pop("train"), [tail, 1 - tail])
    return logp, kl, (round(float(low), 4), round(float(high), 4))
