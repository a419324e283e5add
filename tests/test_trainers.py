"""The trainers: equal to TRL's at weights of 1, linear in the weights, on any model and batch."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, get_peft_model
from tiny_trainers import (
    SETUPS,
    WEIGHTS,
    Gradients,
    assert_close,
    loss_and_gradients,
    maker,
    preference_data,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ddpo_utils import compute_deviation, dorpo_loss
from ddpo_utils.trainers import DDPOTrainer, DORPOTrainer, WeightedCollator

WITH_NLL = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.4]}
TRAINERS = [DDPOTrainer, DORPOTrainer]


@pytest.fixture
def make(tiny_folder: Path, adapter_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    return maker(tiny_folder, adapter_folder, tmp_path)


@pytest.fixture
def mixture(tiny_folder: Path) -> Callable[[], Any]:
    """Makes a tiny mixture of experts, whose router has a loss, under a moved adapter."""
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_folder))

    def build() -> Any:
        torch.manual_seed(5)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
        router = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
        config = MixtralConfig(vocab_size=vocabulary, **sizes, **heads, **router)
        lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        policy = get_peft_model(MixtralForCausalLM(config), lora)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.05 * torch.randn(parameter.shape)
        return policy

    return build


class Spy(DDPOTrainer):
    """Keeps the chosen side's tokens and the weight of each pair that the loss saw."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        self.seen = getattr(self, "seen", [])
        for ids, mask, weight in zip(
            inputs["input_ids"], inputs["attention_mask"], inputs["weight"], strict=False
        ):
            self.seen.append((tuple(ids[mask.bool()].tolist()), round(weight.item(), 4)))
        return super()._compute_loss(model, inputs, *args)


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


@pytest.mark.parametrize(
    ("ours", "theirs"), [(DDPOTrainer, DPOTrainer), (DORPOTrainer, ORPOTrainer)]
)
def test_a_router_s_loss_has_no_weight(make, mixture, ours, theirs):
    loss, gradients = loss_and_gradients(make(theirs, preference_data(3, None), mixture()))
    ones = make(ours, preference_data(3), mixture())
    loss1, gradients1 = loss_and_gradients(ones)
    assert loss1 == pytest.approx(loss, rel=1e-5)
    assert_close(gradients1, gradients)
    zeros, _ = loss_and_gradients(make(ours, preference_data(3, 0.0), mixture()))
    if ours is DORPOTrainer:
        assert zeros > 0.3 * math.log(2) + 0.1
    else:
        triple, _ = loss_and_gradients(make(ours, preference_data(3, 3.0), mixture()))
        assert zeros == pytest.approx((3 * loss - triple) / 2, rel=1e-4) and zeros > 0


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
            logps = trainer.model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        total -= row["weight"] * logps.gather(1, ids[0, start:, None]).sum().item()
        tokens += len(row["chosen_ids"])
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_dorpo_s_loss_is_the_function_s(make):
    trainer = make(DORPOTrainer, preference_data(weights=WEIGHTS))
    loss, _ = loss_and_gradients(trainer)
    sums: dict[str, list[tuple[float, int]]] = {"chosen": [], "rejected": [], "nll": []}
    for row in trainer.train_dataset:
        for side in ("chosen", "rejected"):
            ids = torch.tensor([row[f"{side}_input_ids"]])
            answer = torch.tensor(row[f"{side}_labels"])[1:] != -100
            with torch.no_grad():
                logps = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            logps = logps.gather(1, ids[0, 1:, None])[:, 0]
            sums[side].append((logps[answer].sum().item(), int(answer.sum())))
            if side == "chosen":
                sums["nll"].append((-logps.sum().item(), len(logps)))
    (w, tokens_w), (rejected, tokens_l), (nll, nll_tokens) = (
        torch.tensor(pairs, dtype=torch.float64).T for pairs in sums.values()
    )
    expected = dorpo_loss(w, rejected, tokens_w, tokens_l, nll, nll_tokens, WEIGHTS, beta=0.3)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_weights_of_zero_have_no_gradient(make):
    nothing = math.log(2) * 0.3
    for cls, expected, options in ((DDPOTrainer, 0, WITH_NLL), (DORPOTrainer, nothing, {})):
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


@pytest.mark.parametrize(
    ("ours", "theirs"), [(DDPOTrainer, DPOTrainer), (DORPOTrainer, ORPOTrainer)]
)
def test_an_eval_set_is_weighted_too(make, ours, theirs):
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


def test_evaluation_can_return_logits(make):
    trainer = make(DDPOTrainer, preference_data(), eval_dataset=preference_data(2))
    batch = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))
    _, logits, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    assert logits.shape[:2] == labels.shape


FAULTS = [  # (trainers, train_dataset, settings, what is named)
    (TRAINERS, preference_data(3, None), {}, "train_dataset has no column 'weight'"),
    (TRAINERS, preference_data(3, [1.0, -0.5, 1.0]), {}, r"train_dataset.*pair 1 is -0\.5"),
    (TRAINERS, preference_data(3, ["1"] * 3), {}, "pair 0 is '1'"),
    (TRAINERS, preference_data(3, [1.0, -1.0, 1.0]).with_format("torch"), {}, "pair 1 is -1"),
    (TRAINERS, preference_data().to_list(), {}, r"Dataset\.from_list"),
    ([DDPOTrainer], preference_data(3), {"loss_type": "aot"}, "'aot' sorts"),
    ([DDPOTrainer], preference_data(3), {"loss_type": ["sigmoid", "aot_unpaired"]}, "unpaired"),
    ([DORPOTrainer], preference_data(), {"max_length": 5}, "max_length"),
]


@pytest.mark.parametrize(("classes", "data", "settings", "named"), FAULTS)
def test_faults_are_named_when_the_trainer_is_made(make, classes, data, settings, named):
    for cls in classes:
        with pytest.raises(ValueError, match=named):
            make(cls, data, **settings)


def test_arguments_may_be_positional_and_of_the_right_config_alone(make, tiny, tmp_path):
    data, options = preference_data(3, WEIGHTS[:3]), {"report_to": "none", "bf16": False}
    ours, theirs = DPOConfig(str(tmp_path), **options), ORPOConfig(str(tmp_path), **options)
    trainer = DDPOTrainer(tiny[0], None, ours, None, data, None, tiny[1])
    assert trainer.train_dataset["weight"][:] == WEIGHTS[:3]
    assert DORPOTrainer(tiny[0], theirs, None, data, None, tiny[1]).train_dataset.num_rows == 3
    for cls, config in ((DDPOTrainer, theirs), (DORPOTrainer, ours)):
        with pytest.raises(ValueError, match="args is a .*Config: give a "):
            cls(tiny[0], args=config, train_dataset=data, processing_class=tiny[1])


@pytest.mark.parametrize(
    ("package", "found"), [("trl", "1.11.3"), ("trl", "1.17.0"), ("transformers", "5.9")]
)
def test_another_version_is_refused_by_name(make, monkeypatch, package, found):
    monkeypatch.setattr(
        "ddpo_utils.trainers.version", {"trl": "1.16", "transformers": "5.10", package: found}.get
    )
    for cls in TRAINERS:
        with pytest.raises(ValueError, match=f"{package} {found} is installed"):
            make(cls, preference_data(3))


@pytest.mark.parametrize("cls", TRAINERS)
def test_the_model_card_names_the_method_and_the_weights(make, cls, tmp_path):
    trainer = make(cls, preference_data(weights=WEIGHTS))
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert cls.__name__.removesuffix("Trainer") in card and "2503.17126" in card
    assert "Mean 1.906, smallest 0.000, largest 7.000" in card


@pytest.mark.parametrize(("weights", "times"), [(1.0, 1), (WEIGHTS, 0), (2.0, 0)])
def test_weights_that_are_all_one_are_told_once(make, weights, times):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(DDPOTrainer, preference_data(weights=weights), max_steps=1).train()
    assert sum("Every weight is 1" in str(entry.message) for entry in caught) == times


@pytest.mark.parametrize("cls", TRAINERS)
def test_an_eval_set_is_checked_as_well(make, cls):
    sets = DatasetDict(good=preference_data(3), bad=preference_data(3, [1.0, 1.0, float("nan")]))
    with pytest.raises(ValueError, match=r"eval_dataset.*pair 2 is nan"):
        make(cls, preference_data(3), eval_dataset=sets)


def test_a_streamed_set_works_and_its_faults_are_found_on_the_way(make):
    options = {"per_device_train_batch_size": 2, "max_steps": 4}
    trainer = make(Spy, preference_data(weights=WEIGHTS).to_iterable_dataset(), **options)
    trainer.train()
    assert [weight for _, weight in trainer.seen] == WEIGHTS
    unnamed = IterableDataset.from_generator(lambda: iter(preference_data(weights=None).to_list()))
    with pytest.raises(ValueError, match="no column 'weight'"):
        make(DDPOTrainer, unnamed, **options)
    late = preference_data(weights=[1.0] * 5 + [-1.0, 1.0, 1.0]).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"pair 1 is -1\.0"):  # of its batch
        make(DDPOTrainer, late, **options).train()


HEADS = [
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ".*(q_proj|lm_head)"},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    {"target_modules": [], "target_parameters": ["lm_head.weight"]},
    {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},  # the head is tied
    {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
]
ADAPTERS = [
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 40, 41]}},
]


def moved(tiny_folder: Path, **settings: Any) -> Any:
    """The tiny model, its head untied for single tokens, under an adapter as after some SFT."""
    untied = "trainable_token_indices" in settings
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, tie_word_embeddings=not untied)
    torch.manual_seed(1)
    policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return policy


@pytest.mark.parametrize("cls", TRAINERS)
@pytest.mark.parametrize("settings", HEADS, ids=str)
def test_an_adapter_on_the_head_is_refused(make, tiny, cls, settings):
    policy = get_peft_model(tiny[0], LoraConfig(task_type="CAUSAL_LM", **settings))
    with pytest.raises(ValueError, match=r"LM head|lm_head"):
        make(cls, preference_data(), policy)


@pytest.mark.parametrize("settings", ADAPTERS, ids=str)
def test_the_reference_is_the_whole_adapter_that_training_starts_from(make, tiny_folder, settings):
    policy = moved(tiny_folder, **settings)
    trainer = make(DDPOTrainer, preference_data(weights=WEIGHTS), policy)
    trainer.starts_at_reference = True
    loss, _ = loss_and_gradients(trainer)
    assert loss == pytest.approx(math.log(2) * sum(WEIGHTS) / 8, rel=1e-5)
    for name, parameter in trainer.model.named_parameters():
        if ".ref" in name:
            parameter.data += 0.1
    with pytest.raises(ValueError, match="ln 2"):
        trainer.train()


def test_a_reference_that_would_move_with_the_policy_is_refused(make, tiny_folder):
    policy = moved(tiny_folder, target_modules=["q_proj"])
    policy.get_input_embeddings().weight.requires_grad_()  # as biases are with bias="all"
    with pytest.raises(ValueError, match="embed_tokens"):
        make(DDPOTrainer, preference_data(), policy)


@pytest.mark.parametrize(
    ("weights", "limit", "share"),
    [(WEIGHTS, 1e-3, 1.0), (WEIGHTS, 1e3, 0.0), (WEIGHTS, 0.0, 0.0), (1.0, 1e-3, 1.0)],
)
@pytest.mark.parametrize("cls", TRAINERS)
def test_clipping_that_undoes_weights_is_told_once(make, cls, weights, limit, share):
    options = {"max_steps": 3, "max_grad_norm": limit, "logging_steps": 50}
    trainer = make(cls, preference_data(weights=weights), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    told = [entry for entry in caught if "max_grad_norm" in str(entry.message)]
    assert trainer.clipped_share == share
    assert len(told) == (share > 1 / 3 and weights is WEIGHTS)


def test_the_collator_adds_the_weight_and_nothing_else():
    first = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4], "weight": 0.5}
    second = {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], "weight": torch.tensor(2)}
    plain = DataCollatorForPreference(pad_token_id=0)
    batch = WeightedCollator(plain)([first, second])
    assert batch["weight"].dtype == torch.float32 and batch["weight"].tolist() == [0.5, 2.0]
    assert batch.keys() == plain([first, second]).keys() | {"weight"} and "weight" in first
    del second["weight"]
    with pytest.raises(ValueError, match="pair 1 is None"):
        WeightedCollator(plain)([first, second])


class Letters:
    """An embedder with what the README asks for: how often a text has each letter."""

    def __init__(self, name: str) -> None: ...

    def encode(self, texts: list[str], normalize_embeddings: bool) -> np.ndarray:
        return np.array([[text.count(letter) + 0.1 for letter in "aeiost"] for text in texts])


def test_the_readme_s_lines_train_with_the_weights_that_they_make(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", Letters)
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(from sentence.*?)```", readme, re.DOTALL)[1]
    settings = "max_steps=1, report_to='none', bf16=False, logging_steps=1"
    config = f"DPOConfig(output_dir={str(tmp_path)!r}, {settings})"
    responses = ["a tale at sea", "oooo", "it is a test", "so it ends"]
    rows = []
    for prompt, chosen, rejected in (
        ("Tell.", 1, 0),
        ("Tell.", 2, 3),
        ("More.", 3, 2),
        ("More.", 1, 0),
    ):
        texts = {"chosen": responses[chosen], "rejected": responses[rejected]}
        rows.append({"prompt": prompt, **texts})
    dataset = Dataset.from_list(rows)
    names: dict[str, Any] = {"dataset": dataset, "model": tiny[0], "tokenizer": tiny[1]}
    exec(code.replace("DPOConfig(...)", config), names)
    weights = compute_deviation(responses, Letters("any"))[[1, 2, 3, 1]]
    assert names["dataset"]["weight"][:] == pytest.approx(list(weights))
    logged = names["trainer"].state.log_history[0]["weight"]
    assert logged == pytest.approx(weights.mean(), rel=1e-3)
