"""reddit-reward: a language model with one output that says how well a story would be received.

Its input, the scale of its scores, training and scoring. `reward_trial` decides whether it measures
quality, on prompts and writers that it never saw.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..models.policy import (
    cannot_load,
    default_device,
    load_adapter,
    lora_config,
    make_room,
    model_source,
    number_type,
)
from ..models.smollm2 import HUB_NAME
from ..settings import CourseError, Profile
from ..storage.files import read_json, short_digest, write_json
from ..training.run_folder import last_checkpoint, run_facts

if TYPE_CHECKING:
    import pandas as pd

LORA = {"lora_r": 16, "lora_alpha": 32}  # of the paper's reward (arXiv 2503.17126)
END = "</response>"
# Beside its SFT settings and stories a training depends on these settings of the profile.
SETTINGS = {"reward", "dtype", "attention", "lora_targets", "max_length", "micro_batch", "seed"}


def compress(votes: Any, times: int = 100) -> np.ndarray:
    """Votes passed `times` times through log1p, as an odd function of any shape.

    From 0 up this is the paper's compression; below, where log1p ends in NaN, its mirror image.
    """
    votes = np.asarray(votes, dtype=np.float64)
    size = np.abs(votes)
    for _ in range(times):
        size = np.log1p(size)
    return np.copysign(size, votes)


@dataclass(frozen=True)
class Target:
    """The reward's scale: scores compressed `times` times, then [low, high] mapped to [-1, 1]."""

    low: float
    high: float
    times: int = 100

    @classmethod
    def fit(cls, scores: Any, times: int = 100) -> Target:
        """The scale of a data set; `times` is 0 for scores on a bounded scale."""
        scores = np.asarray(scores, dtype=np.float64)
        if not len(scores) or not np.isfinite(scores).all():
            raise CourseError("A reward needs a finite score for every story: leave others out.")
        values = compress(scores, times)
        return cls(float(values.min()), float(values.max()), times)

    def __call__(self, scores: Any) -> np.ndarray:
        """(N,) scores on the reward's scale; all 0 where the data set knew a single value."""
        values = compress(scores, self.times)
        if self.high == self.low:
            return np.zeros_like(values)
        return 2 * (values - self.low) / (self.high - self.low) - 1


def public_backbone(profile: Profile) -> str:
    """The backbone's name for records: a Hub id, never a folder of this machine."""
    name = profile.reward
    if name == "smollm2-wheel":
        return HUB_NAME
    return Path(name).name if Path(name).exists() else name


def reward_inputs(stories: pd.DataFrame) -> list[str]:
    """What the reward reads of each story, in the paper's form."""
    pairs = zip(stories["prompt"], stories["text"], strict=True)
    return [f"<prompt>{prompt}</prompt><response>{text}{END}" for prompt, text in pairs]


def tokenize(tokenizer: Any, texts: list[str], max_length: int) -> list[list[int]]:
    """Token ids of reward inputs; one too long loses the end of its story, not the closing tag."""
    tail = tokenizer(END, add_special_tokens=False)["input_ids"]
    rows, cut = [], 0
    for ids in tokenizer(texts, verbose=False)["input_ids"]:
        if len(ids) > max_length:
            ids = ids[: max_length - len(tail)] + tail
            cut += 1
        rows.append(ids)
    if cut:
        message = f"The reward reads {max_length} tokens: {cut} of {len(rows)} stories are cut."
        warnings.warn(message, stacklevel=2)
    return rows


class _Head(torch.nn.Linear):
    """One output in float32 behind a body of any number type."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def load_reward(profile: Profile, folder: Path | None = None) -> tuple[Any, Any]:
    """The reward (backbone, LoRA, one-output head) on the default device, and its tokenizer.

    `folder` is that of a trained reward, which comes in eval mode; without one it is fresh, and its
    head of zeros scores every story alike. Raises CourseError if a part cannot be loaded.
    """
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    make_room()
    source = model_source(profile.reward)
    options = {"dtype": number_type(profile), "trust_remote_code": False}
    if profile.attention != "sdpa":  # the default where a model can; Gemma 2 refuses it by name
        options["attn_implementation"] = profile.attention
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, padding_side="right", trust_remote_code=False
        )
        with suppress_seqcls_warning():  # the missing head is meant to be missing
            model = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=1, **options
            )
    except Exception as error:
        raise cannot_load("reward's backbone", profile.reward, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    text_config = model.config.get_text_config()
    text_config.pad_token_id = tokenizer.pad_token_id
    text_config.use_cache = False
    # what PEFT writes into the adapter's folder must mean something on other machines
    model.name_or_path = model.config._name_or_path = public_backbone(profile)
    model.score = _Head(text_config.hidden_size, 1, bias=False)
    torch.nn.init.zeros_(model.score.weight)
    model = model.to(default_device())
    if folder is not None:
        return load_adapter(model, folder).eval(), tokenizer
    set_seed(profile.seed)
    lora = lora_config(replace(profile, **LORA))
    lora.task_type = "SEQ_CLS"
    model = get_peft_model(model, lora)
    if profile.gradient_checkpointing:
        model.enable_input_require_grads()
    return model, tokenizer


def score_stories(
    profile: Profile, model: Any, tokenizer: Any, stories: pd.DataFrame
) -> np.ndarray:
    """(N,) scores of stories (prompt, text) on `Target`'s scale, by a reward of `load_reward`."""
    ids = tokenize(tokenizer, reward_inputs(stories), profile.max_length)
    scores = np.zeros(len(ids))
    order = np.argsort([len(row) for row in ids], kind="stable")
    for start in range(0, len(ids), profile.sample_batch):
        rows = order[start : start + profile.sample_batch]
        batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch.to(model.device)).logits
        scores[rows] = logits[:, 0].float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise CourseError("The reward gives scores that are no numbers: train it again.")
    return scores


def _mean_absolute_error(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> Any:
    """Over the whole batch, however it is divided."""
    count = len(labels) if num_items_in_batch is None else num_items_in_batch
    return (outputs.logits[:, 0] - labels).abs().sum() / count


def _trainer(profile: Profile, stories: pd.DataFrame, folder: Path, target: Target) -> Any:
    from transformers import Trainer, TrainingArguments

    model, tokenizer = load_reward(profile)
    ids = tokenize(tokenizer, reward_inputs(stories), profile.max_length)
    labels = target(stories["score"])
    # An example is a part of a batch: stories of similar length, so that little is padded. The
    # parts never change and the trainer draws their order, so a resumed run finds the same batches.
    size = math.gcd(profile.sft_batch_size, 2 * profile.micro_batch)
    lengths = [len(row) for row in ids]
    shuffled = np.random.default_rng(profile.seed).permutation(len(ids))
    order = np.lexsort((shuffled, lengths))  # equal lengths at random
    parts = [order[start : start + size] for start in range(0, len(ids), size)]

    def collate(examples: list[np.ndarray]) -> dict[str, Any]:
        (rows,) = examples
        batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor(labels[rows], dtype=torch.float32)}

    cuda = torch.cuda.is_available()
    args = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=profile.sft_batch_size // size,
        learning_rate=profile.sft_learning_rate,
        max_steps=profile.sft_steps or -1,
        num_train_epochs=profile.sft_epochs,
        warmup_steps=profile.sft_warmup_steps,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.5},
        remove_unused_columns=False,
        fp16=cuda and model.dtype == torch.float16,
        gradient_checkpointing=profile.gradient_checkpointing,
        dataloader_pin_memory=cuda,
        logging_steps=5,
        logging_first_step=True,
        report_to=profile.report_to,
        save_steps=profile.checkpoint_every,
        save_total_limit=1,
        seed=profile.seed,
    )
    return Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=parts,
        data_collator=collate,
        compute_loss_func=_mean_absolute_error,
    )


def train_reward(
    profile: Profile, stories: pd.DataFrame, folder: Path, target: Target
) -> dict[str, Any]:
    """Train a reward by L1 regression on scored stories; save its adapter; return its record.

    The paper gives no schedule for its reward: it is that of the profile's SFT. A killed training
    goes on from its last checkpoint; a finished one in `folder` is kept, and one on other stories
    (prompt, text, score) or settings replaces it.
    """
    backbone = public_backbone(profile)
    facts = {"objective": "regression", "backbone": backbone, "stories": len(stories)}
    settings = {
        name: value
        for name, value in asdict(profile).items()
        if name in SETTINGS or name.startswith("sft_")
    }
    content = [reward_inputs(stories), stories["score"].tolist()]
    run = short_digest(facts, asdict(target), settings, *content, length=16)
    path, unfinished = folder / "reward.json", folder / f"unfinished-{run}"
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise CourseError(f"{path} is damaged: delete it, and run the command again.")
    if record.get("run") == run:
        return record
    started = time.perf_counter()
    trainer = _trainer(profile, stories, unfinished, target)
    trainer.train(resume_from_checkpoint=str(last_checkpoint(unfinished) or "") or None)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise CourseError(
                f"The reward's training diverged: lower sft_learning_rate, and delete {unfinished}."
            )
    trainer.model.eval().save_pretrained(folder, save_embedding_layers=False)
    steps = trainer.state.global_step
    record = run_facts(profile, **facts, run=run, target=asdict(target), steps=steps)
    record["seconds"] = round(time.perf_counter() - started, 1)
    record["log"] = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_json(path, record)  # last: it marks the training as finished
    shutil.rmtree(unfinished, ignore_errors=True)
    return record
