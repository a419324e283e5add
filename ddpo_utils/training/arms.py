"""Arms: the ways of training that are compared, with the stories and weights that make them.

    sft                         supervised fine-tuning, from which the next four start
    dpo                         every weight 1
    ddpo, ddpo-sem, ddpo-sty    deviation weights, measured by both encoders or by one
    shuffled                    the control: DDPO's weights shuffled among each prompt's winners
    divpo                       DPO on pairs that deviation chose
    orpo, dorpo                 from the starting model; DORPO has deviation weights
    dorpo-shuffled              its control

All of them but sft, dpo and orpo take -sem and -sty as ddpo does. Folders and records have these
names.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import development_prompts, is_writing_prompts, load_stories
from ..corpus.writing_prompts import stories_of, token_counts
from ..deviation import deviation_weights
from ..embeddings.encoders import embed_corpus
from ..models.policy import load_tokenizer
from ..pairs import make_pairs, shuffled_weights
from ..settings import (
    METHODS,
    WRITING_PROMPTS,
    CourseError,
    Profile,
    course_errors,
    weight_kinds,
    work_dir,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ARMS",
    "Arm",
    "all_stories",
    "arm_weights",
    "data_size",
    "group_weights",
    "response_weights",
    "short_enough",
    "training_stories",
]

ARMS = ("dpo", "ddpo", "shuffled")  # what notebooks and recorded runs compare
SUFFIXES = {"both": "", "semantic": "-sem", "style": "-sty"}
CONTROLS = {"shuffled": "ddpo", "dorpo-shuffled": "dorpo"}  # with shuffled weights: of which method
LARGE_CORPUS = 10_000  # stories above which embeddings are computed in half precision
PAPER_RESPONSES = 421_330  # in training (arXiv 2503.17126)
PAPER_POSTS = 95_000  # that they answer, about
TOKENS = 600  # assumed: a response of r/writingPrompts with its prompt


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    method: str  # sft, dpo, ddpo, divpo, orpo or dorpo
    weights: str = "both"  # what deviation is measured by; unused by sft, dpo and orpo
    control: bool = False  # weights shuffled among the winners of each prompt

    @classmethod
    def parse(cls, name: str, weights: str = "both") -> Arm:
        """The arm of this name; `weights` is meant where the name has no suffix."""
        weight_kinds(weights)  # refuses unknown ones
        command = name.removesuffix("-sem").removesuffix("-sty")
        kinds = {"": weights, "-sem": "semantic", "-sty": "style"}
        kind = name.removeprefix(command)
        if command not in METHODS or kind not in kinds:
            raise CourseError(f"There is no arm {name!r}: name one of {', '.join(METHODS)}.")
        return cls(CONTROLS.get(command, command), kinds[kind], command in CONTROLS)

    @property
    def command(self) -> str:
        """The method as `train --method` calls it."""
        if not self.control:
            return self.method
        return next(name for name, method in CONTROLS.items() if method == self.method)

    @property
    def name(self) -> str:
        """The name of the arm's folder and record."""
        if self.method in ("sft", "dpo", "orpo"):
            return self.method
        return self.command + SUFFIXES[self.weights]

    @property
    def starts_from_sft(self) -> bool:
        return self.method in ("dpo", "ddpo", "divpo")


def all_stories(profile: Profile) -> pd.DataFrame:
    """The stories of the profile's data with their splits; r/writingPrompts is cleaned once."""
    tokenizer = load_tokenizer(profile) if profile.data != "bundled" else None
    return stories_of(profile, tokenizer, work_dir(profile) / "data")


def training_stories(profile: Profile, stories: pd.DataFrame | None = None) -> pd.DataFrame:
    """The stories that SFT, pairs and weights are made of: the training split.

    Of the bundled stories, those by the authors, without the development prompts.
    """
    stories = all_stories(profile) if stories is None else stories
    train = stories["split"] == "train"
    if profile.data == "bundled":
        train &= stories["source"] == "authors"
        train &= ~stories["prompt_id"].isin(development_prompts())
    if not train.any():
        raise CourseError(
            f"{profile.data} holds no story of the training split: check its column `split`."
        )
    return stories[train]


def short_enough(
    profile: Profile, rows: pd.DataFrame, tokenizer: Any = None
) -> tuple[pd.DataFrame, int]:
    """(the stories or pairs that fit in max_length with their prompt, how many do not).

    The rule is that of r/writingPrompts, whose stories have been through it. Warns of what is left
    out, and raises CourseError where nothing is left.
    """
    if is_writing_prompts(profile.data):
        return rows, 0
    tokenizer = tokenizer or load_tokenizer(profile)
    columns = ["text"] if "text" in rows else ["chosen", "rejected"]
    lengths = np.zeros(len(rows), dtype=int)
    for column in columns:
        texts = rows[["prompt", column]].set_axis(["prompt", "text"], axis=1)
        lengths = np.maximum(lengths, token_counts(texts, tokenizer))
    fits = lengths <= profile.max_length
    if fits.all():
        return rows, 0
    name = "responses" if columns == ["text"] else "pairs"
    if not fits.any():
        raise CourseError(
            f"All {len(rows)} {name} are longer than max_length, {profile.max_length} tokens with "
            f"the prompt (the shortest has {lengths.min()}): raise --max-length."
        )
    left_out = int((~fits).sum())
    warnings.warn(
        f"{left_out} of {len(rows)} {name} are longer than max_length, {profile.max_length} tokens "
        "with the prompt, and are left out: --max-length raises it.",
        stacklevel=2,
    )
    return rows[fits], left_out


def data_size(profile: Profile) -> tuple[int, int, float, str]:
    """(responses, pairs, tokens a response with its prompt, where these come from), for a plan."""
    if is_writing_prompts(profile.data):
        if profile.data != WRITING_PROMPTS and not Path(profile.data).exists():
            raise CourseError(f"There are no data at {profile.data}: check --data.")
        responses = PAPER_RESPONSES
        if profile.prompts:
            responses = int(PAPER_RESPONSES * min(1, profile.prompts / PAPER_POSTS))
        source = (
            f"{responses:,} of the paper's {PAPER_RESPONSES:,} responses (yours are not counted); "
            f"at most half as many pairs; {TOKENS} tokens a response with its prompt (assumed)"
        )
        return responses, responses // 2, TOKENS, source
    stories = training_stories(profile, load_stories(profile.data, profile.columns))
    with course_errors():
        pairs = make_pairs(stories, min_gap=profile.min_gap, seed=profile.seed)
    characters = stories["prompt"].str.len() + stories["text"].str.len()
    tokens = characters.mean() / 4 + 30
    name = Path(profile.data).name
    source = f"{len(stories):,} training stories ({name}), 4 characters a token, a template of 30"
    return len(stories), len(pairs), tokens, source


def group_weights(
    rows: pd.DataFrame, groups: Sequence[Any], profile: Profile, floor: float = 0.0
) -> np.ndarray:
    """Deviation weights (N,) of stories within their groups, by the profile's encoders."""
    texts = rows["text"].tolist()
    half = len(texts) > LARGE_CORPUS
    encoders = [getattr(profile, kind) for kind in weight_kinds(profile.weights)]
    embeddings = [embed_corpus(texts, encoder, half=half) for encoder in encoders]
    return deviation_weights(*embeddings, groups=groups, floor=floor)


def response_weights(stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile) -> pd.Series:
    """Deviation weight of each response in a pair, by its row in `stories`; K in sum a prompt."""
    import pandas as pd

    in_pairs = {*pairs["chosen_row"], *pairs["rejected_row"]}
    rows = stories.loc[sorted(in_pairs)]
    weight = group_weights(rows, rows["prompt_id"].to_numpy(), profile, profile.floor)
    return pd.Series(weight, index=rows.index, name="weight")


def arm_weights(
    stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile, arms: Sequence[str] = ARMS
) -> dict[str, np.ndarray | None]:
    """The pairs' weights (N,) by the arms' names; None where every weight is 1."""
    weights: dict[str, np.ndarray | None] = {}
    for name in arms:
        arm = Arm.parse(name, profile.weights)
        weights[name] = None
        if arm.method in ("ddpo", "dorpo"):
            by_row = response_weights(stories, pairs, replace(profile, weights=arm.weights))
            weights[name] = by_row.loc[pairs["chosen_row"]].to_numpy()
        if arm.control:
            weights[name] = shuffled_weights(pairs, weights[name], profile.seed)
    return weights
