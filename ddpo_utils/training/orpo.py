"""The ORPO arms: training from the starting model, with a fresh LoRA adapter and without a reference."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus.text import as_messages
from ..models.policy import load_policy, lora_config
from ..models.smollm2 import first_line
from ..settings import CourseError, Profile
from .recipes import make_trainer, seen_pairs, train_and_save, trainer_arguments, weight_facts
from .reference import watch_kl
from .runs import open_run, run_facts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["train_orpo"]


def train_orpo(
    profile: Profile,
    pairs: pd.DataFrame,
    weight: Sequence[float] | None,
    folder: Path,
    arm: str,
    sft: Path | None = None,
    watch: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """ORPO where `weight` is None, else DORPO with these weights; one record, kept or gone on with as by `train_pairs`.

    It begins from the starting model, as the paper's does. No SFT adapter is needed; where there is one, the KL from it
    is watched as in the other arms, and training is the same.

    Args:
        profile: orpo_beta (the paper's lambda), orpo_learning_rate, steps (0: `orpo_epochs` passes), batch, seed.
        pairs, weight, folder, arm: as for `train_pairs`.
        sft, watch: folder of the SFT adapter and its sampled stories, both or neither.
    """
    from datasets import Dataset

    from ..trainers import DORPOTrainer, ORPOConfig

    pairs = seen_pairs(profile, pairs, weight)
    if open_run(folder, profile, arm):
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    started = time.perf_counter()
    model, tokenizer = load_policy(profile)
    chats = [as_messages("user", prompt) for prompt in pairs["prompt"]]
    data = Dataset.from_dict(  # as texts: behind a template's end of turn TRL's ORPO would put another one
        {
            "prompt": tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=False
            ),
            "chosen": [text + tokenizer.eos_token for text in pairs["chosen"]],
            "rejected": [text + tokenizer.eos_token for text in pairs["rejected"]],
            "weight": pairs["weight"].tolist(),
        }
    )
    args = trainer_arguments(
        ORPOConfig,
        folder,
        profile,
        profile.batch_size,
        profile.micro_batch,
        learning_rate=profile.orpo_learning_rate,
        beta=profile.orpo_beta,
        num_train_epochs=profile.orpo_epochs,
        max_steps=profile.steps or -1,
        lr_scheduler_type="linear",
        remove_unused_columns=False,
    )
    trainer = make_trainer(
        DORPOTrainer,
        model=model,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(profile),
    )
    kl: dict[int, float] = {}
    if sft is not None and watch is not None:
        try:
            trainer.model.load_adapter(str(sft), adapter_name="ref")
            adapters = (
                trainer.model.peft_config
            )  # PEFT looks the base model up whenever it saves: here, not on the Hub
            adapters["ref"].base_model_name_or_path = adapters["default"].base_model_name_or_path
        except (RuntimeError, ValueError) as error:
            raise CourseError(
                f"The SFT adapter in {sft}, from which the KL is watched, does not fit ({first_line(error)}): name "
                "another folder (--output, --sft)."
            ) from None
        trainer.add_callback(watch_kl(trainer, watch, folder / "kl.json", kl))
    return train_and_save(
        trainer, folder, run_facts(profile, arm=arm, kl=kl, **weight_facts(pairs)), started
    )
