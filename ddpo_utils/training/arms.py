"""Arms: the ways of training that are compared, with the stories and weights that make them.

    sft                         supervised fine-tuning, from which the next four start
    dpo                         every weight 1
    ddpo, ddpo-sem, ddpo-sty    deviation weights, measured by both encoders or by one
    shuffled                    the control: DDPO's weights shuffled among each prompt's winners
    divpo                       DPO on pairs that deviation chose
    orpo, dorpo                 from the starting model; DORPO has deviation weights

shuffled, divpo and dorpo take -sem and -sty as ddpo does. Folders and records bear these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus.stories import development_prompts
from ..corpus.writing_prompts import stories_of
from ..deviation import deviation_weights
from ..embeddings.encoders import embed_corpus
from ..models.policy import load_tokenizer
from ..pairs import shuffled_weights
from ..settings import METHODS, CourseError, Profile, weight_kinds, work_dir

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ARMS",
    "Arm",
    "all_stories",
    "arm_weights",
    "group_weights",
    "response_weights",
    "training_stories",
]

ARMS = ("dpo", "ddpo", "shuffled")  # what notebooks and recorded runs compare
SUFFIXES = {"both": "", "semantic": "-sem", "style": "-sty"}
LARGE_CORPUS = 10_000  # stories above which embeddings are computed in half precision


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
        method, dash, encoder = name.partition("-")
        suffixed = {suffix: kind for kind, suffix in SUFFIXES.items()} | {"": weights}
        if method not in METHODS or dash + encoder not in suffixed:
            raise CourseError(f"There is no arm {name!r}: name one of {', '.join(METHODS)}.")
        if method == "shuffled":
            return cls("ddpo", suffixed[dash + encoder], control=True)
        return cls(method, suffixed[dash + encoder])

    @property
    def command(self) -> str:
        """The method as `train --method` calls it."""
        return "shuffled" if self.control else self.method

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


def group_weights(
    rows: pd.DataFrame, groups: Sequence[Any], profile: Profile, floor: float = 0.0
) -> np.ndarray:
    """Deviation weights (N,) of stories within their groups, by the profile's encoders."""
    texts, half = rows["text"].tolist(), len(rows) > LARGE_CORPUS
    embeddings = [
        embed_corpus(texts, getattr(profile, kind), half=half)
        for kind in weight_kinds(profile.weights)
    ]
    return deviation_weights(*embeddings, groups=groups, floor=floor)


def response_weights(stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile) -> pd.Series:
    """Deviation weight of each response in a pair, by its row in `stories`; K in sum a prompt."""
    import pandas as pd

    rows = stories.loc[sorted({*pairs["chosen_row"], *pairs["rejected_row"]})]
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
