"""The contract: what DDPOTrainer builds on inside TRL, so that a release which changes it is noticed at once."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ddpo_utils.trainers import DDPOTrainer


def contract_faults(cls: type) -> list[str]:
    """What ddpo_utils.trainers needs of TRL's trainer and does not find, a sentence each."""
    faults = []

    def need(holds: bool, what: str, where: str) -> None:
        if not holds:
            faults.append(
                f"TRL {version('trl')}: {what} (used by DDPOTrainer.{where} in ddpo_utils/trainers.py)."
            )

    def parameters(name: str) -> list[str]:
        return list(inspect.signature(getattr(cls, name)).parameters) if hasattr(cls, name) else []

    init = parameters("__init__")
    need(
        init[1:4] == ["model", "ref_model", "args"],
        "__init__ no longer begins with model, ref_model, args",
        "__init__",
    )
    need(
        {"train_dataset", "eval_dataset"} <= set(init),
        "__init__ takes no train_dataset or eval_dataset",
        "__init__",
    )
    need(
        parameters("_compute_loss") == ["self", "model", "inputs", "return_outputs"],
        "_compute_loss is gone or takes other arguments",
        "_compute_loss",
    )
    need(
        "_compute_loss" in inspect.getsource(cls.compute_loss),
        "compute_loss no longer calls _compute_loss",
        "_compute_loss",
    )
    need(
        parameters("compute_ref_log_probs") == ["self", "model", "inputs"],
        "compute_ref_log_probs is gone or takes other arguments",
        "compute_ref_log_probs",
    )
    need(
        "_signature_columns"
        in inspect.getsource(getattr(cls, "_set_signature_columns_if_needed", cls)),
        "_set_signature_columns_if_needed no longer keeps the list of columns",
        "_set_signature_columns_if_needed",
    )
    source = inspect.getsource(cls)
    for name in (
        "ref_model",
        "precompute_ref_logps",
        "loss_types",
        "loss_weights",
        "beta",
        "aux_loss_enabled",
        "_metrics",
    ):
        need(f"self.{name} = " in source, f"the attribute {name} is no longer set", "_compute_loss")
    for key in ("completion_mask", "ref_chosen_logps", "ref_rejected_logps", "input_ids"):
        need(f'"{key}"' in source, f"batches no longer carry {key!r}", "_compute_loss")
    need(
        "fused_lm_head=True" in source,
        "the fused head is gone, so outputs hold no log_probs",
        "_compute_loss",
    )
    need(
        '"ref"' in source,
        "the frozen copy of a re-trained adapter is no longer called 'ref'",
        "_compute_loss",
    )
    return faults


def test_trl_still_has_the_parts_that_the_trainer_stands_on():
    faults = contract_faults(DPOTrainer)
    defaults = {
        "loss_type": ["sigmoid"],
        "loss_weights": None,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
        "label_smoothing": 0.0,
        "precompute_ref_log_probs": False,
    }
    config = DPOConfig(output_dir="unused", bf16=False)
    for name, value in defaults.items():
        if getattr(config, name, "gone") != value:
            faults.append(
                f"DPOConfig.{name} is {getattr(config, name, 'gone')!r}, once {value!r} (DDPOTrainer.__init__)."
            )
    pairs = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
        {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8]},
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(pairs)
    if batch.keys() != {"input_ids", "attention_mask", "completion_mask"} or batch[
        "input_ids"
    ].tolist() != [
        [1, 2, 3, 0],
        [6, 7, 0, 0],
        [1, 2, 4, 5],
        [6, 8, 0, 0],
    ]:
        faults.append(
            "DataCollatorForPreference no longer stacks chosen over rejected (DDPOTrainer._compute_loss)."
        )
    assert not faults, "\n".join(faults)


def test_the_contract_says_what_changed():
    class Changed(DPOTrainer):
        def compute_ref_log_probs(self, batch: Any) -> Any: ...

        def compute_loss(self, model: Any, inputs: Any) -> Any:
            return self._loss(model, inputs)

    faults = contract_faults(Changed)
    assert any(
        "compute_ref_log_probs is gone or takes other arguments" in f and "trainers.py" in f
        for f in faults
    )
    assert any("compute_loss no longer calls _compute_loss" in f for f in faults)


def test_the_trainers_stay_on_two_screens():
    assert len(Path(inspect.getfile(DDPOTrainer)).read_text(encoding="utf-8").splitlines()) <= 120
