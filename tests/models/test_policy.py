"""Loading the policy: model, tokenizer, number type, adapter; every fault is one sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import sentence

from ddpo_utils import CourseError, get_profile
from ddpo_utils.models import policy
from ddpo_utils.models.policy import choose_dtype, load_policy, lora_config


def test_a_local_model_is_loaded_ready_for_sampling(monkeypatch, tiny_folder):
    model, tokenizer = load_policy(get_profile("smoke", model=str(tiny_folder), dtype="float32"))
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None
    assert model.generation_config.eos_token_id in (2, [2])
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))  # it overrides the profile's
    assert load_policy(get_profile("smoke", dtype="bfloat16"))[0].dtype == torch.bfloat16


def test_an_unknown_model_is_named(monkeypatch, tmp_path):
    for name, variable in (("nobody/no-such-model", ""), ("smollm2-wheel", str(tmp_path))):
        monkeypatch.setenv("DDPO_MODEL", variable)
        with pytest.raises(CourseError) as caught:
            load_policy(get_profile("smoke", model=name))
        assert (variable or name) in sentence(caught)


@pytest.mark.parametrize(
    ("part", "flag"),
    [("model", "--model "), ("tokenizer", "--model "), ("reward", "--reward-model")],
)
def test_what_cannot_be_loaded_is_named_with_the_flag_for_another(part, flag):
    error = policy.cannot_load(part, "nobody/nothing", OSError("Not there.\nSee below."))
    message = str(error)
    assert "'nobody/nothing'" in message and flag in message and "\n" not in message


def test_a_folder_without_a_tokenizer_is_named(tiny_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder / name, tmp_path)
    profile = get_profile("smoke", model=str(tmp_path), dtype="float32")
    with pytest.raises(CourseError) as caught:
        load_policy(profile)
    assert str(tmp_path) in sentence(caught) and "--tokenizer" in str(caught.value)
    _, tokenizer = load_policy(replace(profile, tokenizer=str(tiny_folder)))
    assert tokenizer.chat_template


def copy_without(folder: Path, target: Path, entry: str) -> str:
    shutil.copytree(folder, target)
    config = json.loads((target / "tokenizer_config.json").read_text())
    config.pop(entry, None)
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return str(target)


def test_a_missing_pad_token_becomes_the_end_of_text(tiny_folder, tmp_path):
    model = copy_without(tiny_folder, tmp_path / "m", "pad_token")
    _, tokenizer = load_policy(get_profile("smoke", model=model, dtype="float32"))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|end|>"


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_folder, tmp_path):
    model = copy_without(tiny_folder, tmp_path / "m", "chat_template")
    (tmp_path / "m" / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(CourseError, match="chat template"):
        load_policy(get_profile("smoke", model=model, dtype="float32"))


@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_gets_the_name_that_training_needs(tiny_folder, adapter_folder, trainable):
    profile = get_profile("smoke", model=str(tiny_folder), dtype="float32")
    model, _ = load_policy(profile, adapter_folder, trainable)
    assert list(model.peft_config) == ["default"] and not model.training
    assert any(p.requires_grad for p in model.parameters()) is trainable


def test_a_missing_or_unfitting_adapter_is_named(tiny_folder, adapter_folder, tmp_path):
    profile = get_profile("smoke", model=str(tiny_folder), dtype="float32")
    shutil.copytree(adapter_folder, tmp_path / "half")
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"half")
    for name in ("none", "half"):
        with pytest.raises(CourseError) as caught:
            load_policy(profile, tmp_path / name)
        assert str(tmp_path / name) in sentence(caught)


def test_the_number_type_is_chosen_by_the_device(monkeypatch):
    assert choose_dtype("cpu") in (torch.float32, torch.bfloat16)
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert choose_dtype("cuda") == choose_dtype("cuda:0") == expected


@pytest.mark.parametrize(
    ("bf16_seconds", "expected"), [(0.5, torch.bfloat16), (0.9, torch.float32)]
)
def test_on_a_cpu_the_faster_type_must_be_clearly_faster(monkeypatch, bf16_seconds, expected):
    seconds = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}
    monkeypatch.setattr(policy, "_product_seconds", seconds.__getitem__)
    monkeypatch.setattr(policy, "_timed_dtype", policy._timed_dtype.__wrapped__)  # not the cache
    assert choose_dtype("cpu") == expected


def test_lora_follows_the_profile():
    paper = lora_config(get_profile("8b"))
    assert (paper.r, paper.lora_alpha) == (128, 256)
    assert set(paper.target_modules) == {"q_proj", "v_proj"}
    assert lora_config(get_profile("laptop")).target_modules == "all-linear"
