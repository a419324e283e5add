"""DORPOTrainer: its equality with TRL's ORPOTrainer at weights of 1, its weights, and what it stands on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_trainers import (
    FAULTY_WEIGHTS,
    SETTINGS,
    WEIGHTS,
    Gradients,
    assert_close,
    loss_and_gradients,
    make_pairs,
)
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from ddpo_utils import dorpo_loss
from ddpo_utils.orpo_trainer import DORPOTrainer


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a trainer of either class over the tiny model with a LoRA that is not at zero, in float64 unless told."""

    def build(
        cls: type, data: Any, dtype: torch.dtype = torch.float64, full: bool = False, **options: Any
    ) -> Any:
        more = {
            k: options.pop(k)
            for k in ("eval_dataset", "callbacks", "compute_metrics")
            if k in options
        }
        if not full:
            more["peft_config"] = LoraConfig(
                r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"
            )
        trainer = cls(
            model=AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=dtype),
            args=ORPOConfig(output_dir=str(tmp_path / "out"), **SETTINGS | options),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(tiny_folder),
            **more,
        )
        noise = torch.Generator().manual_seed(11)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                moved = parameter.data.to(dtype)
                parameter.data = moved + 0.05 * torch.randn(
                    parameter.shape, generator=noise, dtype=dtype
                )
        return trainer

    return build


def test_the_pairs_have_unequal_lengths_and_padding(make) -> None:
    batch = next(iter(make(DORPOTrainer, make_pairs()).get_train_dataloader()))
    for side in ("chosen", "rejected"):
        lengths = batch[f"{side}_attention_mask"].sum(1)
        answers = (batch[f"{side}_labels"] != -100).sum(1)
        assert len(set(lengths.tolist())) > 3 and len(set((lengths - answers).tolist())) > 2
        assert (batch[f"{side}_attention_mask"] == 0).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_weights_of_one_equal_trl(make, chat, full, dtype) -> None:
    plain = make(ORPOTrainer, make_pairs(chat=chat, weights=None), dtype, full)
    ours = make(DORPOTrainer, make_pairs(chat=chat), dtype, full)
    loss, gradients = loss_and_gradients(plain)
    loss1, gradients1 = loss_and_gradients(ours)
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)
    theirs, own = plain._stored_metrics["train"], ours._stored_metrics["train"]
    assert own.keys() == theirs.keys() | {"weight"}
    for name in theirs.keys() - {
        "logits/chosen",
        "logits/rejected",
    }:  # TRL's are means over padding too
        assert own[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name


def test_truncation_keeps_the_equality(make) -> None:
    rows = make(ORPOTrainer, make_pairs(weights=None)).train_dataset
    limit = max(len(row["prompt_input_ids"]) for row in rows) + 2
    assert sum(len(row["chosen_input_ids"]) > limit for row in rows) >= 4
    loss, gradients = loss_and_gradients(
        make(ORPOTrainer, make_pairs(weights=None), max_length=limit)
    )
    loss1, gradients1 = loss_and_gradients(make(DORPOTrainer, make_pairs(), max_length=limit))
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)


def test_a_prompt_that_leaves_no_response_is_refused(make) -> None:
    with pytest.raises(ValueError, match="fills max_length"):
        make(DORPOTrainer, make_pairs(), max_length=5)


def test_the_trainer_s_loss_is_the_function_s(make) -> None:
    """Each pair's log-probs are computed alone, without padding."""
    trainer = make(DORPOTrainer, make_pairs(weights=WEIGHTS))
    loss, _ = loss_and_gradients(trainer)
    parts: list[list[float]] = [[] for _ in range(6)]
    for row in trainer.train_dataset:
        for side, places in (("chosen", (0, 2)), ("rejected", (1, 3))):
            ids, labels = (
                torch.tensor([row[f"{side}_input_ids"]]),
                torch.tensor(row[f"{side}_labels"])[1:],
            )
            with torch.no_grad():
                logps = (
                    trainer.model(input_ids=ids)
                    .logits[0, :-1]
                    .log_softmax(-1)
                    .gather(1, ids[0, 1:, None])[:, 0]
                )
            parts[places[0]].append(logps[labels != -100].sum().item())
            parts[places[1]].append(int((labels != -100).sum()))
            if side == "chosen":
                parts[4].append(-logps.sum().item())
                parts[5].append(len(logps))
    logps = [torch.tensor(parts[i], dtype=torch.float64) for i in (0, 1, 4)]
    expected = dorpo_loss(*logps[:2], parts[2], parts[3], logps[2], parts[5], WEIGHTS, beta=0.3)
    assert loss == pytest.approx(expected.item(), rel=1e-6)  # TRL's fused head works in float32


def test_a_weight_of_zero_takes_a_pair_out_of_the_gradient(make) -> None:
    data = make_pairs(weights=WEIGHTS)
    gradients = loss_and_gradients(make(DORPOTrainer, data))[1]
    for pair, same in ((0, True), (1, False)):  # of weight 0, and of weight 0.25
        other = data.to_dict()
        for side in ("chosen", "rejected"):  # the same words the other way round: as many tokens
            other[side][pair] = " " + " ".join(reversed(other[side][pair].split()))
        assert other["chosen"][pair] != data[pair]["chosen"]
        changed = loss_and_gradients(make(DORPOTrainer, Dataset.from_dict(other)))[1]
        assert (
            all(torch.allclose(changed[name], gradients[name], atol=1e-7) for name in gradients)
            is same
        )
    none = loss_and_gradients(make(DORPOTrainer, make_pairs(weights=0.0)))
    assert none[0] == pytest.approx(0.3 * math.log(2)) and all(
        (g == 0).all() for g in none[1].values()
    )


def test_the_parts_of_a_batch_change_nothing(make) -> None:
    taken, losses = [], []
    for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
        gradients = Gradients()
        trainer = make(
            DORPOTrainer,
            make_pairs(weights=WEIGHTS),
            per_device_train_batch_size=batch,
            max_steps=1,
            gradient_accumulation_steps=accumulation,
            callbacks=[gradients],
        )
        trainer.train()
        taken.append(gradients.first)
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    assert_close(taken[1], taken[0])
    assert_close(taken[2], taken[0])


def test_it_trains_and_evaluates_with_its_metrics_in_the_log(make) -> None:
    options = {"max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    trainer = make(
        DORPOTrainer,
        make_pairs(13, [i / 6 for i in range(13)]),
        eval_dataset=make_pairs(5, 2.0),
        compute_metrics=lambda _: {},
        **options,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["nll_loss"] < logs[0]["nll_loss"] and {
        "log_odds_chosen",
        "rewards/margins",
        "weight",
    } <= set(logs[0])
    after = trainer.evaluate()
    assert after["eval_loss"] < before and after["eval_weight"] == 2.0
    plain = make(ORPOTrainer, make_pairs(), eval_dataset=make_pairs(5, None)).evaluate()[
        "eval_loss"
    ]
    ours = make(DORPOTrainer, make_pairs(), eval_dataset=make_pairs(5)).evaluate()["eval_loss"]
    assert ours == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(("weights", "message"), FAULTY_WEIGHTS)
def test_faulty_weights_are_refused_when_the_trainer_is_made(make, weights, message) -> None:
    with pytest.raises(ValueError, match="train_dataset.*" + message):
        make(DORPOTrainer, make_pairs(3, weights))
    with pytest.raises(ValueError, match="eval_dataset.*" + message):
        make(DORPOTrainer, make_pairs(3), eval_dataset=make_pairs(3, weights))


def contract_faults(cls: type) -> list[str]:
    """What ddpo_utils.orpo_trainer needs of TRL's ORPOTrainer and does not find, a sentence each."""
    faults = []

    def need(holds: bool, what: str) -> None:
        if not holds:
            faults.append(f"TRL's ORPOTrainer: {what} (used in ddpo_utils/orpo_trainer.py).")

    def parameters(name: str) -> list[str]:
        return list(inspect.signature(getattr(cls, name)).parameters) if hasattr(cls, name) else []

    need(
        parameters("__init__")[1:3] == ["model", "args"],
        "__init__ no longer begins with model, args",
    )
    need(
        {"train_dataset", "eval_dataset"} <= set(parameters("__init__")),
        "__init__ takes no train_dataset",
    )
    for name, expected in {
        "tokenize_row": ["self", "feature", "model"],
        "get_batch_samples": ["self", "epoch_iterator", "num_batches", "device"],
        "get_batch_loss_metrics": ["self", "model", "batch", "train_eval"],
        "concatenated_inputs": ["batch", "is_encoder_decoder", "padding_value", "device"],
    }.items():
        need(parameters(name) == expected, f"{name} is gone or takes other arguments")
    source = inspect.getsource(cls)
    for name in (
        "is_encoder_decoder",
        "aux_loss_enabled",
        "beta",
        "padding_value",
        "data_collator",
    ):
        need(
            f"self.{name} = " in source or name == "data_collator",
            f"the attribute {name} is no longer set",
        )
    for key in (
        "chosen_labels",
        "rejected_labels",
        "concatenated_input_ids",
        "concatenated_attention_mask",
    ):
        need(f'"{key}"' in source, f"batches no longer carry {key!r}")
    need("args.remove_unused_columns = False" in source, "extra columns are no longer kept")
    need(
        "self.get_batch_loss_metrics(model, inputs" in source,
        "compute_loss no longer calls get_batch_loss_metrics",
    )
    need(
        cls.loss_is_scaled_for_ga is False, "the loss is no longer divided by the parts of a batch"
    )
    return faults


def test_trl_still_has_the_parts_that_the_trainer_stands_on() -> None:
    assert not contract_faults(ORPOTrainer)
    config = ORPOConfig(output_dir="unused", bf16=False)
    assert (config.max_length, config.disable_dropout) == (
        1024,
        True,
    )  # the recipe sets the profile's length
    assert len(Path(inspect.getfile(DORPOTrainer)).read_text(encoding="utf-8").splitlines()) <= 120


def test_the_contract_says_what_changed() -> None:
    class Changed(ORPOTrainer):
        loss_is_scaled_for_ga = True

        def get_batch_loss_metrics(self, model: Any, batch: Any) -> Any: ...

    faults = contract_faults(Changed)
    assert any("get_batch_loss_metrics is gone or takes other arguments" in f for f in faults)
    assert any("no longer divided" in f for f in faults)
