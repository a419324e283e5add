"""ORPO and DORPO: the losses by hand, DORPOTrainer's equality with TRL's at weights of 1, and what it stands on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from tiny_trainers import assert_close, loss_and_gradients, make_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from ddpo_utils import dorpo_loss, orpo_loss
from ddpo_utils.losses import log_odds
from ddpo_utils.orpo_trainer import DORPOTrainer

WEIGHTS = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0]


def draw(n: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Any]:
    """Log-probs of both sides, their token counts, NLL of the chosen side, its token counts."""
    generator = torch.Generator().manual_seed(seed)
    counts = [torch.randint(1, 200, (n,), generator=generator) for _ in range(2)]
    prompt = torch.randint(0, 50, (n,), generator=generator)
    rates = [torch.rand(n, generator=generator, dtype=torch.float64) * 4 + 0.01 for _ in range(2)]
    logps = [(-rate * count).to(dtype).requires_grad_() for rate, count in zip(rates, counts, strict=True)]
    nll = (-logps[0].detach() + 3.0 * prompt).to(dtype).requires_grad_()
    return [*logps, *counts, nll, counts[0] + prompt]


def by_hand(parts: list[Any], weights: list[float], beta: float) -> float:
    """The formula, a pair at a time in Python's numbers."""
    nll = ratio = 0.0
    for w, lw, ll, nw, nl, own in zip(weights, *(part.tolist() for part in parts[:5]), strict=True):
        p, q = math.exp(lw / nw), math.exp(ll / nl)
        odds = (p / (1 - p)) / (q / (1 - q))
        nll += w * own
        ratio += math.log(1 / (1 + odds**-w))  # log sigmoid(w log odds)
    return nll / sum(parts[5].tolist()) - beta * ratio / len(weights)


@pytest.mark.parametrize("beta", [0.1, 0.25, 1.0])
def test_the_formulas_are_those_of_a_literal_loop(beta: float) -> None:
    parts = draw()
    assert dorpo_loss(*parts, WEIGHTS, beta).item() == pytest.approx(by_hand(parts, WEIGHTS, beta), rel=1e-10)
    assert orpo_loss(*parts, beta).item() == pytest.approx(by_hand(parts, [1.0] * 8, beta), rel=1e-10)
    assert orpo_loss(*parts).item() == orpo_loss(*parts, beta=0.25).item()


def test_one_pair_on_paper() -> None:
    """Two tokens of probability 1/2 against one of 1/5: odds 1 and 1/4, so the ratio is 4; 3 tokens of NLL log 2."""
    log = math.log
    parts = [torch.tensor([v], dtype=torch.float64) for v in (2 * log(0.5), log(0.2))]
    parts += [[2], [1], torch.tensor([3 * log(2)], dtype=torch.float64), [3]]
    assert orpo_loss(*parts).item() == pytest.approx(log(2) + 0.25 * log(1 + 1 / 4))
    assert dorpo_loss(*parts, [2.0]).item() == pytest.approx(2 * log(2) + 0.25 * log(1 + 1 / 16))  # 4 squared


def gradients(loss: torch.Tensor, parts: list[Any]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [parts[0], parts[1], parts[4]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_of_one_are_orpo_to_the_last_bit(dtype: torch.dtype) -> None:
    parts = draw(dtype=dtype)
    ours, plain = dorpo_loss(*parts, torch.ones(8)), orpo_loss(*parts)
    assert torch.equal(ours, plain)
    assert all(map(torch.equal, gradients(ours, parts), gradients(plain, parts)))


def test_a_weight_of_zero_takes_a_pair_s_gradient_and_leaves_a_constant() -> None:
    parts = draw()
    loss = dorpo_loss(*parts, WEIGHTS)
    for gradient in gradients(loss, parts):
        assert gradient[0] == 0 and (gradient[1:] != 0).all()
    nothing = dorpo_loss(*parts, [0.0] * 8)
    assert nothing.item() == pytest.approx(0.25 * math.log(2))
    assert all((gradient == 0).all() for gradient in gradients(nothing, parts))


def test_the_weight_stands_inside_the_sigmoid() -> None:
    parts, weights = draw(), torch.tensor(WEIGHTS, dtype=torch.float64)
    ratio = log_odds(parts[0] / parts[2]) - log_odds(parts[1] / parts[3])
    outside = (weights * parts[4]).sum() / parts[5].sum() - 0.25 * (
        weights * torch.nn.functional.logsigmoid(ratio)
    ).mean()
    assert abs(dorpo_loss(*parts, WEIGHTS).item() - outside.item()) > 1e-2


@given(st.floats(-700, -1e-12))
def test_log_odds_keep_their_digits(mean: float) -> None:
    from decimal import Decimal, localcontext

    with localcontext(prec=400):
        p = Decimal(mean).exp()
        expected = float((p / (1 - p)).ln())
    assert log_odds(torch.tensor(mean, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_certainty_stays_finite(dtype: torch.dtype) -> None:
    means = torch.tensor([0.0, 1e-7, -1e-30, -800.0], dtype=dtype, requires_grad=True)
    odds = log_odds(means)
    odds.sum().backward()
    assert torch.isfinite(odds).all() and torch.isfinite(means.grad).all()
    assert odds[0] == -math.log(torch.finfo(dtype).eps) or odds[0] > 15


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.tensor([-1.0, float("nan")]), r"policy_logps_w\[1\] is not finite"),
        (1, torch.tensor([-1.0, 0.5]), r"policy_logps_l\[1\] is above 0"),
        (4, torch.tensor([-1.0, 2.0]), r"-nll_w\[0\] is above 0"),
        (0, [-1.0, -2.0], "policy_logps_w must be a 1-D floating-point tensor"),
        (4, torch.ones(3), "same pairs"),
        (2, [1, 0], "tokens_w must hold 2 numbers of tokens, each at least 1"),
        (3, [1], "tokens_l must hold 2"),
        (5, torch.tensor([[3], [3]]), "nll_tokens_w must hold 2"),
        (6, [1.0, -1.0], "deviation_w of pair 1 is -1.0"),
        (6, [1.0], "deviation_w must hold 2 weights"),
        (7, 0.0, "beta must be above 0"),
    ],
)
def test_faulty_input_is_refused(place: int, value: Any, message: str) -> None:
    parts = [
        torch.tensor([-1.0, -2.0]),
        torch.tensor([-3.0, -1.0]),
        [1, 2],
        [2, 1],
        torch.ones(2),
        [3, 3],
        [1.0, 1.0],
        0.25,
    ]
    dorpo_loss(*parts)
    parts[place] = value
    with pytest.raises(ValueError, match=message):
        dorpo_loss(*parts)


@pytest.fixture
def make(tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a trainer of either class over the tiny model with a LoRA that is not at zero, in float64 unless told."""

    def build(cls: type, data: Any, dtype: torch.dtype = torch.float64, full: bool = False, **options: Any) -> Any:
        more = {k: options.pop(k) for k in ("eval_dataset", "callbacks", "compute_metrics") if k in options}
        if not full:
            more["peft_config"] = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        settings = {
            "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_length": 64, "beta": 0.3,
            "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
            "logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False, "max_grad_norm": 0.0,
        }  # fmt: skip
        trainer = cls(
            model=AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=dtype),
            args=ORPOConfig(output_dir=str(tmp_path / "out"), **{**settings, **options}),
            train_dataset=data, processing_class=AutoTokenizer.from_pretrained(tiny_folder), **more,
        )  # fmt: skip
        noise = torch.Generator().manual_seed(11)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                moved = parameter.data.to(dtype)
                parameter.data = moved + 0.05 * torch.randn(parameter.shape, generator=noise, dtype=dtype)
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
    for name in theirs.keys() - {"logits/chosen", "logits/rejected"}:  # TRL's are means over padding too
        assert own[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name


def test_truncation_keeps_the_equality(make) -> None:
    rows = make(ORPOTrainer, make_pairs(weights=None)).train_dataset
    limit = max(len(row["prompt_input_ids"]) for row in rows) + 2
    assert sum(len(row["chosen_input_ids"]) > limit for row in rows) >= 4
    loss, gradients = loss_and_gradients(make(ORPOTrainer, make_pairs(weights=None), max_length=limit))
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
            ids, labels = torch.tensor([row[f"{side}_input_ids"]]), torch.tensor(row[f"{side}_labels"])[1:]
            with torch.no_grad():
                logps = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
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
        assert all(torch.allclose(changed[name], gradients[name], atol=1e-7) for name in gradients) is same
    none = loss_and_gradients(make(DORPOTrainer, make_pairs(weights=0.0)))
    assert none[0] == pytest.approx(0.3 * math.log(2)) and all((g == 0).all() for g in none[1].values())


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self.first:
            self.first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_parts_of_a_batch_change_nothing(make) -> None:
    taken, losses = [], []
    for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
        gradients = Gradients()
        trainer = make(
            DORPOTrainer, make_pairs(weights=WEIGHTS), per_device_train_batch_size=batch, max_steps=1,
            gradient_accumulation_steps=accumulation, callbacks=[gradients],
        )  # fmt: skip
        trainer.train()
        taken.append(gradients.first)
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    assert_close(taken[1], taken[0])
    assert_close(taken[2], taken[0])


def test_it_trains_and_evaluates_with_its_metrics_in_the_log(make) -> None:
    options = {"max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    trainer = make(
        DORPOTrainer, make_pairs(13, [i / 6 for i in range(13)]), eval_dataset=make_pairs(5, 2.0),
        compute_metrics=lambda _: {}, **options,
    )  # fmt: skip
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["nll_loss"] < logs[0]["nll_loss"] and {"log_odds_chosen", "rewards/margins", "weight"} <= set(
        logs[0]
    )
    after = trainer.evaluate()
    assert after["eval_loss"] < before and after["eval_weight"] == 2.0
    plain = make(ORPOTrainer, make_pairs(), eval_dataset=make_pairs(5, None)).evaluate()["eval_loss"]
    ours = make(DORPOTrainer, make_pairs(), eval_dataset=make_pairs(5)).evaluate()["eval_loss"]
    assert ours == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "no column 'weight'"),
        ([1.0, -0.5, 1.0], r"weight of pair 1 is -0\.5"),
        ([1.0, 1.0, float("nan")], "weight of pair 2 is nan"),
        ([float("inf"), 1.0, 1.0], "weight of pair 0 is inf"),
        ([1.0, None, 1.0], "weight of pair 1 is None"),
    ],
)
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

    need(parameters("__init__")[1:3] == ["model", "args"], "__init__ no longer begins with model, args")
    need({"train_dataset", "eval_dataset"} <= set(parameters("__init__")), "__init__ takes no train_dataset")
    for name, expected in {
        "tokenize_row": ["self", "feature", "model"],
        "get_batch_samples": ["self", "epoch_iterator", "num_batches", "device"],
        "get_batch_loss_metrics": ["self", "model", "batch", "train_eval"],
        "concatenated_inputs": ["batch", "is_encoder_decoder", "padding_value", "device"],
    }.items():
        need(parameters(name) == expected, f"{name} is gone or takes other arguments")
    source = inspect.getsource(cls)
    for name in ("is_encoder_decoder", "aux_loss_enabled", "beta", "padding_value", "data_collator"):
        need(f"self.{name} = " in source or name == "data_collator", f"the attribute {name} is no longer set")
    for key in ("chosen_labels", "rejected_labels", "concatenated_input_ids", "concatenated_attention_mask"):
        need(f'"{key}"' in source, f"batches no longer carry {key!r}")
    need("args.remove_unused_columns = False" in source, "extra columns are no longer kept")
    need("self.get_batch_loss_metrics(model, inputs" in source, "compute_loss no longer calls get_batch_loss_metrics")
    need(cls.loss_is_scaled_for_ga is False, "the loss is no longer divided by the parts of a batch")
    return faults


def test_trl_still_has_the_parts_that_the_trainer_stands_on() -> None:
    assert not contract_faults(ORPOTrainer)
    config = ORPOConfig(output_dir="unused", bf16=False)
    assert (config.max_length, config.disable_dropout) == (1024, True)  # the recipe sets the profile's length
    assert len(Path(inspect.getfile(DORPOTrainer)).read_text(encoding="utf-8").splitlines()) <= 120


def test_the_contract_says_what_changed() -> None:
    class Changed(ORPOTrainer):
        loss_is_scaled_for_ga = True

        def get_batch_loss_metrics(self, model: Any, batch: Any) -> Any: ...

    faults = contract_faults(Changed)
    assert any("get_batch_loss_metrics is gone or takes other arguments" in f for f in faults)
    assert any("no longer divided" in f for f in faults)
