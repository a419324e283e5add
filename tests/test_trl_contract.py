"""The contract: what the trainers need of TRL, so that a release which changes it is noticed."""

from __future__ import annotations

import inspect

from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

SIGNATURES = {
    (DPOTrainer, "_compute_loss"): ["self", "model", "inputs", "return_outputs"],
    (DPOTrainer, "compute_ref_log_probs"): ["self", "model", "inputs"],
    (ORPOTrainer, "tokenize_row"): ["self", "feature", "model"],
    (ORPOTrainer, "get_batch_samples"): ["self", "epoch_iterator", "num_batches", "device"],
    (ORPOTrainer, "get_batch_loss_metrics"): ["self", "model", "batch", "train_eval"],
    (ORPOTrainer, "concatenated_inputs"): [
        "batch",
        "is_encoder_decoder",
        "padding_value",
        "device",
    ],
}
SOURCES = {
    DPOTrainer: [
        "self.ref_model = ",
        "self.loss_types = ",
        "self.loss_weights = ",
        "self.beta = ",
        "self.aux_loss_enabled = ",
        "self._metrics = ",
        "fused_lm_head=True",
        '"completion_mask"',
        '"ref_chosen_logps"',
        '"ref_rejected_logps"',
        '"ref"',
    ],
    ORPOTrainer: [
        "self.is_encoder_decoder = ",
        "self.aux_loss_enabled = ",
        "self.beta = ",
        "self.padding_value = ",
        '"chosen_labels"',
        '"rejected_labels"',
        '"concatenated_input_ids"',
        '"concatenated_attention_mask"',
        "args.remove_unused_columns = False",
        "self.get_batch_loss_metrics(model, inputs",
    ],
}
DEFAULTS = {
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "f_divergence_type": "reverse_kl",
    "ld_alpha": None,
    "use_weighting": False,
    "label_smoothing": 0.0,
    "precompute_ref_log_probs": False,
}


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_trl_has_the_parts_that_the_trainers_build_on():
    for (cls, name), expected in SIGNATURES.items():
        assert parameters(getattr(cls, name)) == expected, f"{cls.__name__}.{name}"
    for cls, pieces in SOURCES.items():
        source = inspect.getsource(cls)
        missing = [piece for piece in pieces if piece not in source]
        assert not missing, f"{cls.__name__} lacks {missing}"
    assert parameters(DPOTrainer.__init__)[1:4] == ["model", "ref_model", "args"]
    assert parameters(ORPOTrainer.__init__)[1:3] == ["model", "args"]
    assert "_compute_loss" in inspect.getsource(DPOTrainer.compute_loss)
    columns = inspect.getsource(DPOTrainer._set_signature_columns_if_needed)
    assert "_signature_columns" in columns
    assert ORPOTrainer.loss_is_scaled_for_ga is False


def test_trl_s_defaults_and_collator_are_known():
    config = DPOConfig(output_dir="unused", bf16=False)
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    orpo = ORPOConfig(output_dir="unused", bf16=False)
    assert (orpo.max_length, orpo.disable_dropout) == (1024, True)
    pairs = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
        {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8]},
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(pairs)
    assert batch.keys() == {"input_ids", "attention_mask", "completion_mask"}
    stacked = [[1, 2, 3, 0], [6, 7, 0, 0], [1, 2, 4, 5], [6, 8, 0, 0]]
    assert batch["input_ids"].tolist() == stacked  # chosen over rejected
