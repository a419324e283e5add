"""A run's folder: which settings may change, damaged configurations, checkpoints, adapter, card."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import refusal
from huggingface_hub import ModelCard
from peft import PeftModel
from tiny_runs import PAIRS, STORIES, adapter, curve, record_of, tiny_profile
from transformers import AutoModelForCausalLM, AutoTokenizer

from ddpo_utils import CourseError, Profile, get_profile
from ddpo_utils.settings import data_dir
from ddpo_utils.training.arms import Arm
from ddpo_utils.training.one_arm import train_pairs, train_sft
from ddpo_utils.training.run_folder import (
    last_checkpoint,
    model_card,
    open_run,
    read_config,
    run_facts,
)

# What each setting decides: the model and its data, SFT, the pairs' training, or their weights.
MODEL = {"model", "tokenizer", "data", "prompts", "dtype", "quantize", "max_length", "seed"}
MODEL |= {"lora_r", "lora_alpha", "lora_targets", "max_grad_norm"}
MODEL |= {"columns", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"}
SFT = {"sft_learning_rate", "sft_batch_size", "sft_steps", "sft_epochs", "sft_warmup_steps"}
ANY = {"min_gap", "batch_size", "steps"}
DPO = ANY | {"beta", "learning_rate", "epochs", "nll_weight"}
ORPO = ANY | {"orpo_beta", "orpo_learning_rate", "orpo_epochs"}
WEIGHTS = {"weights", "floor", "semantic", "style"}
DECIDES = {
    "sft": MODEL | SFT,
    "dpo": MODEL | DPO,
    "ddpo": MODEL | DPO | WEIGHTS,
    "shuffled-sty": MODEL | DPO | WEIGHTS,
    "divpo-sem": (MODEL | DPO | WEIGHTS) - {"floor", "min_gap"},
    "orpo": MODEL | ORPO,
    "dorpo": MODEL | ORPO | WEIGHTS,
}


def changed(profile: Profile, setting: str) -> Profile:
    """The profile with another value of the same kind."""
    value = getattr(profile, setting)
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, int | float):
        value += 1
    else:
        value = ("k_proj",) if isinstance(value, tuple) else f"other-{value}"
    return replace(profile, **{setting: value})


def checkpoint(folder: Path, step: int, state: str | None = None) -> Path:
    path = folder / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    if state is None:
        state = json.dumps({"global_step": step})
    (path / "trainer_state.json").write_text(state)
    return path


@pytest.mark.parametrize("name", DECIDES)
def test_settings_come_back_as_they_went(name: str, tmp_path: Path) -> None:
    strange = {"data": "my: own [posts] #1.parquet", "sft_epochs": 0.1 + 0.2, "floor": 1e-300}
    strange |= {"model": "0123", "tokenizer": "no", "lora_targets": "v_proj,null"}
    for number, changes in enumerate(({}, strange)):
        arm, path = Arm.parse(name), tmp_path / str(number) / "config.yaml"
        settings = get_profile("colab", weights=arm.weights, **changes)
        assert open_run(path.parent, settings, arm) is None
        assert read_config(path)[:2] == (settings, arm)
        assert "train --config" in path.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("name", DECIDES)
def test_a_run_goes_on_with_its_own_settings_alone(name: str, tmp_path: Path) -> None:
    arm = Arm.parse(name)
    for nll_weight in (0.0, 0.1):  # an NLL is a mean over the tokens of a micro-batch
        profile = get_profile("8b", weights=arm.weights, nll_weight=nll_weight)
        folder = tmp_path / str(nll_weight)
        open_run(folder, profile, arm)
        checkpoint(folder, 2)
        content = (folder / "config.yaml").read_bytes()
        refused = set()
        for field in fields(Profile):
            try:
                assert open_run(folder, changed(profile, field.name), arm) is None
            except CourseError as error:
                assert field.name in str(error)
                refused.add(field.name)
        counts = {"micro_batch"} if nll_weight and arm.starts_from_sft else set()
        assert refused == DECIDES[name] | counts
        assert (folder / "config.yaml").read_bytes() == content


def test_a_run_from_another_sft_adapter_is_refused(tmp_path: Path, adapter_folder: Path) -> None:
    profile, arm, run = get_profile("8b"), Arm("dpo"), tmp_path / "dpo"
    open_run(run, profile, arm, adapter_folder)
    checkpoint(run, 2)
    assert open_run(run, profile, arm, adapter_folder) is None
    other = shutil.copytree(adapter_folder, tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 5}))
    assert "sft" in refusal(open_run, run, profile, arm, other)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, "config.yaml"),
        (b"{profile: smoke", "config.yaml"),
        (b"\xff\xfe\x00\x80", "config.yaml"),
        (b"profile: [smoke]\nsettings: {}", "smoke"),
        (b"compute_environment: LOCAL_MACHINE", "config.yaml"),  # accelerate's, by mistake
        (b"profile: smoke\nsettings: {speed: 3}", "speed"),
        (b"profile: smoke\narm: dddpo-sem\nsettings: {}", "dddpo-sem"),
    ],
)
def test_a_faulty_configuration_is_refused(
    content: bytes | None, names: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    assert names in refusal(read_config, path)


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    kept = [checkpoint(tmp_path, step) for step in (9, 100, 20)]
    cut = [checkpoint(tmp_path, 101, state=""), checkpoint(tmp_path, 102, state='{"global_st')]
    (tmp_path / "checkpoints" / "README.md").write_text("not a checkpoint")
    assert last_checkpoint(tmp_path) == kept[1]
    assert all(path.is_dir() for path in kept) and not any(path.exists() for path in cut)


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an SFT and a DDPO run of the tiny model, its KL watched."""
    folder = tmp_path_factory.mktemp("runs")
    profile = tiny_profile(tiny_folder)
    train_sft(profile, STORIES, folder / "sft")
    weight = [0.5, 1.5] * (len(PAIRS) // 2)
    watch = STORIES[["prompt", "text"]].head(2)
    train_pairs(profile, PAIRS, weight, folder / "ddpo", folder / "sft", Arm("ddpo"), watch)
    return folder


@pytest.mark.parametrize("name", ["sft", "ddpo"])
def test_the_adapter_is_one_for_plain_peft(runs: Path, tiny_folder: Path, name: str) -> None:
    files = {path.name for path in (runs / name).iterdir()}
    assert {"adapter_config.json", "README.md", "run.json", "config.yaml"} <= files
    assert "ref" not in files and not [file for file in files if file.endswith(".part")]
    config = json.loads((runs / name / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    text = AutoTokenizer.from_pretrained(tiny_folder)("The light answers.", return_tensors="pt")
    with torch.no_grad():
        plain = base(text["input_ids"]).logits
        model = PeftModel.from_pretrained(base, str(runs / name))
        moved = model(text["input_ids"]).logits
    loaded = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
    stored = adapter(runs / name)
    assert len(stored) == 8 and loaded.keys() == stored.keys()  # q_proj and v_proj in two layers
    assert all(torch.equal(loaded[key], stored[key]) for key in stored)
    assert (plain - moved).abs().max() > 1e-2


def test_the_record(runs: Path, tiny_folder: Path) -> None:
    record = record_of(runs / "ddpo")
    assert [entry["step"] for entry in record["log"]] == [1, 2, 3, 4]
    assert record["number_type"] == "torch.float32" and record["processes"] == 1
    assert record["pairs"] == 8 and record["mean_weight"] == 1.0
    assert record["effective_pairs"] == pytest.approx(8 / 1.25)  # (sum w)^2 / sum w^2
    assert list(record["kl"]) == ["2", "4"] and record["kl"]["4"] > 0
    for path in (*runs.glob("*/run.json"), *runs.glob("*/README.md")):
        text = path.read_text()
        assert str(tiny_folder.parent) not in text and str(runs) not in text
    facts = run_facts(replace(get_profile("laptop"), judge_style="/models/own"))
    assert facts["settings"]["judge_style"] == "own"


def test_the_model_card_gives_data_settings_and_figures(runs: Path) -> None:
    card, record = (runs / "ddpo" / "README.md").read_text(), record_of(runs / "ddpo")
    data = ModelCard(card).data
    assert data.base_model == "tiny" and data.library_name == "peft" and "ddpo" in data.tags
    assert "8 preference pairs" in card and "has not been evaluated" in card
    for setting in ("lora_r", "sft_learning_rate", "weights", "model"):
        assert f"| {setting} | {record['settings'][setting]} |" in card
    for key in ("loss", "rewards/margins"):
        assert f"| {np.mean(curve(record, key)):.3f} |" in card
    for kl in record["kl"].values():
        assert f"| {kl:.2f} |" in card
    assert "24 stories" in (runs / "sft" / "README.md").read_text()
    evaluated = model_card(record, "| a | table |")
    assert "| a | table |" in evaluated and "has not been evaluated" not in evaluated
    for model in ("my: model #2", "0123"):  # any name makes valid front matter
        assert ModelCard(model_card(record | {"model": model})).data.base_model == model
    for arm in ("sft", "ddpo", "shuffled"):  # the older records
        card = model_card(record_of(data_dir() / "adapters" / arm))
        assert ModelCard(card).data.base_model and f"{arm}\n" in card
