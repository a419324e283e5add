"""The loop of a run: from its last checkpoint to its end, with one sentence for what stops it."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from ..models.smollm2 import first_line
from ..settings import CourseError
from ..storage.files import seal
from .run_folder import last_checkpoint, process, save_run

__all__ = ["train_and_save"]

# of the errors by which Python, torch and safetensors say that a file cannot grow
DISK_FULL = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter")


class _Diverged(Exception):
    """A loss, a gradient or an adapter is NaN or infinite."""


class _LastStepDone(Exception):
    """Nothing but saving is left to do."""


class _Resumed(TrainerCallback):
    """Tells whether the checkpoint was read."""

    def __init__(self, checkpoint: Path | None):
        self.checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.checkpoint = None  # it was whole: a fault that comes now is not its fault


class _RunCallback(TrainerCallback):
    """Goes on from a checkpoint as asked for now, seals checkpoints, and stops at NaN."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.save_steps = args.save_steps
        if state.global_step >= state.max_steps:
            raise _LastStepDone  # transformers takes one more where a run ended within an epoch

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # a gradient that overflows in fp16 is skipped, and the scale lowered
        figures = ["loss"] if args.fp16 else ["loss", "grad_norm"]
        if not np.isfinite([logs.get(name, 0.0) for name in figures]).all():
            raise _Diverged

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        process().wait_for_everyone()  # each has written its state of random numbers
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def train_and_save(
    trainer: Any, folder: Path, record: dict[str, Any], started: float
) -> dict[str, Any]:
    """Train from the last whole checkpoint, if there is one, and save."""
    if trainer.args.fp16:  # TRL casts QLoRA's adapter to bf16; fp16 needs float32 masters
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    checkpoint = last_checkpoint(folder)
    resumed = _Resumed(checkpoint)
    trainer.add_callback(resumed)
    trainer.add_callback(_RunCallback())  # after the KL's
    try:
        with suppress(_LastStepDone), warnings.catch_warnings():
            if record["arm"].startswith(("dpo", "divpo", "orpo")):  # their weights are to be 1
                warnings.filterwarnings("ignore", "Every weight is 1")
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trained = [value for value in trainer.model.parameters() if value.requires_grad]
        if not all(torch.isfinite(value).all() for value in trained):
            raise _Diverged
        limit = trainer.args.max_grad_norm
        norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        record["clipped_share"] = sum(norm > limit > 0 for norm in norms) / max(1, len(norms))
        record["seconds"] = round(time.perf_counter() - started, 1)
        record["resumed_at_step"] = 0
        if checkpoint:
            record["resumed_at_step"] = int(checkpoint.name.removeprefix("checkpoint-"))
        return save_run(trainer, folder, record)
    except Exception as error:
        sentence = _training_fault(error, folder, resumed.checkpoint)
        if not sentence:
            raise
        raise CourseError(sentence) from None


def _training_fault(error: Exception, folder: Path, checkpoint: Path | None) -> str:
    """What to do about a fault of training, else ""; `checkpoint` is one that was being read."""
    text = f"{error} {getattr(error, 'strerror', '')}"
    if isinstance(error, _Diverged):
        return (
            f"The run in {folder} diverged to NaN or infinite numbers, and no adapter was saved: "
            "delete that folder and lower the learning rate (--learning-rate, --sft-learning-rate "
            "or --orpo-learning-rate)."
        )
    if isinstance(error, CourseError) or "out of memory" in text:
        return ""
    if any(mark in text for mark in DISK_FULL):
        return (
            f"{folder} cannot be written, the disk is full ({first_line(error)}): free space and "
            "call again; the run goes on from its last checkpoint."
        )
    if checkpoint:
        return (
            f"{checkpoint} is damaged ({first_line(error)}): delete that folder and call again; "
            "the run goes on from the checkpoint before it."
        )
    return str(error) if isinstance(error, ValueError) else ""
