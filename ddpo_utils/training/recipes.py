"""The training runs of the course: SFT, then the preference arms, each from the same SFT adapter (ORPO's, which need
none, are in orpo.py).

Notebook 04 and the command line call these on every profile, alone or under `accelerate launch`; each run saves its
adapter, what made it, and checkpoints from which a killed run goes on.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..corpus.text import as_messages
from ..deviation import deviation_weights
from ..embeddings.corpus_cache import embed_corpus
from ..models.policy import load_policy, lora_config, number_type
from ..models.smollm2 import first_line
from ..settings import CourseError, Profile, weight_kinds
from .reference import add_reference, watch_kl
from .runs import divide, last_checkpoint, open_run, process, run_facts, save_run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "group_weights",
    "make_trainer",
    "response_weights",
    "seen_pairs",
    "train_and_save",
    "train_pairs",
    "train_sft",
    "trainer_arguments",
    "weight_facts",
]


def response_weights(stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile) -> pd.Series:
    """Deviation weight of every response that takes part in a pair, by its row in `stories` (sums to K per prompt).

    The profile says by what (see `group_weights`), and the floor.
    """
    import pandas as pd

    rows = stories.loc[sorted({*pairs["chosen_row"], *pairs["rejected_row"]})]
    weight = group_weights(rows, rows["prompt_id"].to_numpy(), profile, profile.floor)
    return pd.Series(weight, index=rows.index, name="weight")


def group_weights(
    rows: pd.DataFrame, groups: Sequence[Any], profile: Profile, floor: float = 0.0
) -> np.ndarray:
    """Deviation weights (N,) of stories within their groups, by the profile's semantic encoder, its style encoder, or
    both. Up to 10,000 stories are embedded in float32, as on record, and a corpus in half precision."""
    texts, half = rows["text"].tolist(), len(rows) > 10_000
    embeddings = [
        embed_corpus(texts, getattr(profile, kind), half=half)
        for kind in weight_kinds(profile.weights)
    ]
    return deviation_weights(*embeddings, groups=groups, floor=floor)


def trainer_arguments(
    config: Any, folder: Path, profile: Profile, batch: int, most: int, **more: Any
) -> Any:
    """What SFT and the preference arms have in common. `batch` is over all processes, in equal parts of at most `most`
    whose gradients are accumulated, so the steps are the same ones on any number of processes."""
    workers = process().num_processes
    if batch % workers:
        raise CourseError(
            f"A batch of {batch} cannot be shared by {workers} processes: choose a multiple of {workers}."
        )
    part, gpu, dtype = (
        divide(batch // workers, most),
        torch.cuda.is_available(),
        number_type(profile),
    )
    return config(
        output_dir=str(folder / "checkpoints"),
        max_length=profile.max_length,
        seed=profile.seed,
        per_device_train_batch_size=part,
        gradient_accumulation_steps=batch // workers // part,
        # on a GPU autocast runs the adapter, whose weights are float32, in the model's type; a CPU computes as loaded
        fp16=gpu and dtype == torch.float16,
        bf16=gpu and dtype == torch.bfloat16,
        gradient_checkpointing=profile.gradient_checkpointing,
        logging_steps=1,
        report_to=profile.report_to,
        save_strategy="steps",
        save_steps=profile.checkpoint_every,
        dataloader_pin_memory=gpu,
        use_cpu=not gpu,
        logging_nan_inf_filter=False,
        ddp_find_unused_parameters=False,
        **more,
    )


def make_trainer(trainer: Any, **parts: Any) -> Any:
    """The trainer of this class; what the settings cannot give is said in one sentence."""
    try:
        return trainer(**parts)
    except CourseError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        raise CourseError(
            f"These settings make no trainer ({first_line(error)}): check lora_targets, and report_to, whose tracker "
            "must be installed."
        ) from None


class _Finished(Exception):
    """The last step is done: nothing but saving was left."""


def _go_on(args: Any) -> Any:
    """A callback for a run that goes on: checkpoints at the distance asked for now, and no step beyond the last, which
    transformers takes when a run ended within an epoch."""
    from transformers import TrainerCallback

    class GoOn(TrainerCallback):
        def on_train_begin(self, _: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.save_steps = args.save_steps
            if state.global_step >= state.max_steps:
                raise _Finished

    return GoOn()


def train_and_save(
    trainer: Any, folder: Path, record: dict[str, Any], started: float
) -> dict[str, Any]:
    """Train, from the last whole checkpoint if there is one, and save."""
    if (
        trainer.args.fp16
    ):  # TRL casts QLoRA's adapter to bf16, which such a card lacks; fp16 needs float32 masters
        for parameter in trainer.model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    checkpoint = last_checkpoint(folder)
    trainer.add_callback(_go_on(trainer.args))  # after the KL's own
    with suppress(_Finished):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    record["seconds"] = round(time.perf_counter() - started, 1)
    record["resumed_at_step"] = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0
    return save_run(trainer, folder, record)


def train_sft(profile: Profile, stories: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Supervised fine-tuning of a fresh LoRA adapter on the stories, loss on the responses alone.

    Saves the adapter, its card and run.json in `folder` and returns the record. A finished run is kept, a killed one
    goes on from its last checkpoint.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if 0 < profile.sft_steps <= profile.sft_warmup_steps:
        warnings.warn(
            f"All {profile.sft_steps} SFT steps are warm-up: lower sft_warmup_steps.", stacklevel=2
        )
    if open_run(folder, profile, "sft"):
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    started = time.perf_counter()
    if process().is_main_process:
        for known in folder.glob(
            "reference-*.csv"
        ):  # log-probs under an adapter that this run replaces
            known.unlink()
    model, tokenizer = load_policy(profile)
    data = Dataset.from_dict(
        {
            "prompt": [as_messages("user", p) for p in stories["prompt"]],
            "completion": [as_messages("assistant", t) for t in stories["text"]],
        }
    )
    args = trainer_arguments(
        SFTConfig,
        folder,
        profile,
        profile.sft_batch_size,
        2 * profile.micro_batch,
        completion_only_loss=True,
        learning_rate=profile.sft_learning_rate,
        warmup_steps=profile.sft_warmup_steps,
        max_steps=profile.sft_steps or -1,
        num_train_epochs=profile.sft_epochs,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.5},
    )
    trainer = make_trainer(
        SFTTrainer,
        model=model,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(profile),
    )
    return train_and_save(
        trainer, folder, run_facts(profile, arm="sft", stories=len(stories)), started
    )


def seen_pairs(
    profile: Profile, pairs: pd.DataFrame, weight: Sequence[float] | None
) -> pd.DataFrame:
    """The pairs that a run of the profile's steps sees, with their weights (None: 1 each) as a column."""
    pairs = pairs.assign(weight=1.0 if weight is None else np.asarray(weight, dtype=float))
    if profile.steps and len(pairs) < profile.batch_size:
        raise CourseError(
            f"{len(pairs)} pairs do not fill one batch of {profile.batch_size}: add stories or lower batch_size."
        )
    if (
        0 < profile.steps * profile.batch_size < len(pairs)
    ):  # the reference scores only pairs that will be seen
        pairs = pairs.sample(profile.steps * profile.batch_size, random_state=profile.seed)
    return pairs


def weight_facts(pairs: pd.DataFrame) -> dict[str, Any]:
    """What a record says of the pairs and their weights."""
    weights = pairs["weight"].to_numpy()
    effective = float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0
    return {"pairs": len(pairs), "mean_weight": float(weights.mean()), "effective_pairs": effective}


def train_pairs(
    profile: Profile,
    pairs: pd.DataFrame,
    weight: Sequence[float] | None,
    folder: Path,
    sft: Path,
    arm: str,
    watch: pd.DataFrame | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """One preference arm from the SFT adapter: DPO where `weight` is None, else DDPO with these weights.

    Pairs, order, seed and steps depend on the profile alone, so arms differ by their weights and nothing else.
    The reference is a frozen copy of the SFT adapter, its log-probs computed once for all arms, or in the loop where
    `precompute_reference` is False. A finished run is kept, a killed one goes on from its last checkpoint.

    Args:
        profile: beta, learning rate, steps (0: `epochs` passes), batch, seed, weight of the chosen side's NLL.
        pairs: a frame of `corpus.make_pairs`.
        weight: one weight a pair.
        folder: where adapter, checkpoints (`checkpoints/checkpoint-N`), card and run.json go.
        sft: folder of the SFT adapter.
        arm: name for the record.
        watch: sampled stories of the SFT model; at each checkpoint the policy's KL from the reference along them
            is recorded (nats a story).
        facts: what else the record shall say.
    """
    import pandas as pd
    from trl import DPOConfig

    from ..trainers import DDPOTrainer

    pairs = seen_pairs(profile, pairs, weight)
    if open_run(folder, profile, arm, sft):
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    key = pd.util.hash_pandas_object(pairs[["prompt", "chosen", "rejected"]], index=False)
    started = time.perf_counter()
    model, tokenizer = load_policy(profile, adapter=sft, trainable=True)
    nll = (
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, profile.nll_weight]}
        if profile.nll_weight
        else {}
    )
    args = trainer_arguments(
        DPOConfig,
        folder,
        profile,
        profile.batch_size,
        profile.micro_batch,
        learning_rate=profile.learning_rate,
        beta=profile.beta,
        num_train_epochs=profile.epochs,
        max_steps=profile.steps or -1,
        lr_scheduler_type="linear",
        **nll,
    )
    data = to_dataset(pairs, pairs["weight"]).add_column("key", key.to_numpy())
    trainer = make_trainer(
        DDPOTrainer, model=model, args=args, train_dataset=data, processing_class=tokenizer
    )
    if profile.precompute_reference:
        add_reference(trainer, sft / f"reference-{profile.max_length}-{str(model.dtype)[6:]}.csv")
    kl: dict[int, float] = {}
    if watch is not None:
        trainer.add_callback(watch_kl(trainer, watch, folder / "kl.json", kl))
    record = run_facts(profile, arm=arm, kl=kl, **weight_facts(pairs), **facts)
    return train_and_save(trainer, folder, record, started)


def to_dataset(pairs: pd.DataFrame, weight: Any = None) -> Any:
    """Pairs as a `datasets.Dataset` in TRL's conversational form, with a `weight` column.

    Args:
        pairs: a frame of `make_pairs`; log-probs of a reference in ref_chosen_logps, ref_rejected_logps travel along.
        weight: one number a pair, in the order of the frame; None gives 1 to every pair (plain DPO).

    Raises:
        ValueError: another number of weights than pairs.
    """
    from datasets import Dataset

    weight = [1.0] * len(pairs) if weight is None else [float(w) for w in weight]
    if len(weight) != len(pairs):
        raise ValueError(
            f"There are {len(pairs)} pairs and {len(weight)} weights: give one weight a pair."
        )
    columns = {
        "prompt": [as_messages("user", p) for p in pairs["prompt"]],
        "chosen": [as_messages("assistant", t) for t in pairs["chosen"]],
        "rejected": [as_messages("assistant", t) for t in pairs["rejected"]],
        "weight": weight,
    }
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        if column in pairs:
            columns[column] = pairs[column].tolist()
    return Dataset.from_dict(columns)
