"""DDPOTrainer: equal to TRL's trainer at weights of 1, linear in the weights, and never parting pair and weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, PeftModel, PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ddpo_utils.trainers import DDPOTrainer, WeightedCollator

WORDS = ["the", "light", "answers", "someone", "far", "at", "sea", "and", "nobody", "remembers", "why", "every"]


def make_pairs(n: int = 8, weights: list[Any] | float | None = 1.0, chat: bool = False) -> Dataset:
    """Pairs of unequal lengths, each with a text of its own."""

    def text(role: str, i: int, words: int) -> Any:
        content = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(words)) + f" {i}"
        return [{"role": role, "content": content}] if chat else ("" if role == "user" else " ") + content

    columns: dict[str, list[Any]] = {
        "prompt": [text("user", i, 3 + i % 3) for i in range(n)],
        "chosen": [text("assistant", i + 1, 2 + (5 * i) % 7) for i in range(n)],
        "rejected": [text("assistant", i + 2, 2 + (3 * i) % 5) for i in range(n)],
    }
    if weights is not None:
        columns["weight"] = weights if isinstance(weights, list) else [weights] * n
    return Dataset.from_dict(columns)


SETUPS = ["fresh adapter", "re-trained adapter", "full model", "virtual tokens"]


@pytest.fixture
def make(tiny_folder: Path, adapter_folder: Path, tmp_path: Path):
    """A trainer of either class over the tiny model, its policy moved away from the reference."""

    def build(cls: type, data: Any, setup: str = "fresh adapter", move: bool = True, spy: Any = None, **options: Any):
        torch.manual_seed(7)
        load = lambda: AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)  # noqa: E731
        model, more = load(), {k: options.pop(k) for k in ("eval_dataset", "callbacks", "ref_model") if k in options}
        if spy is not None:
            model.register_forward_pre_hook(spy, with_kwargs=True)
        if setup == "fresh adapter":
            more["peft_config"] = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        elif setup == "virtual tokens":
            more["peft_config"] = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
        elif setup == "re-trained adapter":
            model = PeftModel.from_pretrained(model, str(adapter_folder), is_trainable=True)
        elif not options.get("precompute_ref_log_probs"):
            more["ref_model"] = load()
            if spy is not None:
                more["ref_model"].register_forward_pre_hook(spy, with_kwargs=True)
        settings = {
            "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_length": 64, "beta": 0.3,
            "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
            "logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False, "max_grad_norm": 0.0,
        }  # fmt: skip
        trainer = cls(
            model=model,
            args=DPOConfig(output_dir=str(tmp_path / "out"), **{**settings, **options}),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(tiny_folder),
            **more,
        )
        if move:
            noise = torch.Generator().manual_seed(11)
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn(parameter.shape, generator=noise)
        return trainer

    return build


def loss_and_gradients(trainer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], scale: float = 1.0) -> None:
    assert a.keys() == b.keys() and a
    assert max(g.abs().max().item() for g in b.values()) > 1e-4, "no gradient to compare"
    for name in a:  # float tolerance: of the matrix's largest entry, since small ones are differences of large ones
        within = 1e-5 * scale * b[name].abs().max().item() + 1e-9
        assert torch.allclose(a[name], scale * b[name], rtol=0, atol=within), name


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
    loss3, gradients3 = loss_and_gradients(make(DDPOTrainer, make_pairs(chat=chat, weights=3.0), **options))
    assert loss3 == pytest.approx(3 * loss, rel=1e-6)
    assert_close(gradients3, gradients, 3)
    shared = ours._metrics["train"].keys() & plain._metrics["train"].keys()
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"} <= shared
    for name in shared:
        assert ours._metrics["train"][name] == pytest.approx(plain._metrics["train"][name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("loss", [{}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}])
@pytest.mark.parametrize("setup", SETUPS[:3])
def test_weights_of_zero_give_no_gradient(make, setup, loss):
    value, gradients = loss_and_gradients(make(DDPOTrainer, make_pairs(weights=0.0), setup=setup, **loss))
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
    assert together == pytest.approx(sum(w * x for w, x in zip(weights, alone, strict=True)), rel=1e-5)
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
    limit = max(len(row["prompt_ids"]) for row in rows) + 2  # every prompt fits, and most responses are cut
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
    loss, gradients = loss_and_gradients(make(DDPOTrainer, make_pairs(weights=weights), setup=setup))
    data = make_pairs(weights=weights)
    scored = make(DDPOTrainer, data, setup=setup, precompute_ref_log_probs=True).train_dataset
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        data = data.add_column(column, scored[column][:])
    trainer = make(DDPOTrainer, data, setup=setup)
    trainer.compute_ref_log_probs = None  # a call would fail
    loss1, gradients1 = loss_and_gradients(trainer)
    assert loss1 == pytest.approx(loss, rel=1e-6)
    assert_close(gradients1, gradients)


class Spy(DDPOTrainer):
    """Keeps what each call of the loss saw: the chosen side's tokens and the weight, pair by pair."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        half = len(inputs["input_ids"]) // 2
        for ids, mask, w in zip(inputs["input_ids"], inputs["attention_mask"][:half], inputs["weight"], strict=False):
            self.seen = [*getattr(self, "seen", []), (tuple(ids[mask.bool()].tolist()), round(w.item(), 4))]
        return super()._compute_loss(model, inputs, return_outputs)


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("setup", SETUPS[:3])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_weights_stay_with_their_pairs_after_shuffling(make, setup, precompute, accumulation):
    data = make_pairs(n=13, weights=[i / 10 for i in range(13)])
    trainer = make(
        Spy, data, setup=setup, precompute_ref_log_probs=precompute, per_device_train_batch_size=2, num_train_epochs=2,
        gradient_accumulation_steps=accumulation, learning_rate=1e-3,
    )  # fmt: skip
    trainer.train()
    expected = [
        (tuple(row["prompt_ids"] + row["chosen_ids"]), round(row["weight"], 4)) for row in trainer.train_dataset
    ]
    assert len(set(expected)) == 13
    for epoch in (trainer.seen[:13], trainer.seen[13:]):
        assert sorted(epoch) == sorted(expected)
        assert epoch != expected  # it was shuffled
    assert trainer.state.log_history[0]["weight"] >= 0


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self.first:
            self.first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("setup", SETUPS[:3])
def test_accumulated_gradients_are_those_of_the_whole_batch(make, setup):
    weights, taken = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0], []
    for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
        gradients = Gradients()
        trainer = make(
            DDPOTrainer, make_pairs(weights=weights), setup=setup, per_device_train_batch_size=batch, max_steps=1,
            gradient_accumulation_steps=accumulation, callbacks=[gradients],
        )  # fmt: skip
        trainer.train()
        taken.append(gradients.first)
    assert_close(taken[1], taken[0])
    assert_close(taken[2], taken[0])


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("setup", SETUPS[:3])
def test_the_weight_never_reaches_the_model(make, setup, precompute):
    calls: list[set[str]] = []
    trainer = make(
        DDPOTrainer, make_pairs(weights=2.0), setup=setup, precompute_ref_log_probs=precompute, max_steps=1,
        eval_dataset=make_pairs(4), spy=lambda module, args, kwargs: calls.append(set(kwargs)),
    )  # fmt: skip
    trainer.train()
    trainer.evaluate()
    trainer.evaluate(make_pairs(3)) if setup != "full model" or not precompute else None
    assert len(calls) >= 3
    assert {"input_ids", "attention_mask", "labels"} <= set().union(*calls) and "weight" not in set().union(*calls)
    theirs: list[set[str]] = []
    plain = make(
        DPOTrainer, make_pairs(weights=None), setup=setup, precompute_ref_log_probs=precompute, max_steps=1,
        spy=lambda module, args, kwargs: theirs.append(set(kwargs)),
    )  # fmt: skip
    plain.train()
    assert set().union(*calls) == set().union(*theirs)


@pytest.mark.parametrize("precompute", [False, True])
def test_an_eval_set_is_weighted_too(make, precompute):
    options = {"precompute_ref_log_probs": precompute}
    plain = make(DPOTrainer, make_pairs(), eval_dataset=make_pairs(5, weights=None), **options).evaluate()["eval_loss"]
    ours = make(DDPOTrainer, make_pairs(), eval_dataset=make_pairs(5, weights=2.0), **options)
    assert ours.evaluate()["eval_loss"] == pytest.approx(2 * plain, rel=1e-5)
    parts = make(DDPOTrainer, make_pairs(), eval_dataset={"a": make_pairs(5), "b": make_pairs(5, weights=3.0)})
    metrics = parts.evaluate()
    assert metrics["eval_a_loss"] == pytest.approx(plain, rel=1e-5)
    assert metrics["eval_b_loss"] == pytest.approx(3 * plain, rel=1e-5)


def test_evaluation_can_hand_out_logits(make):
    trainer = make(DDPOTrainer, make_pairs(), eval_dataset=make_pairs(2))
    batch = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))
    _, logits, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    assert logits.shape[:2] == labels.shape


def test_training_moves_the_weighted_pairs_alone(make):
    """Two pairs that want opposite things: the one with weight 0 must lose."""
    weights = [4.0, 0.0]
    data = Dataset.from_dict(
        {"prompt": ["say", "say"], "chosen": [" yes", " no"], "rejected": [" no", " yes"], "weight": weights}
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


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "no column 'weight'"),
        ([1.0, -0.5, 1.0], r"weight of pair 1 is -0\.5"),
        ([1.0, 1.0, float("nan")], "weight of pair 2 is nan"),
        ([float("inf"), 1.0, 1.0], "weight of pair 0 is inf"),
        ([1.0, None, 1.0], "weight of pair 1 is None"),
        (["1", "1", "1"], "weight of pair 0 is '1'"),
        ([[1.0], [1.0], [1.0]], r"weight of pair 0 is \[1\.0\]"),
    ],
)
def test_faulty_weights_are_refused_when_the_trainer_is_made(make, weights, message):
    with pytest.raises(ValueError, match=message):
        make(DDPOTrainer, make_pairs(3, weights))
    with pytest.raises(ValueError, match="eval_dataset.*" + message):
        make(DDPOTrainer, make_pairs(3), eval_dataset=make_pairs(3, weights))
    with pytest.raises(ValueError, match="eval_dataset.*" + message):
        make(DDPOTrainer, make_pairs(3), eval_dataset=DatasetDict(good=make_pairs(3), bad=make_pairs(3, weights)))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_weights_of_a_formatted_dataset_are_checked_as_well(make, kind):
    data = make_pairs(3, [1.0, -1.0, 1.0]).with_format(kind, columns=["weight"], output_all_columns=True)
    with pytest.raises(ValueError, match="weight of pair 1"):
        make(DDPOTrainer, data)


def stream(data: Dataset, named: bool) -> IterableDataset:
    return data.to_iterable_dataset() if named else IterableDataset.from_generator(lambda: iter(data.to_list()))


@pytest.mark.parametrize("named", [True, False])
def test_a_streamed_set_works_and_its_faults_are_found_on_the_way(make, named):
    options = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-3}
    data = make_pairs(weights=[i / 4 for i in range(8)])
    trainer = make(Spy, stream(data, named), **options)
    trainer.train()
    assert [w for _, w in trainer.seen] == [i / 4 for i in range(8)]
    with pytest.raises(ValueError, match="no column 'weight'"):
        make(DDPOTrainer, stream(make_pairs(weights=None), named), **options)
    trainer = make(DDPOTrainer, stream(make_pairs(weights=[1.0] * 5 + [-1.0] + [1.0] * 2), named), **options)
    with pytest.raises(ValueError, match=r"weight of pair 1 is -1\.0"):  # of its batch
        trainer.train()


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "hinge"},
        {"loss_type": ["sigmoid", "bco_pair"]},
        {"f_divergence_type": "js_divergence"},
        {"ld_alpha": 0.5},
        {"use_weighting": True},
        {"label_smoothing": 0.1},
    ],
)
def test_what_the_weights_are_not_defined_for_is_refused(make, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match="DDPOTrainer weights") as caught:
        make(DDPOTrainer, make_pairs(3), **options)
    assert name in str(caught.value) or str(options[name]).strip("[]") in str(caught.value)


def test_the_collator_adds_the_weight_and_nothing_else():
    examples = [
        {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4], "weight": 0.5},
        {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "weight": torch.tensor(2)},
    ]
    plain = DataCollatorForPreference(pad_token_id=0)
    batch = WeightedCollator(plain)(examples)
    assert batch["weight"].dtype == torch.float32 and batch.pop("weight").tolist() == [0.5, 2.0]
    assert batch.keys() == plain(examples).keys()
    assert "weight" in examples[0]  # the dataset's own row is left as it was
    with pytest.raises(ValueError, match="weight of pair 1 is None"):
        WeightedCollator(plain)([examples[0], {k: v for k, v in examples[1].items() if k != "weight"}])


def test_the_fused_head_gives_the_log_probs_of_the_next_tokens(make):
    trainer = make(DDPOTrainer, make_pairs(2))
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    labels = torch.tensor([[-100, -100, 5, 6, 7]])
    with torch.no_grad():
        fused = trainer.model(input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        plain = trainer.model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    assert fused.shape == (1, 4) and fused[0, 0] == 0
    assert torch.allclose(fused[:, 1:], plain[:, 1:], atol=1e-5)
