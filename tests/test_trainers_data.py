"""DDPOTrainer's weights on their way: with their pairs through shuffling and streaming, never into the model, refused
where they are faulty or no loss is defined for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from tiny_trainers import FAULTY_WEIGHTS, SETUPS, Spy, make_pairs, maker
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ddpo_utils import compute_deviation
from ddpo_utils.trainers import DDPOTrainer, WeightedCollator


@pytest.fixture
def make(tiny_folder: Path, adapter_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    return maker(tiny_folder, adapter_folder, tmp_path)


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("setup", SETUPS[:3])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_weights_stay_with_their_pairs_after_shuffling(make, setup, precompute, accumulation):
    data = make_pairs(n=13, weights=[i / 10 for i in range(13)])
    trainer = make(
        Spy,
        data,
        setup=setup,
        precompute_ref_log_probs=precompute,
        per_device_train_batch_size=2,
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
    )
    trainer.train()
    expected = [
        (tuple(row["prompt_ids"] + row["chosen_ids"]), round(row["weight"], 4))
        for row in trainer.train_dataset
    ]
    assert len(set(expected)) == 13
    for epoch in (trainer.seen[:13], trainer.seen[13:]):
        assert sorted(epoch) == sorted(expected)
        assert epoch != expected  # it was shuffled
    assert trainer.state.log_history[0]["weight"] >= 0


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("setup", SETUPS[:3])
def test_the_weight_never_reaches_the_model(make, setup, precompute):
    calls: list[set[str]] = []
    trainer = make(
        DDPOTrainer,
        make_pairs(weights=2.0),
        setup=setup,
        precompute_ref_log_probs=precompute,
        max_steps=1,
        eval_dataset=make_pairs(4),
        spy=lambda module, args, kwargs: calls.append(set(kwargs)),
    )
    trainer.train()
    trainer.evaluate()
    trainer.evaluate(make_pairs(3)) if setup != "full model" or not precompute else None
    assert len(calls) >= 3
    assert {"input_ids", "attention_mask", "labels"} <= set().union(
        *calls
    ) and "weight" not in set().union(*calls)
    theirs: list[set[str]] = []
    plain = make(
        DPOTrainer,
        make_pairs(weights=None),
        setup=setup,
        precompute_ref_log_probs=precompute,
        max_steps=1,
        spy=lambda module, args, kwargs: theirs.append(set(kwargs)),
    )
    plain.train()
    assert set().union(*calls) == set().union(*theirs)


def test_evaluation_can_hand_out_logits(make):
    trainer = make(DDPOTrainer, make_pairs(), eval_dataset=make_pairs(2))
    batch = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader())))
    _, logits, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    assert logits.shape[:2] == labels.shape


@pytest.mark.parametrize(("weights", "message"), FAULTY_WEIGHTS)
def test_faulty_weights_are_refused_when_the_trainer_is_made(make, weights, message):
    with pytest.raises(ValueError, match=message):
        make(DDPOTrainer, make_pairs(3, weights))
    with pytest.raises(ValueError, match="eval_dataset.*" + message):
        make(DDPOTrainer, make_pairs(3), eval_dataset=make_pairs(3, weights))
    with pytest.raises(ValueError, match="eval_dataset.*" + message):
        make(
            DDPOTrainer,
            make_pairs(3),
            eval_dataset=DatasetDict(good=make_pairs(3), bad=make_pairs(3, weights)),
        )


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_weights_of_a_formatted_dataset_are_checked_as_well(make, kind):
    data = make_pairs(3, [1.0, -1.0, 1.0]).with_format(
        kind, columns=["weight"], output_all_columns=True
    )
    with pytest.raises(ValueError, match="weight of pair 1"):
        make(DDPOTrainer, data)


def stream(data: Dataset, named: bool) -> IterableDataset:
    return (
        data.to_iterable_dataset()
        if named
        else IterableDataset.from_generator(lambda: iter(data.to_list()))
    )


def test_the_readme_s_lines_train_with_the_weights_that_they_make(
    tiny_folder: Path, tmp_path: Path, monkeypatch
):
    class Letters:
        """An embedder of what the README asks for and no more: how often a text has each letter."""

        def __init__(self, name: str) -> None: ...

        def encode(self, texts: list[str], normalize_embeddings: bool) -> np.ndarray:
            return np.array([[text.count(letter) + 0.1 for letter in "aeiost"] for text in texts])

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", Letters)
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(from datasets.*?)```", readme, re.DOTALL)[1]
    here = f"DPOConfig(output_dir={str(tmp_path)!r}, max_steps=1, report_to='none', bf16=False, logging_steps=1)"
    responses = ["a tale at sea", "oooo", "it is a test", "so it ends"]
    names: dict[str, Any] = {
        "corpus": [
            ("Tell.", responses, [(1, 0), (2, 3)]),
            ("Tell more.", responses[::-1], [(0, 1)]),
        ],
        "model": AutoModelForCausalLM.from_pretrained(tiny_folder),
        "tokenizer": AutoTokenizer.from_pretrained(tiny_folder),
    }
    exec(code.replace("DPOConfig(...)", here), names)
    weights = compute_deviation(responses, Letters("a name"))
    assert [row["weight"] for row in names["rows"]] == pytest.approx(
        [weights[1], weights[2], weights[3]]
    )
    assert names["trainer"].state.log_history[0]["weight"] == pytest.approx(
        weights[1:].mean(), rel=1e-3
    )


def test_a_list_of_rows_is_refused_with_what_makes_a_dataset_of_it(make):
    with pytest.raises(
        ValueError, match=r"train_dataset is no datasets.Dataset: .*Dataset.from_list"
    ):
        make(Spy, make_pairs(weights=[1.0] * 8).to_list())


@pytest.mark.parametrize("named", [True, False])
def test_a_streamed_set_works_and_its_faults_are_found_on_the_way(make, named):
    options = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-3}
    data = make_pairs(weights=[i / 4 for i in range(8)])
    trainer = make(Spy, stream(data, named), **options)
    trainer.train()
    assert [w for _, w in trainer.seen] == [i / 4 for i in range(8)]
    with pytest.raises(ValueError, match="no column 'weight'"):
        make(DDPOTrainer, stream(make_pairs(weights=None), named), **options)
    trainer = make(
        DDPOTrainer, stream(make_pairs(weights=[1.0] * 5 + [-1.0] + [1.0] * 2), named), **options
    )
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
        WeightedCollator(plain)(
            [examples[0], {k: v for k, v in examples[1].items() if k != "weight"}]
        )
