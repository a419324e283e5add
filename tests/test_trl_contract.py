"""The contract: what the trainers need of TRL, so that a release which changes it is noticed."""

from __future__ import annotations

import inspect

import pytest
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

SIGNATURES = {
    (DPOTrainer, "_compute_loss"): "self model inputs return_outputs",
    (DPOTrainer, "compute_ref_log_probs"): "self model inputs",
    (ORPOTrainer, "tokenize_row"): "self feature model",
    (ORPOTrainer, "get_batch_samples"): "self epoch_iterator num_batches device",
    (ORPOTrainer, "get_batch_loss_metrics"): "self model batch train_eval",
    (ORPOTrainer, "concatenated_forward"): "self model batch",
    (ORPOTrainer, "odds_ratio_loss"): "self policy_chosen_logps policy_rejected_logps",
    (ORPOTrainer, "concatenated_inputs"): "batch is_encoder_decoder padding_value device",
}
# What DDPOTrainer sets on a copy of itself, or reads, around TRL's `_compute_loss`.
ATTRIBUTES = [
    "precompute_ref_logps",
    "loss_types",
    "loss_weights",
    "aux_loss_enabled",
    "router_aux_loss_coef",
    "_total_train_tokens",
    "_metrics[mode]",
    "accelerator.gather",
    "accelerator.gather_for_metrics",
    'inputs["ref_chosen_logps"]',
]
DPO_DEFAULTS = {
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "precompute_ref_log_probs": False,
    "use_liger_kernel": False,
}
ORPO_DEFAULTS = {"max_length": 1024, "disable_dropout": True}


def test_trl_has_the_methods_that_the_trainers_override():
    for (cls, name), expected in SIGNATURES.items():
        found = list(inspect.signature(getattr(cls, name)).parameters)
        assert found == expected.split(), f"{cls.__name__}.{name}"
    assert "_compute_loss" in inspect.getsource(DPOTrainer.compute_loss)
    loss = inspect.getsource(DPOTrainer._compute_loss)
    assert not [name for name in ATTRIBUTES if name not in loss]
    assert loss.count("per_sequence_loss.mean()") == 1  # a mean over pairs, whatever the loss
    source = inspect.getsource(ORPOTrainer)  # which keeps our column, and calls our loss
    assert "args.remove_unused_columns = False" in source
    assert "self.get_batch_loss_metrics(model, inputs" in source
    assert ORPOTrainer.loss_is_scaled_for_ga is False


@pytest.mark.parametrize(
    ("config", "defaults"), [(DPOConfig, DPO_DEFAULTS), (ORPOConfig, ORPO_DEFAULTS)]
)
def test_trl_s_defaults_are_known(config, defaults):
    made = config(output_dir="unused", bf16=False)
    assert {name: getattr(made, name) for name in defaults} == defaults
