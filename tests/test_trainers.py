"""DDPOTrainer's loss: equal to TRL's at weights of 1, linear in the weights, whatever the model and the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_trainers import SETUPS, Gradients, assert_close, loss_and_gradients, make_pairs, maker
from trl import DPOTrainer

from ddpo_utils.trainers import DDPOTrainer


@pytest.fixture
def make(tiny_folder: Path, adapter_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    return maker(tiny_folder, adapter_folder, tmp_path)


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("chat", [False, True])
def test_weights_of_one_equal_trl_and_three_is_three_times(make, setup, chat, precompute):
    options = {"setup": setup, "precompute_ref_log_probs": precompute}
    plain = make(DPOTrainer, make_pairs(chat=chat, weights=None), **options)
    ours = make(DDPOTrainer, make_pairs(chat=chat), **options)
    loss, gradients = loss_and_gradients(plain)
    loss1, gradients1 = loss_and_gradients(ours)
    assert abs(loss - 0.6931) > 1e-3  # policy and reference differ, so this is a test
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)
    loss3, gradients3 = loss_and_gradients(
        make(DDPOTrainer, make_pairs(chat=chat, weights=3.0), **options)
    )
    assert loss3 == pytest.approx(3 * loss, rel=1e-6)
    assert_close(gradients3, gradients, 3)
    shared = ours._metrics["train"].keys() & plain._metrics["train"].keys()
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"} <= shared
    for name in shared:
        assert ours._metrics["train"][name] == pytest.approx(
            plain._metrics["train"][name], rel=1e-5, abs=1e-6
        ), name


@pytest.mark.parametrize(
    "loss", [{}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}]
)
@pytest.mark.parametrize("setup", SETUPS[:3])
def test_weights_of_zero_give_no_gradient(make, setup, loss):
    value, gradients = loss_and_gradients(
        make(DDPOTrainer, make_pairs(weights=0.0), setup=setup, **loss)
    )
    assert value == 0 and gradients and all((g == 0).all() for g in gradients.values())


def test_each_pair_counts_by_its_own_weight(make):
    """The loss is linear in the weights: its value is that of the pairs one at a time."""
    alone = []
    for i in range(8):
        weights = [0.0] * 8
        weights[i] = 1.0
        alone.append(loss_and_gradients(make(DDPOTrainer, make_pairs(weights=weights)))[0])
    weights = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0]
    together, _ = loss_and_gradients(make(DDPOTrainer, make_pairs(weights=weights)))
    assert together == pytest.approx(
        sum(w * x for w, x in zip(weights, alone, strict=True)), rel=1e-5
    )
    assert len({round(x, 6) for x in alone}) == 8


@pytest.mark.parametrize("setup", SETUPS[:3])
def test_an_nll_term_equals_trl_at_weight_one_and_is_weighted_by_pair(make, setup):
    options = {"setup": setup, "loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.4]}
    loss, gradients = loss_and_gradients(make(DPOTrainer, make_pairs(weights=None), **options))
    loss1, gradients1 = loss_and_gradients(make(DDPOTrainer, make_pairs(), **options))
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)

    weights = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0]
    options["loss_weights"] = [0.0, 1.0]
    trainer = make(DDPOTrainer, make_pairs(weights=weights), **options)
    got, _ = loss_and_gradients(trainer)
    total, tokens = 0.0, 0
    for row in trainer.train_dataset:  # sum_i w_i NLL_i / sum_i T_i, a pair at a time
        ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
        start = len(row["prompt_ids"])
        with torch.no_grad():
            logps = trainer.model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        total -= row["weight"] * logps.gather(1, ids[0, start:, None]).sum().item()
        tokens += len(row["chosen_ids"])
    assert got == pytest.approx(total / tokens, rel=1e-5)


def test_truncation_keeps_the_equality(make):
    rows = make(DPOTrainer, make_pairs(weights=None)).train_dataset
    limit = (
        max(len(row["prompt_ids"]) for row in rows) + 2
    )  # every prompt fits, and most responses are cut
    assert sum(len(row["prompt_ids"] + row["chosen_ids"]) > limit for row in rows) >= 4
    options = {"max_length": limit, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    loss, gradients = loss_and_gradients(make(DPOTrainer, make_pairs(weights=None), **options))
    loss1, gradients1 = loss_and_gradients(make(DDPOTrainer, make_pairs(), **options))
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)


@pytest.mark.parametrize("setup", SETUPS[:3])
def test_reference_log_probs_may_come_with_the_data(make, setup):
    """As columns of the set, they give the loss that the reference in the loop gives, and no reference is run."""
    weights = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0]
    loss, gradients = loss_and_gradients(
        make(DDPOTrainer, make_pairs(weights=weights), setup=setup)
    )
    data = make_pairs(weights=weights)
    scored = make(DDPOTrainer, data, setup=setup, precompute_ref_log_probs=True).train_dataset
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        data = data.add_column(column, scored[column][:])
    trainer = make(DDPOTrainer, data, setup=setup)
    trainer.compute_ref_log_probs = None  # a call would fail
    loss1, gradients1 = loss_and_gradients(trainer)
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)


@pytest.mark.parametrize("setup", SETUPS[:3])
def test_accumulated_gradients_are_those_of_the_whole_batch(make, setup):
    weights, taken = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0], []
    for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
        gradients = Gradients()
        trainer = make(
            DDPOTrainer,
            make_pairs(weights=weights),
            setup=setup,
            per_device_train_batch_size=batch,
            max_steps=1,
            gradient_accumulation_steps=accumulation,
            callbacks=[gradients],
        )
        trainer.train()
        taken.append(gradients.first)
    assert_close(taken[1], taken[0])
    assert_close(taken[2], taken[0])


@pytest.mark.parametrize("precompute", [False, True])
def test_an_eval_set_is_weighted_too(make, precompute):
    options = {"precompute_ref_log_probs": precompute}
    plain = make(
        DPOTrainer, make_pairs(), eval_dataset=make_pairs(5, weights=None), **options
    ).evaluate()["eval_loss"]
    ours = make(DDPOTrainer, make_pairs(), eval_dataset=make_pairs(5, weights=2.0), **options)
    assert ours.evaluate()["eval_loss"] == pytest.approx(2 * plain, rel=1e-5)
    parts = make(
        DDPOTrainer,
        make_pairs(),
        eval_dataset={"a": make_pairs(5), "b": make_pairs(5, weights=3.0)},
    )
    metrics = parts.evaluate()
    assert metrics["eval_a_loss"] == pytest.approx(plain, rel=1e-5)
    assert metrics["eval_b_loss"] == pytest.approx(3 * plain, rel=1e-5)


def test_training_moves_the_weighted_pairs_alone(make):
    """Two pairs that want opposite things: the one with weight 0 must lose."""
    weights = [4.0, 0.0]
    data = Dataset.from_dict(
        {
            "prompt": ["say", "say"],
            "chosen": [" yes", " no"],
            "rejected": [" no", " yes"],
            "weight": weights,
        }
    )
    trainer = make(
        DDPOTrainer,
        data,
        per_device_train_batch_size=2,
        max_steps=20,
        learning_rate=1e-2,
        move=False,
        loss_type="sigmoid",
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < 0.5 * logs[0]["loss"] and logs[0]["weight"] == 2.0
    assert logs[-1]["rewards/accuracies"] == 0.5


def test_the_fused_head_gives_the_log_probs_of_the_next_tokens(make):
    trainer = make(DDPOTrainer, make_pairs(2))
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    labels = torch.tensor([[-100, -100, 5, 6, 7]])
    with torch.no_grad():
        fused = trainer.model(
            input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True
        ).log_probs
        plain = (
            trainer.model(input_ids=ids)
            .logits[:, :-1]
            .log_softmax(-1)
            .gather(2, ids[:, 1:, None])[..., 0]
        )
    assert fused.shape == (1, 4) and fused[0, 0] == 0
    assert torch.allclose(fused[:, 1:], plain[:, 1:], atol=1e-5)
