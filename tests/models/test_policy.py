"""Loading the policy: model, tokenizer, number type, adapter; every fault is one sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults import refusal

from ddpo_utils import Profile, get_profile
from ddpo_utils.models import policy
from ddpo_utils.models.policy import choose_dtype, load_policy, lora_config


def profile(model: Path | str) -> Profile:
    return get_profile("smoke", model=str(model), dtype="float32")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, which may be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "m"))


def drop(folder: Path, entry: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop(entry, None)
    path.write_text(json.dumps(config))


def test_a_local_model_is_loaded_ready_for_sampling(monkeypatch, tiny_folder):
    model, tokenizer = load_policy(profile(tiny_folder))
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None
    assert model.generation_config.eos_token_id in (2, [2])
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))  # it overrides the profile's
    assert load_policy(get_profile("smoke", dtype="bfloat16"))[0].dtype == torch.bfloat16


def test_an_unknown_model_is_named_with_the_flag_for_another(monkeypatch, tmp_path):
    message = refusal(load_policy, profile("nobody/no-such-model"))
    assert "nobody/no-such-model" in message and "--model" in message
    monkeypatch.setenv("DDPO_MODEL", str(tmp_path))
    assert str(tmp_path) in refusal(load_policy, profile("smollm2-wheel"))
    error = policy.cannot_load("reward's backbone", "m", OSError("Not there.\nSee below."))
    assert "--reward" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("config.json", "AutoConfig"),
        ("config.json", "AutoModelForCausalLM"),
        ("tokenizer_config.json", "AutoTokenizer"),
    ],
)
def test_code_from_a_models_folder_is_never_run(folder, monkeypatch, file, kind):
    """Nobody is asked either: a `y` on the terminal changes nothing."""
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / file).read_text())
    entry = ["own.Own", "own.Own"] if kind == "AutoTokenizer" else "own.Own"
    config |= {"auto_map": {kind: entry}, "model_type": "own", "tokenizer_class": "Own"}
    (folder / file).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    assert str(folder) in refusal(load_policy, profile(folder))
    assert not (folder / "ran").exists()


def test_parts_of_a_tokenizer_that_are_missing_are_filled_or_named(folder, tiny_folder):
    drop(folder, "pad_token")
    _, tokenizer = load_policy(profile(folder))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|end|>"
    drop(folder, "chat_template")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert "chat template" in refusal(load_policy, profile(folder))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    message = refusal(load_policy, profile(folder))
    assert str(folder) in message and "--tokenizer" in message
    _, tokenizer = load_policy(replace(profile(folder), tokenizer=str(tiny_folder)))
    assert tokenizer.chat_template


def test_an_adapter_gets_the_name_that_training_needs(tiny_folder, adapter_folder, tmp_path):
    for trainable in (True, False):
        model, _ = load_policy(profile(tiny_folder), adapter_folder, trainable)
        assert list(model.peft_config) == ["default"] and not model.training
        assert any(p.requires_grad for p in model.parameters()) is trainable
    shutil.copytree(adapter_folder, tmp_path / "half")
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"half")
    for name in ("none", "half"):
        path = tmp_path / name
        assert str(path) in refusal(load_policy, profile(tiny_folder), path)


def test_the_number_type_is_chosen_by_the_device(monkeypatch):
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert choose_dtype("cuda") == choose_dtype("cuda:0") == expected
    assert choose_dtype("cpu") in (torch.float32, torch.bfloat16)
    monkeypatch.setattr(policy, "_timed_dtype", policy._timed_dtype.__wrapped__)  # not the cache
    for bf16_seconds, expected in ((0.5, torch.bfloat16), (0.9, torch.float32)):  # clearly faster
        seconds = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}
        monkeypatch.setattr(policy, "_product_seconds", seconds.__getitem__)
        assert choose_dtype("cpu") == expected


def test_lora_follows_the_profile():
    paper = lora_config(get_profile("8b"))
    assert (paper.r, paper.lora_alpha) == (128, 256)
    assert set(paper.target_modules) == {"q_proj", "v_proj"}
    assert lora_config(get_profile("laptop")).target_modules == "all-linear"
