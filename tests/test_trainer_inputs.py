"""What the trainers refuse, warn of and write, and the lines of the README."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, get_peft_model
from tiny_trainers import (
    OLD_TRL,
    TRAINERS,
    WEIGHTS,
    Spy,
    loss_and_gradients,
    preference_data,
)
from transformers import AutoModelForCausalLM
from trl import DPOConfig
from trl.experimental.orpo import ORPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ddpo_utils import compute_deviation
from ddpo_utils.trainers import DDPOTrainer, DORPOTrainer, WeightedCollator

FAULTS = [  # (trainers, train_dataset, settings, what is named)
    (TRAINERS, preference_data(3, None), {}, "train_dataset has no column 'weight'"),
    (TRAINERS, preference_data(3, [1.0, -0.5, 1.0]), {}, r"train_dataset.*pair 1 is -0\.5"),
    (TRAINERS, preference_data(3, ["1"] * 3), {}, "pair 0 is '1'"),
    (TRAINERS, preference_data(3, [1.0, -1.0, 1.0]).with_format("torch"), {}, "pair 1 is -1"),
    (TRAINERS, preference_data().to_list(), {}, r"Dataset\.from_list"),
    ([DDPOTrainer], preference_data(3), {"loss_type": "aot"}, "'aot' sorts"),
    ([DDPOTrainer], preference_data(3), {"loss_type": ["sigmoid", "aot_unpaired"]}, "unpaired"),
    (TRAINERS[1:], preference_data(), {"max_length": 5}, "max_length"),
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
    if not OLD_TRL:
        assert len(DORPOTrainer(tiny[0], theirs, None, data, None, tiny[1]).train_dataset) == 3
    for cls, config in zip(TRAINERS, (theirs, ours), strict=False):
        with pytest.raises(ValueError, match=r"args is of .*Config: give trl\..*Config"):
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


@pytest.mark.parametrize("cls", TRAINERS)
def test_an_adapter_that_the_trainer_itself_would_put_on_the_head_is_refused(cls, tiny, tmp_path):
    config = ORPOConfig if cls is DORPOTrainer else DPOConfig
    with pytest.raises(ValueError, match=r"LM head|lm_head"):
        cls(
            tiny[0],
            args=config(str(tmp_path), report_to="none", bf16=False),
            train_dataset=preference_data(3),
            processing_class=tiny[1],
            peft_config=LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"),
        )


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


def test_a_resumed_run_goes_on_from_its_checkpoint(make, tmp_path):
    """transformers before 5.23 passes over the adapter where "ref" lies beside it."""
    options = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 0.05, "logging_steps": 1}
    losses = []
    for steps, checkpoint in ((3, None), (3, str(tmp_path / "out" / "checkpoint-2"))):
        data = preference_data(weights=WEIGHTS)
        trainer = make(DDPOTrainer, data, "re-trained adapter", max_steps=steps, **options)
        trainer.train(resume_from_checkpoint=checkpoint)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][2] < losses[0][0]


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
