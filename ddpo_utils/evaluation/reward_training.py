"""Training of reddit-reward: L1 regression on compressed scores (the paper's), or Bradley-Terry on preference pairs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..pairs import make_pairs
from ..settings import CourseError, Profile, course_errors
from ..storage.files import write_json, write_text
from ..training.runs import last_checkpoint, run_facts
from .reward import Target, load_reward, public_backbone, reward_inputs, tokenize

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OBJECTIVES", "train_reward"]

OBJECTIVES = ("regression", "bradley-terry")
# what a training depends on besides its stories; the rest of a profile may change and a finished reward stands
SETTINGS = (
    "reward",
    "dtype",
    "attention",
    "lora_targets",
    "max_length",
    "min_gap",
    "micro_batch",
    "sft_learning_rate",
    "sft_batch_size",
    "sft_steps",
    "sft_epochs",
    "sft_warmup_steps",
    "seed",
)


class _Parts:
    """Collator of a data set whose rows are whole parts of a batch: columns of lists, one entry a story or pair."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [
            dict(zip(part, row, strict=True))
            for part in parts
            for row in zip(*part.values(), strict=True)
        ]
        return self.collate(rows)


def _in_parts(columns: dict[str, list[Any]], lengths: list[int], size: int, seed: int) -> Any:
    """Stories or pairs of similar length side by side, `size` to a row, so that little is padded. The parts never
    change and the trainer draws their order anew each pass, from its seed: a resumed run finds the same batches."""
    from datasets import Dataset

    order = np.lexsort((np.random.default_rng(seed).permutation(len(lengths)), lengths))
    rows = [order[start : start + size] for start in range(0, len(order), size)]
    return Dataset.from_dict(
        {name: [[column[i] for i in row] for row in rows] for name, column in columns.items()}
    )


def _l1(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean absolute error over the whole batch, however it is made up of parts."""
    count = len(labels) if num_items_in_batch is None else num_items_in_batch
    return (outputs.logits[:, 0] - labels).abs().sum() / count


def _trainer(
    profile: Profile, stories: pd.DataFrame, folder: Path, objective: str, target: Target
) -> Any:
    from transformers import Trainer
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    model, tokenizer = load_reward(profile)
    if objective == "bradley-terry":
        size, most = (
            max(1, profile.sft_batch_size // 2),
            profile.micro_batch,
        )  # in pairs, each of two stories
        with course_errors():
            pairs = make_pairs(stories, profile.min_gap, profile.seed)
        columns: dict[str, list[Any]] = {
            f"{side}_ids": tokenize(
                tokenizer, reward_inputs(pairs.assign(text=pairs[side])), profile.max_length
            )
            for side in ("chosen", "rejected")
        }
        lengths = [max(map(len, both)) for both in zip(*columns.values(), strict=True)]
    else:
        size, most = profile.sft_batch_size, 2 * profile.micro_batch
        ids = tokenize(tokenizer, reward_inputs(stories), profile.max_length)
        columns, lengths = (
            {"input_ids": ids, "labels": target(stories["score"]).tolist()},
            [len(row) for row in ids],
        )
    part, cuda = math.gcd(size, most), torch.cuda.is_available()
    args = RewardConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=size // part,
        learning_rate=profile.sft_learning_rate,
        max_steps=profile.sft_steps or -1,
        num_train_epochs=profile.sft_epochs,
        warmup_steps=profile.sft_warmup_steps,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.5},
        remove_unused_columns=False,
        max_length=None,
        bf16=False,
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
    common = {
        "model": model,
        "args": args,
        "processing_class": tokenizer,
        "train_dataset": _in_parts(columns, lengths, part, profile.seed),
    }
    if objective == "bradley-terry":
        return RewardTrainer(
            data_collator=_Parts(DataCollatorForPreference(tokenizer.pad_token_id)), **common
        )

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = tokenizer.pad(
            {"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt"
        )
        return {
            **batch,
            "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.float32),
        }

    return Trainer(data_collator=_Parts(collate), compute_loss_func=_l1, **common)


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
        raise CourseError(
            f"There is no objective {objective!r}: choose one of {', '.join(OBJECTIVES)}."
        )
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
    write_json(
        folder / "adapter_config.json", config | {"base_model_name_or_path": facts["backbone"]}
    )
    record = run_facts(
        profile, **facts, run=run, target=asdict(target), steps=trainer.state.global_step
    )
    record["seconds"] = round(time.perf_counter() - started, 1)
    write_text(folder / "README.md", _card(record, profile))
    record["log"] = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_json(marks[0], record)  # last: it marks the training as finished
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def _card(record: dict[str, Any], profile: Profile) -> str:
    """A model card; PEFT's own would name this machine's folder as the base model."""
    data = Path(profile.data).name if Path(profile.data).exists() else profile.data
    goal = (
        "on the scores' scale (L1)"
        if record["objective"] == "regression"
        else "by preference pairs (Bradley-Terry)"
    )
    return f"""---
base_model: {record["backbone"]}
library_name: peft
tags: [reward-model, creative-writing]
---

# reddit-reward on {record["backbone"].rsplit("/", 1)[-1]}

A LoRA adapter with one output, trained with `ddpo_utils` {goal} on {record["stories"]} scored stories ({data}), after
arXiv 2503.17126. It reads `<prompt>..</prompt><response>..</response>`, up to {profile.max_length} tokens.

```python
base = AutoModelForSequenceClassification.from_pretrained("{record["backbone"]}", num_labels=1)
model = PeftModel.from_pretrained(base, "this folder")
```

How far it can be trusted is not measured by its training: `python -m ddpo_utils reward` asks rewards trained in the
same way about prompts and writers that they never saw. Scale of the scores, settings and losses are in reward.json.
"""
