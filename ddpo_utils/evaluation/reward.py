"""reddit-reward: a language model with one output that says how well a story would be received for its prompt.

What it reads, the scale of its scores, loading and scoring stand here, its training in `reward_training`. Whether it
may speak about quality is decided by `reward_trial`, on prompts and writers that it never saw.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..embeddings.encoders import CachedEncoder
from ..models.policy import cannot_load, default_device, make_room, model_source, number_type
from ..models.smollm2 import HUB_NAME
from ..settings import CourseError, Profile, cache_dir, progress_bar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Target", "compress", "load_reward", "score_stories"]

LORA = {
    "r": 16,
    "lora_alpha": 32,
}  # the paper's (arXiv 2503.17126, reward model); targets are the profile's
END = "</response>"


def compress(votes: Any, times: int = 100) -> np.ndarray:
    """Votes passed `times` times through log1p, as an odd function: sign(v) * log1p(... log1p(|v|)).

    For v >= 0 it is the paper's compression; below 0, where log1p ends in NaN, it is its mirror image, so that it is
    finite everywhere and never falls. From 1 up the result is about 1 / (50 + 1/v): 1 against 2 votes counts more
    than 100 against 1,000, and 0 against 1 more than all the rest, as in the paper.

    Args:
        votes: any shape of finite numbers. times: 0 leaves them as they are.
    """
    votes = np.asarray(votes, dtype=np.float64)
    size = np.abs(votes)
    for _ in range(times):
        size = np.log1p(size)
    return np.copysign(size, votes)


@dataclass(frozen=True)
class Target:
    """Scores on the reward's scale: compressed `times` times, then [low, high] stretched to [-1, 1].

    `fit` reads the constants from a data set; they are stored with the adapter, so that human votes (Gold) and the
    model's scores stay on one scale. A score outside the data set's range lies outside [-1, 1].
    """

    low: float
    high: float
    times: int = 100

    @classmethod
    def fit(cls, scores: Any, times: int = 100) -> Target:
        """Constants of a data set; `times` is 100 for votes, 0 for scores on a bounded scale, which need no
        compression.

        Raises:
            CourseError: there is no score, or one that is no finite number.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if not len(scores) or not np.isfinite(scores).all():
            raise CourseError(
                "A reward needs a finite score for every story: fill in or delete the stories without."
            )
        values = compress(scores, times)
        return cls(float(values.min()), float(values.max()), times)

    def __call__(self, scores: Any) -> np.ndarray:
        """(N,) scores on the reward's scale; all 0 where the data set knew a single value."""
        values = compress(scores, self.times)
        if self.high == self.low:
            return np.zeros_like(values)
        return 2 * (values - self.low) / (self.high - self.low) - 1


def reward_inputs(stories: pd.DataFrame) -> list[str]:
    """What the reward reads of each story: `<prompt>..</prompt><response>..</response>` (the paper's form)."""
    pairs = zip(stories["prompt"], stories["text"], strict=True)
    return [f"<prompt>{prompt}</prompt><response>{text}{END}" for prompt, text in pairs]


def tokenize(tokenizer: Any, texts: Iterable[str], max_length: int) -> list[list[int]]:
    """Token ids of reward inputs. One that is too long loses the end of its response, not the closing tag, and a
    warning counts those."""
    ids = tokenizer(list(texts), verbose=False)["input_ids"]
    tail = tokenizer(END, add_special_tokens=False)["input_ids"]
    cut = sum(len(row) > max_length for row in ids)
    if cut:
        warnings.warn(
            f"The reward reads {max_length} tokens: {cut} of {len(ids)} stories are cut.",
            stacklevel=2,
        )
    return [row if len(row) <= max_length else row[: max_length - len(tail)] + tail for row in ids]


class _Head(torch.nn.Linear):
    """One output in float32 behind a body of any number type; it starts at 0, so that every story starts equal."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def load_reward(profile: Profile, folder: Path | None = None) -> tuple[Any, Any]:
    """The reward's backbone with a one-output head under LoRA, and its tokenizer.

    Args:
        profile: `reward` names the backbone; number type, attention and LoRA targets are the profile's.
        folder: of a trained reward; None gives a fresh adapter (seeded by the profile) that is to be trained.

    Returns:
        (PeftModel on the default device, in eval mode where `folder` is given; tokenizer with right padding).

    Raises:
        CourseError: backbone or adapter cannot be fetched or read.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl.trainer.reward_trainer import (
        suppress_seqcls_warning,  # the missing head is meant to be missing
    )

    if folder is not None and not (folder / "adapter_config.json").is_file():
        raise CourseError(
            f"There is no reward in {folder}: train one with `python -m ddpo_utils reward`."
        )
    make_room()
    source, dtype = model_source(profile.reward), number_type(profile)
    # sdpa is what transformers takes by itself where a model can; Gemma 2 cannot and refuses it by name
    attention = {} if profile.attention == "sdpa" else {"attn_implementation": profile.attention}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="right")
        with suppress_seqcls_warning():
            model = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=1, dtype=dtype, **attention
            )
    except Exception as error:
        raise cannot_load("reward's backbone", profile.reward, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    text = model.config.get_text_config()
    text.pad_token_id, text.use_cache = tokenizer.pad_token_id, False
    model.score = _Head(text.hidden_size, 1, bias=False)
    torch.nn.init.zeros_(model.score.weight)
    model = model.to(default_device())
    if folder is None:
        set_seed(profile.seed)
        targets = (
            profile.lora_targets
            if isinstance(profile.lora_targets, str)
            else list(profile.lora_targets)
        )
        model = get_peft_model(
            model, LoraConfig(**LORA, target_modules=targets, task_type="SEQ_CLS")
        )
        if profile.gradient_checkpointing:
            model.enable_input_require_grads()
        return model, tokenizer
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval(), tokenizer
    except Exception as error:
        raise cannot_load("reward", folder.name, error) from None


def public_backbone(profile: Profile) -> str:
    """The backbone's name for records: a Hub id, never a folder of this machine."""
    name = profile.reward
    return HUB_NAME if name == "smollm2-wheel" else Path(name).name if Path(name).exists() else name


class _Scorer:
    """A reward as an encoder with one number a text: loaded at its first text, batches of similar length."""

    def __init__(self, profile: Profile, folder: Path):
        self.profile, self.folder = profile, folder

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_reward(self.profile, self.folder)

    def encode(self, texts: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        model, tokenizer = self._loaded
        ids = tokenize(tokenizer, texts, self.profile.max_length)
        order, scores = (
            sorted(range(len(ids)), key=lambda i: len(ids[i])),
            np.zeros((len(ids), 1), np.float32),
        )
        for start in range(0, len(ids), self.profile.sample_batch):
            part = order[start : start + self.profile.sample_batch]
            batch = tokenizer.pad({"input_ids": [ids[i] for i in part]}, return_tensors="pt").to(
                default_device()
            )
            with torch.no_grad():
                scores[part] = model(**batch).logits.float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise CourseError(
                f"The reward in {self.folder} gives scores that are no numbers: train it again."
            )
        return scores


def score_stories(
    profile: Profile, folder: Path, stories: pd.DataFrame, cache: Path | None = None
) -> np.ndarray:
    """Scores of stories by a trained reward; (N,) float64, in its own unit: `Target`'s scale, or logits of
    Bradley-Terry, whose differences within a prompt are log odds.

    Each distinct story is scored once for this adapter, in batches sorted by length, and kept on disk by adapter,
    prompt and text; a run that was broken off, called again, scores what is missing.

    Args:
        profile: names the backbone that the adapter was trained on.
        folder: of `train_reward`.
        stories: a frame with `prompt` and `text`.
        cache: folder of the scores; None: `rewards` in the cache.

    Raises:
        CourseError: there is no reward, or it does not fit or gives no numbers.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise CourseError(
            f"There is no reward in {folder}: train one with `python -m ddpo_utils reward`."
        )
    made = hashlib.sha256(
        weights.read_bytes() + f"{public_backbone(profile)} {profile.max_length}".encode()
    )
    key = f"{made.hexdigest()[:16]}-{str(number_type(profile)).rsplit('.', 1)[-1]}"
    encoder = CachedEncoder(_Scorer(profile, folder), key, cache or cache_dir() / "rewards")
    texts = reward_inputs(stories)
    distinct = sorted(dict.fromkeys(texts), key=len)
    block = 4 * profile.sample_batch  # what a killed run may lose
    starts = range(0, len(distinct), block)
    found: dict[str, float] = {}
    for start in progress_bar(starts, shown=len(starts) > 1, desc="reward", leave=False):
        part = distinct[start : start + block]
        found.update(zip(part, encoder.encode(part)[:, 0].tolist(), strict=True))
    return np.array([found[text] for text in texts], dtype=np.float64)
