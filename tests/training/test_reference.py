"""The reference's log-probs: TRL's own, computed once for all arms, kept through a kill."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_llama import write_llama
from tiny_runs import PAIRS, STORIES, BrokenOff, curve, tiny_profile
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from ddpo_utils import DDPOTrainer, Profile
from ddpo_utils.models.policy import load_adapter, load_policy
from ddpo_utils.training import reference
from ddpo_utils.training.arms import Arm
from ddpo_utils.training.one_arm import to_dataset, train_pairs, train_sft

DPO = Arm("dpo")


@pytest.fixture(scope="module")
def profile(tiny_folder: Path) -> Profile:
    """12 pairs in four steps of four: an epoch and a third."""
    return tiny_profile(tiny_folder, steps=4, batch_size=4, checkpoint_every=4)


class Batches(list[tuple[int, int]]):
    """Pairs and tokens of each batch whose reference log-probs are computed."""

    @property
    def pairs(self) -> int:
        return sum(pairs for pairs, _ in self)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    seen, compute = Batches(), DDPOTrainer.compute_ref_log_probs

    def spy(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
        seen.append((len(inputs["input_ids"]) // 2, int(inputs["attention_mask"].sum())))
        return compute(trainer, model, inputs)

    monkeypatch.setattr(DDPOTrainer, "compute_ref_log_probs", spy)
    return seen


def stored(sft: Path) -> pd.DataFrame:
    (path,) = sft.glob("reference-*.csv")
    return pd.read_csv(path, index_col="key", dtype={"key": "uint64"}, comment="#")


@pytest.mark.parametrize("max_length", [50, 1024])  # stories cut, and whole
def test_they_are_those_that_trl_computes(
    profile: Profile, sft: Path, tmp_path: Path, max_length: int
) -> None:
    trainers = {}
    for cls, precompute in ((DPOTrainer, True), (DDPOTrainer, False)):
        model, tokenizer = load_policy(profile, sft, trainable=True)
        data = to_dataset(PAIRS).add_column("key", np.arange(len(PAIRS), dtype="uint64"))
        args = DPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=2,
            max_length=max_length,
            bf16=False,
            report_to="none",
            dataloader_pin_memory=False,
            precompute_ref_log_probs=precompute,
        )
        trainers[cls] = cls(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    ours, theirs = trainers[DDPOTrainer], trainers[DPOTrainer].train_dataset
    reference.add_reference(ours, sft / "reference-x.csv")
    for name in reference.REFERENCE_LOGPS:
        expected = np.array(theirs[name][:])
        assert np.allclose(ours.train_dataset[name][:], expected, rtol=1e-5, atol=1e-3)
        assert np.allclose(stored(sft).loc[range(len(PAIRS)), name], expected, rtol=1e-5, atol=1e-3)
        assert len(set(np.round(expected, 3))) == len(PAIRS)  # so each pair has its own


def test_they_are_computed_once_and_shared_by_the_arms(
    profile: Profile, sft: Path, tmp_path: Path, batches: Batches
) -> None:
    losses = {}
    for arm, weight in {"dpo": None, "ddpo": np.ones(len(PAIRS))}.items():
        record = train_pairs(profile, PAIRS, weight, tmp_path / arm, sft, Arm(arm))
        losses[arm] = curve(record)
        assert batches.pairs == len(PAIRS)  # by the first arm alone
        assert record["log"][0]["loss"] == pytest.approx(np.log(2), abs=1e-5)  # policy = reference
        assert abs(record["log"][-1]["rewards/margins"]) > 1e-2
    in_loop = replace(profile, precompute_reference=False)
    looped = train_pairs(in_loop, PAIRS, None, tmp_path / "loop", sft, DPO)
    assert batches.pairs == len(PAIRS) + 4 * 4  # each pair of each step
    assert losses["dpo"] == losses["ddpo"] == pytest.approx(curve(looped), rel=1e-4)


def test_pairs_that_will_be_seen_are_scored_the_longest_first(
    profile: Profile, sft: Path, tmp_path: Path, batches: Batches
) -> None:
    profile = replace(profile, max_length=1024)
    train_pairs(replace(profile, steps=2), PAIRS, None, tmp_path / "short", sft, DPO)
    assert batches.pairs == 2 * 4
    tokens = [count for _, count in batches]
    assert tokens == sorted(tokens, reverse=True) and tokens[0] > 1.1 * tokens[-1]
    before = stored(sft)
    train_pairs(profile, PAIRS, None, tmp_path / "long", sft, DPO)
    assert batches.pairs == len(PAIRS) == len(stored(sft))
    assert stored(sft).loc[before.index].equals(before)  # what was known is kept


def test_a_killed_computation_goes_on(
    profile: Profile, sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SCORED_AT_ONCE", 5)
    compute, calls = DDPOTrainer.compute_ref_log_probs, []

    def killed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # 2 + 2 + 1 pairs are the first part
            raise BrokenOff
        return compute(*args)

    monkeypatch.setattr(DDPOTrainer, "compute_ref_log_probs", killed)
    with pytest.raises(BrokenOff):
        train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, DPO)
    assert len(stored(sft)) == 5
    calls = [None] * 4
    broken = train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, DPO)
    assert len(calls) - 4 == 4 and not list(sft.glob("*.part"))  # 5 pairs and 2 more
    (path,) = sft.glob("reference-*.csv")
    content = path.read_bytes()
    path.unlink()
    unbroken = train_pairs(profile, PAIRS, None, tmp_path / "again", sft, DPO)
    assert curve(broken) == curve(unbroken) and path.read_bytes() == content


def test_another_length_or_a_new_sft_run_has_its_own(
    profile: Profile, sft: Path, tmp_path: Path, batches: Batches
) -> None:
    train_pairs(profile, PAIRS, None, tmp_path / "dpo", sft, DPO)
    train_pairs(replace(profile, max_length=127), PAIRS, None, tmp_path / "other", sft, DPO)
    assert batches.pairs == 2 * len(PAIRS) and len(list(sft.glob("reference-*.csv"))) == 2
    for name in ("run.json", "config.yaml"):
        (sft / name).unlink()
    shutil.rmtree(sft / "checkpoints")
    train_sft(replace(profile, sft_steps=4), STORIES, sft)
    train_pairs(profile, PAIRS, None, tmp_path / "new", sft, DPO)
    assert batches.pairs == 3 * len(PAIRS) and len(list(sft.glob("reference-*.csv"))) == 3


KINDS = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 9]}},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "dora": {"target_modules": ["v_proj"], "use_dora": True, "lora_dropout": 0.5},
    "biases": {"target_modules": ["o_proj"], "lora_bias": True, "use_rslora": True},
    "ranks": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 5}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_whole_adapter(
    kind: str, profile: Profile, tiny_folder: Path, tmp_path: Path
) -> None:
    """An adapter of the user's whose every number is away from its start."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    folder = write_llama(tmp_path / "untied", tokenizer, tie_word_embeddings=False)
    profile = replace(profile, model=str(folder), steps=2, checkpoint_every=2)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **KINDS[kind]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    sft = tmp_path / "sft"
    model.save_pretrained(sft, save_embedding_layers=False)
    first = []
    for arm in ("dpo", "loop", "orpo"):
        settings = replace(profile, precompute_reference=arm != "loop")
        method = Arm("orpo") if arm == "orpo" else DPO
        watch = STORIES[["prompt", "text"]].head(2)
        record = train_pairs(settings, PAIRS, None, tmp_path / arm, sft, method, watch)
        watched = (kind, arm) != ("tokens", "orpo")
        assert record["kl"]["2"] > 1e-6 if watched else not record["kl"]
        first.append(record["log"][0]["loss"])
    assert first[:2] == pytest.approx([np.log(2)] * 2, abs=1e-5)
    loaded = load_policy(profile, tmp_path / "dpo")[0]
    assert load_adapter(loaded, sft, "ref").peft_config.keys() == {"default", "ref"}
