"""Usable stories: thresholds, the failures of each story, and tables by prompt and by source.

Diversity rewards failure (random words are far from everything), so every diversity figure stands
beside the share of usable stories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import load_prompts, load_stories
from ..corpus.text import first_words, prompt_overlap, repeat_share, words
from ..deviation import diversity
from ..embeddings.encoders import load_encoder
from ..settings import CourseError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FAULTS",
    "Thresholds",
    "check_stories",
    "course_prompts",
    "prompt_ranks",
    "prompt_table",
    "rival_table",
]

FAULTS = ["short", "cut", "repeating", "off_topic", "implausible"]


@dataclass(frozen=True)
class Thresholds:
    """What counts as usable, and the margins of the verdicts; fixed before any sample is read."""

    min_words: int
    repeat_share: float  # largest share of 4-word sequences that occurred before in the story
    on_topic_rank: int  # lowest rank of the story's own prompt in a pool of `on_topic_pool` prompts
    logprob_quantile: float  # of the training stories' log-probs: the plausible range's lower end
    usable_margin: float  # largest tolerated loss of usable stories, as a share
    reward_bound: float  # share of unseen pairs that a reward must order rightly
    quality_margin: float  # largest tolerated loss of reward, in standard deviations
    on_topic_pool: int = 70

    @classmethod
    def read(cls, decisions: Mapping[str, Any]) -> Thresholds:
        """The thresholds among the entries of data/decisions.json."""
        names = [field.name for field in fields(cls) if field.name in decisions]
        return cls(**{name: decisions[name] for name in names})

    def logprob_range(self, logps: Sequence[float]) -> tuple[float, float]:
        """Plausible mean log-probs of a token (nats), given those of the training stories."""
        tail = self.logprob_quantile
        low, high = np.quantile(logps, [tail, 1 - tail])
        return float(low), float(high)


def course_prompts() -> list[str]:
    """The 70 prompts of the course: 30 with stories, then 40 without."""
    return [*load_stories()["prompt"].unique(), *load_prompts()["prompt"]]


def prompt_ranks(stories: np.ndarray, prompts: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """Rank of each story's own prompt among all prompts by cosine; 1 is the nearest.

    Args:
        stories: (N, d) unit rows. prompts: (P, d) unit rows. own: (N,) row of each story's prompt.
    """
    cosines = stories @ prompts.T
    return 1 + (cosines > cosines[np.arange(len(own)), own][:, None]).sum(axis=1)


def check_stories(
    stories: pd.DataFrame,
    thresholds: Thresholds,
    pool: Sequence[str],
    encoder: str = "minilm",
    logprob_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Failures of each story.

    Args:
        stories: prompt and text, and where known `finished` (False: cut by the length limit) and
            `logp` (mean log-prob of a token under the SFT model, nats).
        pool: prompts among which a story must find its own, by the semantic encoder; the stories'
            prompts join it. The rank allowed grows with the pool: a random text passes as often.
        logprob_range: lowest and highest plausible `logp`; None leaves that check out.

    Returns:
        A frame with the same index: the FAULTS and usable (bool), rank (of the own prompt in the
        pool), n_words, overlap (share of words taken from the prompt).
    """
    import pandas as pd

    prompts = list(dict.fromkeys([*pool, *stories["prompt"]]))
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    own = [row_of[prompt] for prompt in stories["prompt"]]
    texts = stories["text"].tolist()
    model = load_encoder(encoder)
    pairs = zip(texts, stories["prompt"], strict=True)
    out = pd.DataFrame(index=stories.index)
    out["n_words"] = [len(words(text)) for text in texts]
    out["overlap"] = [prompt_overlap(text, prompt) for text, prompt in pairs]
    out["rank"] = prompt_ranks(model.encode(texts), model.encode(prompts), own)
    out["short"] = out["n_words"] < thresholds.min_words
    out["cut"] = ~stories["finished"].astype(bool) if "finished" in stories else False
    out["repeating"] = [repeat_share(text) > thresholds.repeat_share for text in texts]
    allowed = (thresholds.on_topic_rank - 1) * (len(prompts) - 1)
    out["off_topic"] = (out["rank"] - 1) * (thresholds.on_topic_pool - 1) > allowed
    out["implausible"] = False
    if logprob_range is not None:
        out["implausible"] = ~stories["logp"].between(*logprob_range)
    out["usable"] = ~out[FAULTS].any(axis=1)
    return out


def prompt_table(
    stories: pd.DataFrame,
    checks: pd.DataFrame,
    encoders: Mapping[str, str],
    cut_to: int | None = None,
) -> pd.DataFrame:
    """One row per prompt: diversity by each encoder, over all and over usable stories.

    Args:
        stories: prompt_id and text.
        checks: of `check_stories` for the same rows.
        encoders: measure name -> encoder name.
        cut_to: compare only the first so many words.

    Returns:
        A frame indexed by prompt_id, sorted: usable (share), words (mean), top1 (share whose own
        prompt is the nearest), overlap (mean share), and for each measure the mean pairwise cosine
        distance of all stories (`name`) and of usable ones (`name (usable)`; NaN below two).
    """
    groups = stories["prompt_id"].to_numpy()
    means = checks.assign(prompt_id=groups, top1=checks["rank"] == 1).groupby("prompt_id")
    table = means[["usable", "n_words", "top1", "overlap"]].mean()
    table = table.rename(columns={"n_words": "words"})
    usable = checks["usable"].to_numpy()
    enough = table.index[means["usable"].sum() > 1]
    keep = usable & np.isin(groups, enough)
    texts = stories["text"].tolist()
    if cut_to:
        texts = [first_words(text, cut_to) for text in texts]
    for name, encoder in encoders.items():
        rows = load_encoder(encoder).encode(texts)
        table[name] = diversity(rows, groups)
        table[f"{name} (usable)"] = np.nan
        if keep.any():
            table.loc[enough, f"{name} (usable)"] = diversity(rows[keep], groups[keep])
    return table


def rival_table(
    samples: pd.DataFrame,
    thresholds: Thresholds,
    pool: Sequence[str],
    encoders: Mapping[str, str],
    logprob_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """One row per source: diversity, failures, and tokens paid per usable story.

    Args:
        samples: stories of any number of sources, of `read_samples`; two per prompt and source.

    Returns:
        A frame indexed by source: stories; means over prompts of each measure's columns in
        `prompt_table`; shares usable, FAULTS and unreadable (of verbalised answers); calls; prompt
        and completion tokens per usable story (inf without one, NaN if not recorded).
    """
    import pandas as pd

    sizes = samples.groupby(["source", "prompt_id"]).size()
    if not len(samples) or sizes.min() < 2:
        raise CourseError("Diversity needs two stories of each source per prompt: sample more.")
    checks = check_stories(samples, thresholds, pool, logprob_range=logprob_range)
    known = samples.reindex(columns=["calls", "prompt_tokens", "completion_tokens", "tokens"])
    # samples of `sample_stories` record the tokens of a story alone
    known["completion_tokens"] = known["completion_tokens"].fillna(known["tokens"])
    unreadable = samples["unreadable"] if "unreadable" in samples else pd.Series(0, samples.index)
    unreadable = unreadable.fillna(False).astype(bool)
    measures = [column for name in encoders for column in (name, f"{name} (usable)")]
    rows = {}
    for source, frame in samples.groupby("source", sort=False):
        own, paid = checks.loc[frame.index], known.loc[frame.index]
        row = {
            "stories": len(frame),
            **prompt_table(frame, own, encoders)[measures].mean(),
            **own[["usable", *FAULTS]].mean(),
            "unreadable": unreadable[frame.index].mean(),
            "calls": int(paid["calls"].fillna(1).sum()),
        }
        usable = int(own["usable"].sum())
        for name in ("prompt", "completion"):
            total = float(paid[f"{name}_tokens"].sum(min_count=len(frame)))
            row[f"{name} tokens per usable"] = total / usable if usable else float("inf")
        rows[source] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
