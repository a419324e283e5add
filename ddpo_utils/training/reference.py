"""The frozen reference of a preference run: its log-probs, computed once, and the KL from it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..models.policy import load_adapter
from ..models.scoring import token_kl
from ..settings import CourseError, progress_bar
from ..storage.files import read_json, text_key, write_json, write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KLCallback", "add_reference", "matched_step"]

SCORED_AT_ONCE = 1000  # pairs whose log-probs are computed before they are stored
CHECKSUM = "# sha256 of the lines below: "
REFERENCE_LOGPS = ["ref_chosen_logps", "ref_rejected_logps"]


def add_reference(trainer: Any, path: Path) -> None:
    """Give the trainer's pairs the reference's log-probs (nats a response), stored in `path`.

    Pairs are known by their column `key`; each is computed once, by all processes together, and
    stored every thousand pairs: a killed run loses no more than those.
    """
    import pandas as pd

    table = _read_reference(path) if path.is_file() else pd.DataFrame()
    data, state = trainer.train_dataset, trainer.accelerator
    state.wait_for_everyone()  # all have read the file before the first process adds to it
    keys = pd.Series(data["key"][:], dtype="uint64")
    unknown = keys[~keys.isin(table.index)]
    missing = unknown.drop_duplicates()  # a user's pairs may repeat
    lengths = np.zeros(len(missing))
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        ids = data[name][:]
        lengths += [len(ids[row]) for row in missing.index]
    # longest first: memory runs out at once or never, and batches hold little padding
    shortest_first = np.argsort(lengths, kind="stable")
    order = missing.index[shortest_first[::-1]]
    starts = range(0, len(order), SCORED_AT_ONCE)
    for start in progress_bar(starts, shown=state.is_main_process, desc="reference log-probs"):
        rows = order[start : start + SCORED_AT_ONCE].tolist()
        new = pd.DataFrame(_reference_logps(trainer, rows), columns=REFERENCE_LOGPS)
        new.index = pd.Index(keys[rows], name="key")
        table = pd.concat([table, new])
        if state.is_main_process:
            text = table.to_csv()
            write_text(path, f"{CHECKSUM}{text_key(text)}\n{text}")
    logps = table.loc[keys]
    for name in REFERENCE_LOGPS:
        data = data.add_column(name, logps[name].to_numpy())
    trainer.train_dataset = data
    trainer.precompute_ref_logps = True  # the pairs bring them from here on


def _read_reference(path: Path) -> pd.DataFrame:
    """The stored table; CourseError where it is not as it was written."""
    import pandas as pd

    first, _, text = path.read_bytes().decode(errors="replace").partition("\n")
    if first != CHECKSUM + text_key(text):
        raise CourseError(f"{path} is damaged: delete it, and it is computed again.")
    types = {"key": "uint64"}  # and to the last digit, which pandas 2 does not read by itself
    return pd.read_csv(StringIO(text), dtype=types, index_col="key", float_precision="round_trip")


def _reference_logps(trainer: Any, rows: list[int]) -> np.ndarray:
    """Log-probs (N, 2) of the rows' chosen and of their rejected responses."""
    loader = DataLoader(
        trainer.train_dataset.select(rows),
        batch_size=trainer.args.per_device_train_batch_size,
        collate_fn=trainer.data_collator,
    )
    batches = []
    for batch in trainer.accelerator.prepare_data_loader(loader):
        logps = trainer.compute_ref_log_probs(trainer.model, batch)
        chosen, rejected = trainer.accelerator.gather_for_metrics(logps)
        batches.append(torch.stack([chosen, rejected], dim=1))
    return torch.cat(batches).double().cpu().numpy()


class KLCallback(TrainerCallback):
    """At every checkpoint the KL from the SFT adapter along `stories`, in nats a story.

    The values by step are in `kl` and, for a run that goes on, in the file `path`.
    """

    def __init__(self, trainer: Any, stories: pd.DataFrame, path: Path, sft: Path):
        self.trainer, self.stories, self.path = trainer, stories, path
        self.kl: dict[int, float] = {}
        if "ref" not in trainer.model.peft_config:  # DPO's trainer has SFT under this name already
            load_adapter(trainer.model, sft, "ref")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.path.is_file():
            self.kl.update(_read_kl(self.path, state.global_step))
        if state.global_step and state.global_step not in self.kl:
            self.on_save(args, state, control)  # killed between a checkpoint and its KL

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, tokenizer = self.trainer.model, self.trainer.processing_class
        kl = token_kl(model, tokenizer, self.stories)
        self.kl[state.global_step] = float(kl.mean())
        if state.is_world_process_zero:
            write_json(self.path, self.kl)


def _read_kl(path: Path, last: int) -> dict[int, float]:
    """The stored KL of the steps up to `last`."""
    stored = read_json(path)
    try:
        kl = {int(step): float(value) for step, value in stored.items()}
    except (AttributeError, TypeError, ValueError):
        raise CourseError(
            f"{path} is damaged: delete it; the KL of the checkpoints so far is then not recorded."
        ) from None
    return {step: value for step, value in kl.items() if step <= last}


def matched_step(kl: dict[str, float], control: dict[str, float]) -> int:
    """The checkpoint whose KL from SFT is nearest to that of the control's last checkpoint."""
    target = control[max(control, key=int)]
    distances = {step: abs(value - target) for step, value in kl.items()}
    return int(min(distances, key=distances.__getitem__))
