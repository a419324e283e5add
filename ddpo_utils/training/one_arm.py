"""One training run with TRL: SFT, DPO and DDPO from an SFT adapter, ORPO and DORPO without one.

Each takes the settings from a profile, saves adapter, record and checkpoints in a folder, keeps a
finished run, and goes on with a killed one. They run alone or under `accelerate launch`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..corpus.text import as_messages
from ..models.policy import load_policy, lora_config, number_type, public_name
from ..models.prompting import answer_end, render, render_exchanges
from ..models.smollm2 import first_line
from ..settings import CourseError, Profile
from ..storage.adapters import adapter_digest
from ..storage.files import read_json, short_digest
from ..storage.locks import locked
from .arms import Arm, short_enough
from .loop import train_and_save
from .plan import split_batch
from .reference import KLCallback, add_reference
from .run_folder import open_run, process, run_facts

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "check_batch",
    "to_dataset",
    "train_pairs",
    "train_sft",
    "trainer_arguments",
    "weight_facts",
]

# settings that TRL's configurations have under the same name
AS_IN_TRL = ("max_length", "seed", "gradient_checkpointing", "max_grad_norm", "weight_decay")
AS_IN_TRL += ("adam_beta1", "adam_beta2", "adam_epsilon", "report_to")
SFT_END = 0.5  # the cosine of SFT ends at this share of the peak (arXiv 2503.17126)


def train_sft(
    profile: Profile, stories: pd.DataFrame, folder: Path, **facts: Any
) -> dict[str, Any]:
    """The record of SFT: a fresh LoRA adapter trained on the stories, loss on responses alone.

    Args:
        facts: further entries of the record.

    Raises:
        CourseError: no story is short enough, the folder is another run's or another process
            writes there, the run diverges, or the disk is full (the next call goes on).
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if 0 < profile.sft_steps <= profile.sft_warmup_steps:
        warnings.warn(
            f"All {profile.sft_steps} SFT steps are warm-up: lower sft_warmup_steps.", stacklevel=2
        )
    with locked(folder):
        if record := open_run(folder, profile, Arm("sft")):
            return record
        started = time.perf_counter()
        model, tokenizer = load_policy(profile)
        stories, too_long = short_enough(profile, stories, tokenizer)
        columns = {
            "prompt": [as_messages("user", text) for text in stories["prompt"]],
            "completion": [as_messages("assistant", text) for text in stories["text"]],
        }
        args = trainer_arguments(
            SFTConfig,
            folder,
            profile,
            "sft_",
            completion_only_loss=True,
            warmup_steps=profile.sft_warmup_steps,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": SFT_END},
        )
        data, lora = Dataset.from_dict(columns), lora_config(profile)
        trainer = _make_trainer(SFTTrainer, model, args, data, tokenizer, peft_config=lora)
        record = run_facts(profile, arm="sft", stories=len(stories), too_long=too_long) | facts
        return train_and_save(trainer, folder, record, started)


def train_pairs(
    profile: Profile,
    pairs: pd.DataFrame,
    weight: Sequence[float] | None,
    folder: Path,
    sft: Path,
    arm: Arm,
    watch: pd.DataFrame | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """The record of a preference arm; arms differ by their weights and nothing else.

    Args:
        weight: one number a pair; None: 1 each.
        sft: folder of the SFT adapter, from which all but ORPO's arms start.
        watch: stories sampled from SFT, along which each checkpoint's KL from SFT is recorded.
        facts: further entries of the record.

    Raises:
        CourseError: as `train_sft`; or too few pairs, or a pair has one text on both sides.
    """
    with locked(folder):
        pairs, too_long = short_enough(profile, _weighted(pairs, weight))
        check_batch(profile, pairs)
        seen = profile.steps * profile.batch_size
        if 0 < seen < len(pairs):  # so that the reference scores no others
            pairs = pairs.sample(seen, random_state=profile.seed)
        if record := open_run(folder, profile, arm, sft if arm.starts_from_sft else None):
            return record
        started = time.perf_counter()
        if arm.starts_from_sft:
            trainer = _dpo_trainer(profile, pairs, folder, sft)
        else:
            trainer = _orpo_trainer(profile, pairs, folder)
        record = run_facts(profile, arm=arm.name, kl={}, **weight_facts(pairs))
        record |= {"pairs_too_long": too_long} | facts
        tokens, config = "trainable_token_indices", sft / "adapter_config.json"
        if watch is not None and not arm.starts_from_sft and read_json(config).get(tokens):
            warnings.warn(
                "The KL is not watched: PEFT cannot save ORPO's adapter beside SFT's trained "
                "tokens.",
                stacklevel=2,
            )
        elif watch is not None:
            callback = KLCallback(trainer, watch, folder / "kl.json", sft)
            trainer.add_callback(callback)
            record["kl"] = callback.kl
        return train_and_save(trainer, folder, record, started)


def _dpo_trainer(profile: Profile, pairs: pd.DataFrame, folder: Path, sft: Path) -> Any:
    """DDPOTrainer from the SFT adapter; the reference is a frozen copy of that adapter."""
    import pandas as pd
    from trl import DPOConfig

    from ..trainers import DDPOTrainer

    model, tokenizer = load_policy(profile, adapter=sft, trainable=True)
    keys = pd.util.hash_pandas_object(pairs[["prompt", "chosen", "rejected"]], index=False)
    options: dict[str, Any] = {"beta": profile.beta, "lr_scheduler_type": "linear"}
    if profile.nll_weight:
        options |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, profile.nll_weight]}
    args = trainer_arguments(DPOConfig, folder, profile, **options)
    data = to_dataset(pairs, pairs["weight"]).add_column("key", keys.to_numpy())
    trainer = _make_trainer(DDPOTrainer, model, args, data, tokenizer)
    trainer.starts_at_reference = True  # so the first loss is ln 2 times the mean weight
    if profile.precompute_reference:  # once for all arms; else in the loop
        reference = short_digest(
            adapter_digest(sft),
            public_name(profile),
            str(model.dtype),
            profile.max_length,
            tokenizer.chat_template,
            tokenizer.eos_token,
        )
        add_reference(trainer, sft / f"reference-{reference}.csv")
    return trainer


def _orpo_trainer(profile: Profile, pairs: pd.DataFrame, folder: Path) -> Any:
    """DORPOTrainer from the starting model, as in the paper, with a fresh adapter."""
    from datasets import Dataset

    from ..trainers import DORPOTrainer, ORPOConfig

    model, tokenizer = load_policy(profile)
    # as texts: TRL's ORPO would add an end of turn behind the chat template's
    columns = {"prompt": render(tokenizer, pairs["prompt"]), "weight": pairs["weight"].tolist()}
    for side in ("chosen", "rejected"):
        exchanges = render_exchanges(tokenizer, pairs["prompt"], pairs[side])
        columns[side] = [answer for _, answer in exchanges]
    _, end = answer_end(tokenizer)
    if end:
        tokenizer.eos_token = end  # TRL adds an end where this one is missing
    if tokenizer.bos_token and not columns["prompt"][0].startswith(tokenizer.bos_token):
        tokenizer.bos_token = None  # and a start that the template does not write
    options = {"beta": profile.orpo_beta, "lr_scheduler_type": "linear"}
    args = trainer_arguments(
        ORPOConfig, folder, profile, "orpo_", remove_unused_columns=False, **options
    )
    data, lora = Dataset.from_dict(columns), lora_config(profile)
    return _make_trainer(DORPOTrainer, model, args, data, tokenizer, peft_config=lora)


def trainer_arguments(
    config: Any, folder: Path, profile: Profile, prefix: str = "", **options: Any
) -> Any:
    """TRL's configuration, of the class `config`, with what all runs have in common.

    `prefix` is that of the profile's settings: "sft_", "orpo_" or none.
    """
    sft = prefix == "sft_"
    part, accumulated = split_batch(profile, sft, process().num_processes)
    steps = profile.sft_steps if sft else profile.steps
    gpu = torch.cuda.is_available()
    dtype = number_type(profile)
    return config(
        output_dir=str(folder / "checkpoints"),
        learning_rate=getattr(profile, f"{prefix}learning_rate"),
        num_train_epochs=getattr(profile, f"{prefix}epochs"),
        max_steps=steps or -1,
        per_device_train_batch_size=part,
        gradient_accumulation_steps=accumulated,
        # on a GPU autocast runs the adapter, float32, in the model's type
        fp16=gpu and dtype == torch.float16,
        bf16=gpu and dtype == torch.bfloat16,
        logging_steps=1,
        save_strategy="steps",
        save_steps=profile.checkpoint_every,
        dataloader_pin_memory=gpu,
        use_cpu=not gpu,
        logging_nan_inf_filter=False,
        ddp_find_unused_parameters=False,
        **{name: getattr(profile, name) for name in AS_IN_TRL},
        **options,
    )


def to_dataset(pairs: pd.DataFrame, weight: Sequence[float] | None = None) -> Any:
    """Pairs as a `datasets.Dataset` in TRL's conversational form, with a `weight` column.

    `weight` has one number a pair (else ValueError), in the order of the frame; None: 1 each.
    """
    from datasets import Dataset

    pairs = _weighted(pairs, weight)
    columns = {
        "prompt": [as_messages("user", text) for text in pairs["prompt"]],
        "chosen": [as_messages("assistant", text) for text in pairs["chosen"]],
        "rejected": [as_messages("assistant", text) for text in pairs["rejected"]],
        "weight": pairs["weight"].tolist(),
    }
    return Dataset.from_dict(columns)


def weight_facts(pairs: pd.DataFrame) -> dict[str, Any]:
    """Number of pairs, mean of their column `weight`, and effective pairs, (sum w)^2 / sum w^2."""
    weights = pairs["weight"].to_numpy()
    total = weights.sum()
    effective = float(total**2 / (weights**2).sum()) if total else 0.0
    return {"pairs": len(pairs), "mean_weight": float(weights.mean()), "effective_pairs": effective}


def check_batch(profile: Profile, pairs: pd.DataFrame) -> None:
    """CourseError: the pairs do not fill a batch, processes cannot share one, or texts are equal.

    A pair whose two sides are one text teaches nothing, and one of its scores must be wrong.
    """
    split_batch(profile, sft=False, processes=process().num_processes)
    same = pairs["chosen"].str.strip() == pairs["rejected"].str.strip()
    if same.any():
        raise CourseError(
            f"{same.sum()} pairs have the same text as chosen and rejected, such as one for the "
            f"prompt {pairs['prompt'][same].iloc[0][:60]!r}: keep one of the two responses."
        )
    if profile.steps and len(pairs) < profile.batch_size:
        raise CourseError(
            f"{len(pairs)} pairs do not fill one batch of {profile.batch_size}: add stories or "
            "lower batch_size."
        )


def _weighted(pairs: pd.DataFrame, weight: Sequence[float] | None) -> pd.DataFrame:
    """The pairs with a column `weight`, 1 each if `weight` is None."""
    return pairs.assign(weight=1.0 if weight is None else np.asarray(weight, dtype=float))


def _make_trainer(
    trainer: Any, model: Any, args: Any, data: Any, tokenizer: Any, **options: Any
) -> Any:
    try:
        return trainer(
            model=model, args=args, train_dataset=data, processing_class=tokenizer, **options
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        raise CourseError(
            f"These settings make no trainer ({first_line(error)}): check lora_targets, and "
            "report_to, which names an installed tracker."
        ) from None
