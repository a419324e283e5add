"""Usable stories: thresholds, the failures of each story, and tables by prompt and by source.

Failures look diverse (random words are far from everything), so every diversity figure is shown
beside the share of usable stories.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from reprlib import repr as shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import load_prompts, load_stories
from ..corpus.text import first_words, prompt_overlap, repeat_share, words
from ..deviation import diversity
from ..embeddings.encoders import load_encoder
from ..settings import CourseError, Profile

if TYPE_CHECKING:
    import pandas as pd

ON_TOPIC_POOL = 70  # prompts for which `on_topic_rank` is stated
MEASURES = {  # of diversity -> setting that names the encoder; the 2nd ones make no weights
    "semantic": "semantic",
    "style": "style",
    "semantic, 2nd": "judge_semantic",
    "style, 2nd": "judge_style",
}
CUT = 25  # words at which texts are compared at a common length
CUT_TEXTS = [f"{name} ({CUT} words)" for name in MEASURES]
RULES = {  # of usable stories that the text alone decides -> setting
    "short": "min_words",
    "repeating": "repeat_share",
    "off_topic": "on_topic_rank",
}
TOO_MANY = 0.2  # share of the data's own responses above which a rule does not fit them
FAULTS = ["short", "cut", "repeating", "off_topic", "implausible"]


@dataclass(frozen=True)
class Thresholds:
    """What counts as usable, and the margins of the verdicts; fixed before any sample is read."""

    min_words: int
    repeat_share: float  # largest share of 4-word sequences that occurred before in the story
    on_topic_rank: int  # lowest rank of the story's own prompt among the course's 70
    logprob_quantile: float  # of the training stories' log-probs: the plausible range's lower end
    usable_margin: float  # largest tolerated loss of usable stories, as a share
    reward_bound: float  # share of unseen pairs that a reward must order correctly
    quality_margin: float  # largest tolerated loss of reward, in standard deviations

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise CourseError(f"The threshold {name} is a number from 0 up; got {value!r}.")

    @classmethod
    def read(cls, decisions: Mapping[str, Any], profile: Profile | None = None) -> Thresholds:
        """The thresholds in data/decisions.json; those of RULES as the profile has them."""
        values = {field.name: decisions.get(field.name) for field in fields(cls)}
        if profile is not None:
            values |= {setting: getattr(profile, setting) for setting in RULES.values()}
        return cls(**values)

    def without(self, rules: Iterable[str]) -> Thresholds:
        """The thresholds with these of RULES so loose that no story fails them."""
        loosest = {"min_words": 0, "repeat_share": 1.0, "on_topic_rank": ON_TOPIC_POOL}
        return replace(self, **{RULES[rule]: loosest[RULES[rule]] for rule in rules})

    def nearest_prompts(self, pool: int) -> int:
        """The largest rank of a story's own prompt that is on topic, of `pool` prompts."""
        return 1 + (self.on_topic_rank - 1) * (pool - 1) // (ON_TOPIC_POOL - 1)

    def logprob_range(self, logps: Sequence[float]) -> tuple[float, float]:
        """Plausible mean log-probs of a token (nats), given those of the training stories."""
        low, high = np.quantile(logps, [self.logprob_quantile, 1 - self.logprob_quantile])
        return float(low), float(high)


def course_prompts() -> list[str]:
    """The 70 prompts of the course: 30 with stories, then 40 without."""
    return [*load_stories()["prompt"].unique(), *load_prompts()["prompt"]]


def prompt_ranks(stories: np.ndarray, prompts: np.ndarray, prompt_rows: Any) -> np.ndarray:
    """(N,) rank of each story's own prompt among all prompts by cosine; 1 is the nearest.

    stories are (N, d) and prompts (P, d) unit rows; `prompt_rows` names each story's prompt.
    """
    cosines = stories @ prompts.T
    own_cosines = cosines[np.arange(len(stories)), prompt_rows]
    nearer = cosines > own_cosines[:, None]
    return 1 + nearer.sum(axis=1)


def require_texts(stories: Any, columns: Sequence[str]) -> None:
    """Raise CourseError unless `stories` is a frame with a text in every row of these columns."""
    for column in columns:
        if column not in getattr(stories, "columns", ()):
            names = ", ".join(columns)
            raise CourseError(f"Stories are a frame with {names}; {column} is missing.")
        for number, value in enumerate(stories[column], 1):
            if not isinstance(value, str):
                raise CourseError(
                    f"Story {number} has {shorten(value)} as {column}: correct it or leave it out."
                )


def check_stories(
    stories: pd.DataFrame,
    thresholds: Thresholds,
    pool: Sequence[str],
    encoder: str = "minilm",
    logprob_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Per story: FAULTS and usable (bool), rank of its prompt, n_words, overlap with its prompt.

    Args:
        stories: prompt and text, and where known `finished` (False: cut by the length limit) and
            `logp` (mean log-prob of a token under the SFT model, nats).
        pool: prompts, with those of the stories, among which a story must find its own by the
            encoder. The rank allowed grows with the pool: a random text passes as often.
        logprob_range: lowest and highest plausible `logp`; None leaves that check out.
    """
    import pandas as pd

    require_texts(stories, ("prompt", "text"))
    texts = stories["text"].tolist()
    prompts = list(dict.fromkeys([*pool, *stories["prompt"]]))
    prompt_rows = pd.Index(prompts).get_indexer(stories["prompt"])
    model = load_encoder(encoder)
    checks = pd.DataFrame(index=stories.index)
    checks["n_words"] = [len(words(text)) for text in texts]
    pairs = zip(texts, stories["prompt"], strict=True)
    checks["overlap"] = [prompt_overlap(text, prompt) for text, prompt in pairs]
    checks["rank"] = prompt_ranks(model.encode(texts), model.encode(prompts), prompt_rows)
    checks["short"] = checks["n_words"] < thresholds.min_words
    checks["cut"] = False
    if "finished" in stories:
        checks["cut"] = stories["finished"].isin([False])
    checks["repeating"] = [repeat_share(text) > thresholds.repeat_share for text in texts]
    checks["off_topic"] = checks["rank"] > thresholds.nearest_prompts(len(prompts))
    checks["implausible"] = False
    if logprob_range is not None:
        if stories["logp"].isna().any():
            raise CourseError("Some stories have no log-prob: score them again, or leave them out.")
        checks["implausible"] = ~stories["logp"].between(*logprob_range)
    checks["usable"] = ~checks[FAULTS].any(axis=1)
    return checks


def unfit_rules(checks: pd.DataFrame, thresholds: Thresholds) -> dict[str, str]:
    """Of RULES those that more than a fifth of somebody's own responses fail -> what to do.

    `checks` are `check_stories` of the data's responses. Such a rule says more about the data than
    about failures: the setting has to change, or the rule is left out (`Thresholds.without`).
    """
    sentences = {}
    for rule, setting in RULES.items():
        failed, value = int(checks[rule].sum()), getattr(thresholds, setting)
        if failed > TOO_MANY * len(checks):
            sentences[rule] = (
                f"The rule {rule!r} would leave out {failed} of {len(checks)} of the data's own "
                f"responses, more than a fifth: change the setting {setting}, which is {value}."
            )
    return sentences


def prompt_table(
    stories: pd.DataFrame,
    checks: pd.DataFrame,
    encoders: Mapping[str, str],
    cut_to: int | None = None,
) -> pd.DataFrame:
    """One row per prompt_id, sorted: usable (share), words (mean), top1, overlap, diversity.

    top1 is the share of stories nearest to their own prompt. Diversity is the mean pairwise cosine
    distance of all stories (`name`) and of the usable ones (`name (usable)`; NaN below two).

    Args:
        checks: `check_stories` of the stories.
        encoders: measure name -> encoder name.
        cut_to: compare only the first so many words.
    """
    groups = stories["prompt_id"].to_numpy()
    by_prompt = checks.assign(words=checks["n_words"], top1=checks["rank"] == 1).groupby(groups)
    table = by_prompt[["usable", "words", "top1", "overlap"]].mean().rename_axis("prompt_id")
    # diversity needs two usable stories
    enough = table.index[by_prompt["usable"].sum() > 1]
    kept = checks["usable"].to_numpy() & np.isin(groups, enough)
    texts = stories["text"].tolist()
    if cut_to:
        texts = [first_words(text, cut_to) for text in texts]
    for name, encoder in encoders.items():
        rows = load_encoder(encoder).encode(texts)
        table[name] = diversity(rows, groups)
        table[f"{name} (usable)"] = np.nan
        if kept.any():
            table.loc[enough, f"{name} (usable)"] = diversity(rows[kept], groups[kept])
    return table


def encoders_by_measure(profile: Profile) -> dict[str, str]:
    """The profile's encoder of each of MEASURES."""
    return {name: getattr(profile, setting) for name, setting in MEASURES.items()}


def measure_row(
    profile: Profile,
    frame: pd.DataFrame,
    checks: pd.DataFrame,
    kl: Mapping[Any, float] | None = None,
    reward: Sequence[float] | None = None,
) -> pd.DataFrame:
    """One line per prompt of a model's stories, every measure a column.

    `kl` maps prompt_id to the KL from SFT (nats a story); `reward` holds a score per story.
    """
    encoders = encoders_by_measure(profile)
    by_prompt = frame.assign(reward=reward).groupby("prompt_id")
    cut = prompt_table(frame, checks, encoders, cut_to=CUT)
    table = prompt_table(frame, checks, encoders)
    table = table.join(checks[FAULTS].groupby(frame["prompt_id"]).mean())
    table[CUT_TEXTS] = cut[list(MEASURES)]
    if reward is not None:
        table["reward"] = by_prompt["reward"].mean()
    if "tokens" in frame:
        table["tokens"] = by_prompt["tokens"].mean()
    if kl:
        table["kl"] = table.index.map(kl)
    return table


def rival_table(
    samples: pd.DataFrame,
    thresholds: Thresholds,
    pool: Sequence[str],
    encoders: Mapping[str, str],
    logprob_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """One row per source: stories, diversity, failures, calls, and tokens paid per usable story.

    Diversity is the mean over prompts of `prompt_table`; failures are shares (unreadable: of
    verbalised answers). Tokens are inf without a usable story, and NaN if they were not recorded.
    Raises CourseError where a source has fewer than two stories of a prompt in `samples`.
    """
    import pandas as pd

    sizes = samples.groupby(["source", "prompt_id"]).size()
    if not len(samples) or sizes.min() < 2:
        raise CourseError("Diversity needs two stories of each source per prompt: sample more.")
    checks = check_stories(samples, thresholds, pool, logprob_range=logprob_range)
    recorded = ["calls", "prompt_tokens", "completion_tokens", "tokens", "unreadable"]
    known = samples.reindex(columns=recorded)
    # samples of `sample_stories` record the tokens of a story alone
    known["completion_tokens"] = known["completion_tokens"].fillna(known["tokens"])
    known["unreadable"] = known["unreadable"].fillna(False).astype(bool)
    columns = [column for name in encoders for column in (name, f"{name} (usable)")]
    rows = {}
    for source, frame in samples.groupby("source", sort=False):
        own = checks.loc[frame.index]
        paid = known.loc[frame.index]
        usable = int(own["usable"].sum())
        row: dict[str, Any] = {"stories": len(frame)}
        row |= prompt_table(frame, own, encoders)[columns].mean()
        row |= own[["usable", *FAULTS]].mean()
        row["unreadable"] = paid["unreadable"].mean()
        row["calls"] = int(paid["calls"].fillna(1).sum())
        for name in ("prompt", "completion"):
            total = paid[f"{name}_tokens"].sum(skipna=False)
            row[f"{name} tokens per usable"] = float(total) / usable if usable else math.inf
        rows[source] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
