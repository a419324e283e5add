"""The frozen reference of a preference run: its log-probs, computed once for all arms, and the KL from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..models.scoring import token_kl
from ..settings import progress_bar
from .runs import write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_reference", "watch_kl"]

SCORED_AT_ONCE = 1000  # pairs whose log-probs are computed before they are stored


def add_reference(trainer: Any, known: Path) -> None:
    """Give the trainer's pairs the reference's log-probs (nats a response), each computed once and kept in `known`.

    The missing ones are computed in order of length, which wastes little padding, on all processes together, and are
    stored every thousand pairs: a killed run loses no more than those.
    """
    import pandas as pd
    from torch.utils.data import DataLoader

    names = ["ref_chosen_logps", "ref_rejected_logps"]
    data, state = trainer.train_dataset, trainer.accelerator
    table = (
        pd.read_csv(known, dtype={"key": "uint64"}, index_col="key")
        if known.is_file()
        else pd.DataFrame()
    )
    state.wait_for_everyone()  # all have read what there is before the first process adds to it
    keys = pd.Series(data["key"][:], dtype="uint64")
    missing = keys[~keys.isin(table.index)].drop_duplicates()  # one's own pairs may repeat
    columns = [data[name][:] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    lengths = [sum(len(column[i]) for column in columns) for i in missing.index]
    order = missing.index[
        np.argsort(lengths, kind="stable")[::-1]
    ]  # longest first: memory runs out at once or never
    starts = range(0, len(order), SCORED_AT_ONCE)
    for start in progress_bar(starts, shown=state.is_main_process, desc="reference log-probs"):
        part, scores = order[start : start + SCORED_AT_ONCE].tolist(), []
        loader = DataLoader(
            data.select(part),
            batch_size=trainer.args.per_device_train_batch_size,
            collate_fn=trainer.data_collator,
        )
        for batch in state.prepare_data_loader(loader):
            scores.append(
                state.gather_for_metrics(trainer.compute_ref_log_probs(trainer.model, batch))
            )
        values = [torch.cat(side).double().cpu().numpy() for side in zip(*scores, strict=True)]
        fresh = pd.DataFrame(
            dict(zip(names, values, strict=True)), index=pd.Index(keys[part], name="key")
        )
        table = pd.concat([table, fresh])
        if state.is_main_process:
            table.to_csv(known.with_suffix(".part"))
            os.replace(known.with_suffix(".part"), known)
    for name in names:
        data = data.add_column(name, table[name].loc[keys].to_numpy())
    trainer.train_dataset = data


def watch_kl(trainer: Any, watch: pd.DataFrame, path: Path, kl: dict[int, float]) -> Any:
    """At every checkpoint the KL from the reference along `watch`, in `kl` and, for a run that goes on, in a file."""
    from transformers import TrainerCallback

    class WatchKL(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if path.is_file():
                before = json.loads(path.read_text(encoding="utf-8"))
                kl.update(
                    {
                        int(step): value
                        for step, value in before.items()
                        if int(step) <= state.global_step
                    }
                )
            if (
                state.global_step and state.global_step not in kl
            ):  # killed between the checkpoint and its KL
                self.on_save(args, state, control)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kl[state.global_step] = float(
                token_kl(trainer.model, trainer.processing_class, watch).mean()
            )
            if state.is_world_process_zero:
                write_json(path, kl)

    return WatchKL()


def matched_step(kl: dict[str, float], control: dict[str, float]) -> int:
    """The checkpoint whose watched KL from SFT is nearest to that of the control's last one. Both were measured along
    SFT's stories while the arms were trained: no sample is looked at to choose it."""
    target = control[max(control, key=int)]
    return int(min(kl, key=lambda step: abs(kl[step] - target)))
