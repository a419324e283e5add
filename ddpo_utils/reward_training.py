"""Training of reddit-reward: L1 regression on compressed scores (the paper's), or Bradley-Terry on preference pairs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .corpus import make_pairs
from .profiles import CourseError, Profile
from .reward import Target, load_reward, public_backbone, reward_inputs, tokenize
from .runs import last_checkpoint, run_facts, write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OBJECTIVES", "train_reward"]

OBJECTIVES = ("regression", "bradley-terry")
# what a training depends on besides its stories; the rest of a profile may change and a finished reward stands
SETTINGS = (
    "reward", "dtype", "attention", "lora_targets", "max_length", "min_gap", "micro_batch", "sft_learning_rate",
    "sft_batch_size", "sft_steps", "sft_epochs", "sft_warmup_steps", "seed",
)  # fmt: skip


class _Collator:
    """Token ids padded on the right, with labels as a float32 tensor (B,)."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.tokenizer.pad({"input_ids": [e["input_ids"] for e in examples]}, return_tensors="pt")
        return {**batch, "labels": torch.tensor([e["labels"] for e in examples], dtype=torch.float32)}


def _l1(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean absolute error over the whole batch, however it is made up of parts."""
    count = len(labels) if num_items_in_batch is None else num_items_in_batch
    return (outputs.logits[:, 0] - labels).abs().sum() / count


def _trainer(profile: Profile, stories: pd.DataFrame, folder: Path, objective: str, target: Target) -> Any:
    from datasets import Dataset
    from transformers import Trainer
    from trl import RewardConfig, RewardTrainer

    model, tokenizer = load_reward(profile)
    batch = profile.sft_batch_size  # stories a step; a pair is two
    if objective == "bradley-terry":
        pairs = make_pairs(stories, profile.min_gap, profile.seed)
        sides = {
            f"{side}_ids": tokenize(tokenizer, reward_inputs(pairs.assign(text=pairs[side])), profile.max_length)
            for side in ("chosen", "rejected")
        }
        lengths = [max(map(len, both)) for both in zip(*sides.values(), strict=True)]
        data, batch, most = Dataset.from_dict({**sides, "length": lengths}), max(1, batch // 2), profile.micro_batch
    else:
        ids = tokenize(tokenizer, reward_inputs(stories), profile.max_length)
        labels = target(stories["score"]).tolist()
        data = Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [len(row) for row in ids]})
        most = 2 * profile.micro_batch
    part = math.gcd(batch, most)
    cuda = torch.cuda.is_available()
    args = RewardConfig(
        output_dir=str(folder / "checkpoints"), per_device_train_batch_size=part,
        gradient_accumulation_steps=batch // part, learning_rate=profile.sft_learning_rate,
        max_steps=profile.sft_steps or -1, num_train_epochs=profile.sft_epochs,
        warmup_steps=profile.sft_warmup_steps,
        lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.5},
        train_sampling_strategy="group_by_length", remove_unused_columns=False, max_length=None,
        bf16=False, fp16=cuda and model.dtype == torch.float16, gradient_checkpointing=profile.gradient_checkpointing,
        dataloader_pin_memory=cuda, logging_steps=5, logging_first_step=True, report_to=profile.report_to,
        save_steps=profile.checkpoint_every, save_total_limit=1, seed=profile.seed,
    )  # fmt: skip
    if objective == "bradley-terry":
        return RewardTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    return Trainer(
        model=model, args=args, train_dataset=data, processing_class=tokenizer, data_collator=_Collator(tokenizer),
        compute_loss_func=_l1,
    )  # fmt: skip


def train_reward(
    profile: Profile,
    stories: pd.DataFrame,
    folder: Path,
    objective: str = "regression",
    target: Target | None = None,
) -> dict[str, Any]:
    """Train a reward on scored stories and save its adapter, with reward.json, in `folder`; returns that record.

    The paper gives LoRA, loss and input of its reward and no schedule: passes, batch, learning rate and warm-up are
    those of the profile's SFT, which reads the same stories one by one. A killed training, called again, goes on
    from its last checkpoint; a finished one is kept.

    Args:
        profile: backbone (`reward`), lengths and schedule.
        stories: prompt_id, prompt, text, score (votes or judges' scores).
        folder: its own; what another training left there is replaced.
        objective: "regression": L1 loss on `target` of the scores (the paper's). "bradley-terry": TRL's RewardTrainer
            on pairs of `corpus.make_pairs`.
        target: scale of the scores; None fits it to `stories` as votes.

    Raises:
        CourseError: an objective that does not exist, or scores that cannot be learnt from.
    """
    if objective not in OBJECTIVES:
        raise CourseError(f"There is no objective {objective!r}: choose one of {', '.join(OBJECTIVES)}.")
    target = target or Target.fit(stories["score"])
    facts = {"objective": objective, "backbone": public_backbone(profile), "stories": len(stories)}
    settings = {name: getattr(profile, name) for name in SETTINGS}
    content = [facts, asdict(target), settings, reward_inputs(stories), stories["score"].tolist()]
    run = hashlib.sha256(json.dumps(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    marks = [folder / name for name in ("reward.json", "begun.json")]
    known = [json.loads(mark.read_text(encoding="utf-8")) for mark in marks if mark.is_file()]
    if any(record["run"] != run for record in known):
        shutil.rmtree(folder)
    elif marks[0].is_file():
        return known[0]
    write_json(marks[1], {"run": run})
    started = time.perf_counter()
    trainer = _trainer(profile, stories, folder, objective, target)
    trainer.train(resume_from_checkpoint=str(last_checkpoint(folder) or "") or None)
    trainer.model.eval().save_pretrained(folder, save_embedding_layers=False)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": facts["backbone"]})
    record = run_facts(profile, **facts, run=run, target=asdict(target), steps=trainer.state.global_step)
    record["seconds"] = round(time.perf_counter() - started, 1)
    record["log"] = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_json(marks[0], record)  # last: it marks the training as finished
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record
