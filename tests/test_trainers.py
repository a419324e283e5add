"""The trainers: equal to TRL's at weights of 1, linear in the weights, on any model and batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_trainers import (
    SETUPS,
    TRAINERS,
    WEIGHTS,
    Gradients,
    Spy,
    assert_close,
    loss_and_gradients,
    mixture_policy,
    preference_data,
)
from trl import DPOTrainer
from trl.experimental.orpo import ORPOTrainer

from ddpo_utils.trainers import DDPOTrainer, DORPOTrainer

WITH_NLL = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.4]}


@pytest.mark.parametrize("options", [{}, {"precompute_ref_log_probs": True}, WITH_NLL])
@pytest.mark.parametrize("setup", SETUPS)
def test_ddpo_at_weights_of_one_is_trl_and_at_three_three_times(make, setup, options):
    plain = make(DPOTrainer, preference_data(weights=None), setup, **options)
    ours = make(DDPOTrainer, preference_data(), setup, **options)
    loss, gradients = loss_and_gradients(plain)
    assert abs(loss - math.log(2)) > 1e-3  # policy and reference differ
    loss1, gradients1 = loss_and_gradients(ours)
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)
    triple = make(DDPOTrainer, preference_data(weights=3.0), setup, **options)
    loss3, gradients3 = loss_and_gradients(triple)
    assert loss3 == pytest.approx(3 * loss, rel=1e-6)
    assert_close(gradients3, gradients, 3)
    theirs, metrics = plain._metrics["train"], ours._metrics["train"]
    assert metrics.keys() == theirs.keys() | {"weight"}
    for name in theirs:
        assert metrics[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name


LOSSES = [
    {"loss_type": "sigmoid_norm"},
    {"loss_type": "ipo"},
    {"loss_type": "hinge"},
    {"loss_type": "robust", "label_smoothing": 0.1},
    {"loss_type": "exo_pair", "label_smoothing": 0.1},
    {"loss_type": "nca_pair"},
    {"loss_type": "bco_pair"},
    {"loss_type": "sppo_hard"},
    {"loss_type": "apo_zero"},
    {"loss_type": "apo_down"},
    {"loss_type": "discopop"},
    {"loss_type": ["hinge", "bco_pair"], "loss_weights": [0.3, 2.0]},
    {"ld_alpha": 0.5},
    {"use_weighting": True},
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
]


@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_every_loss_over_pairs_is_trl_s_times_the_weight(make, options):
    plain = preference_data(3, weights=None)
    loss, gradients = loss_and_gradients(make(DPOTrainer, plain, **options))
    loss1, gradients1 = loss_and_gradients(make(DDPOTrainer, preference_data(3), **options))
    assert loss1 == pytest.approx(loss, rel=1e-5)
    assert_close(gradients1, gradients)
    weights = [0.5, 0.0, 2.0]
    total = 0.0
    for i, weight in enumerate(weights):
        alone, _ = loss_and_gradients(make(DPOTrainer, plain.select([i]), **options))
        total += weight * alone / 3
    weighted = make(DDPOTrainer, preference_data(3, weights), **options)
    assert loss_and_gradients(weighted)[0] == pytest.approx(total, rel=1e-5)


def test_a_router_s_loss_has_no_weight(make, tiny_folder):
    losses = []
    for weight in (None, 0.0, 1.0, 3.0):
        cls = DPOTrainer if weight is None else DDPOTrainer
        data = preference_data(3, weight)
        losses.append(loss_and_gradients(make(cls, data, mixture_policy(tiny_folder)))[0])
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1] == pytest.approx((3 * losses[2] - losses[3]) / 2, rel=1e-4) and losses[1] > 0


def test_each_pair_counts_by_its_own_weight(make):
    """The loss is linear in the weights: its value is that of the pairs one at a time."""
    total = 0.0
    for i, weight in enumerate(WEIGHTS):
        alone = [float(i == j) for j in range(8)]
        total += weight * loss_and_gradients(make(DDPOTrainer, preference_data(weights=alone)))[0]
    together, _ = loss_and_gradients(make(DDPOTrainer, preference_data(weights=WEIGHTS)))
    assert together == pytest.approx(total, rel=1e-5)


def test_the_nll_is_weighted_by_pair(make):
    """sum_i w_i NLL_i / sum_i T_i, each pair alone and without padding."""
    options = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.0, 1.0]}
    trainer = make(DDPOTrainer, preference_data(weights=WEIGHTS), **options)
    loss, _ = loss_and_gradients(trainer)
    total, tokens = 0.0, 0
    for row in trainer.train_dataset:
        ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
        start = len(row["prompt_ids"])
        with torch.no_grad():
            logits = trainer.model(input_ids=ids.to(trainer.model.device)).logits.cpu()
        logps = logits[0, start - 1 : -1].log_softmax(-1)
        total -= row["weight"] * logps.gather(1, ids[0, start:, None]).sum().item()
        tokens += len(row["chosen_ids"])
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_weights_of_zero_have_no_gradient(make):
    nothing = math.log(2) * 0.3
    cases = [(DDPOTrainer, 0, WITH_NLL), (DORPOTrainer, nothing, {})]
    for cls, expected, options in cases[: len(TRAINERS)]:
        loss, gradients = loss_and_gradients(make(cls, preference_data(weights=0.0), **options))
        assert loss == pytest.approx(expected) and gradients
        assert all((gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize("cls", TRAINERS)
def test_the_parts_of_a_batch_change_nothing(make, cls):
    taken = []
    for size, parts in ((8, 1), (2, 4), (1, 8)):
        gradients = Gradients()
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        data = preference_data(weights=WEIGHTS)
        make(cls, data, max_steps=1, callbacks=[gradients], **options).train()
        taken.append(gradients.first)
    assert_close(taken[1], taken[0])
    assert_close(taken[2], taken[0])


@pytest.mark.parametrize("setup", SETUPS[:3])
def test_reference_log_probs_of_the_data_are_used_where_the_call_asks_for_them(make, setup):
    """Then no reference is run; else they may be of another reference, as TRL takes it."""
    data = preference_data(weights=WEIGHTS)
    loss, gradients = loss_and_gradients(make(DDPOTrainer, data, setup))
    scored = make(DDPOTrainer, data, setup, precompute_ref_log_probs=True).train_dataset
    stale = data
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        data = data.add_column(column, scored[column][:])
        stale = stale.add_column(column, [-1.0] * 8)
    trainer = make(DDPOTrainer, data, setup)
    trainer.precompute_ref_logps = True
    trainer.compute_ref_log_probs = None  # a call would fail
    for case in (trainer, make(DDPOTrainer, stale, setup)):
        loss1, gradients1 = loss_and_gradients(case)
        assert loss1 == pytest.approx(loss, rel=1e-6)
        assert_close(gradients1, gradients)


@pytest.mark.parametrize("ours", TRAINERS)
def test_an_eval_set_is_weighted_too(make, ours):
    theirs = DPOTrainer if ours is DDPOTrainer else ORPOTrainer
    plain = make(theirs, preference_data(), eval_dataset=preference_data(5, None)).evaluate()
    one = make(ours, preference_data(), eval_dataset=preference_data(5)).evaluate()
    assert one["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)
    double = make(ours, preference_data(), eval_dataset=preference_data(5, 2.0)).evaluate()
    if ours is DDPOTrainer:
        assert double["eval_loss"] == pytest.approx(2 * plain["eval_loss"], rel=1e-5)
    assert double["eval_weight"] == 2.0 and double["eval_loss"] > plain["eval_loss"]


@pytest.mark.parametrize("cls", TRAINERS)
def test_training_follows_the_weighted_pair(make, cls):
    """Two pairs that want opposite things: the one with weight 0 must lose."""
    sides = {"chosen": [" yes", " no"], "rejected": [" no", " yes"]}
    data = Dataset.from_dict({"prompt": ["say", "say"], **sides, "weight": [4.0, 0.0]})
    options = {"per_device_train_batch_size": 2, "max_steps": 20, "learning_rate": 1e-2}
    trainer = make(cls, data, **options)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < logs[0]["loss"] and logs[0]["weight"] == 2.0
    assert logs[-1]["rewards/accuracies"] == 0.5


@pytest.mark.parametrize("options", [{}, {"precompute_ref_log_probs": True}])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_weights_stay_with_their_pairs_after_shuffling(make, options, accumulation):
    data = preference_data(13, [i / 10 for i in range(13)])
    options = options | {"per_device_train_batch_size": 2, "num_train_epochs": 2}
    trainer = make(Spy, data, gradient_accumulation_steps=accumulation, **options)
    trainer.train()
    pairs = []
    for row in trainer.train_dataset:
        pairs.append((tuple(row["prompt_ids"] + row["chosen_ids"]), round(row["weight"], 4)))
    for epoch in (trainer.seen[:13], trainer.seen[13:]):
        assert sorted(epoch) == sorted(pairs) and epoch != pairs


@pytest.mark.parametrize("setup", SETUPS[:3])
def test_the_weight_never_reaches_the_model(make, setup):
    seen: dict[type, set[str]] = {}
    for cls in (DDPOTrainer, DPOTrainer):
        keys = seen.setdefault(cls, set())
        weights = 2.0 if cls is DDPOTrainer else None

        def spy(module: Any, args: Any, kwargs: dict[str, Any], keys: set[str] = keys) -> None:
            keys.update(kwargs)

        data = preference_data(weights=weights)
        trainer = make(cls, data, setup, spy, max_steps=1, eval_dataset=preference_data(4, weights))
        trainer.train()
        trainer.evaluate()
    assert seen[DDPOTrainer] == seen[DPOTrainer] and "input_ids" in seen[DDPOTrainer]


def test_a_training_s_log_is_trl_s(make):
    logs = []
    for cls, weights in ((DPOTrainer, None), (DDPOTrainer, 1.0)):
        options = {"per_device_train_batch_size": 2, "max_steps": 3, "learning_rate": 1e-2}
        trainer = make(cls, preference_data(weights=weights), **options)
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for theirs, ours in zip(*logs, strict=True):
        assert ours.pop("weight") == 1 and ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_evaluation_can_return_logits(make):
    trainer = make(DDPOTrainer, preference_data(), eval_dataset=preference_data(2))
    batch = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))
    _, logits, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    assert logits.shape[:2] == labels.shape
