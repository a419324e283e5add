"""DORPOTrainer is TRL's ORPOTrainer at weights of 1, and `dorpo_loss` at all weights."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_trainers import (
    WEIGHTS,
    assert_close,
    loss_and_gradients,
    mixture_policy,
    preference_data,
)
from trl.experimental.orpo import ORPOTrainer

from ddpo_utils import dorpo_loss
from ddpo_utils.trainers import DORPOTrainer


def test_a_router_s_loss_has_no_weight(make, tiny_folder):
    policies = [mixture_policy(tiny_folder) for _ in range(3)]
    loss, gradients = loss_and_gradients(make(ORPOTrainer, preference_data(3, None), policies[0]))
    loss1, gradients1 = loss_and_gradients(make(DORPOTrainer, preference_data(3), policies[1]))
    assert loss1 == pytest.approx(loss, rel=1e-5)
    assert_close(gradients1, gradients)
    zeros, _ = loss_and_gradients(make(DORPOTrainer, preference_data(3, 0.0), policies[2]))
    assert zeros > 0.3 * math.log(2) + 0.1


@pytest.mark.parametrize("setup", ["fresh adapter", "full model"])
@pytest.mark.parametrize("chat", [False, True])
def test_dorpo_at_weights_of_one_is_trl_s_orpo(make, setup, chat):
    plain = make(ORPOTrainer, preference_data(weights=None, chat=chat), setup)
    ours = make(DORPOTrainer, preference_data(chat=chat), setup)
    loss, gradients = loss_and_gradients(plain)
    loss1, gradients1 = loss_and_gradients(ours)
    assert loss1 == pytest.approx(loss, rel=1e-5)
    assert_close(gradients1, gradients)
    theirs, metrics = plain._stored_metrics["train"], ours._stored_metrics["train"]
    assert metrics.keys() == theirs.keys() | {"weight"}
    for name in theirs.keys() - {"logits/chosen", "logits/rejected"}:  # TRL's count padding too
        assert metrics[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


def test_dorpo_s_loss_is_the_function_s(make):
    trainer = make(DORPOTrainer, preference_data(weights=WEIGHTS))
    loss, _ = loss_and_gradients(trainer)
    sums: dict[str, list[tuple[float, int]]] = {"chosen": [], "rejected": [], "nll": []}
    for row in trainer.train_dataset:
        for side in ("chosen", "rejected"):
            ids = torch.tensor([row[f"{side}_input_ids"]])
            answer = torch.tensor(row[f"{side}_labels"])[1:] != -100
            with torch.no_grad():
                logits = trainer.model(input_ids=ids.to(trainer.model.device)).logits.cpu()
            logps = logits[0, :-1].log_softmax(-1)
            logps = logps.gather(1, ids[0, 1:, None])[:, 0]
            sums[side].append((logps[answer].sum().item(), int(answer.sum())))
            if side == "chosen":
                sums["nll"].append((-logps.sum().item(), len(logps)))
    (w, tokens_w), (rejected, tokens_l), (nll, nll_tokens) = (
        torch.tensor(pairs, dtype=torch.float64).T for pairs in sums.values()
    )
    expected = dorpo_loss(w, rejected, tokens_w, tokens_l, nll, nll_tokens, WEIGHTS, beta=0.3)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
