"""Loading the policy: model, tokenizer, number type, adapter; every fault a sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from faults import sentence

from ddpo_utils import CourseError, get_profile
from ddpo_utils.models import policy
from ddpo_utils.models.policy import choose_dtype, load_policy, lora_config


def test_an_unknown_model_is_said_in_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(CourseError) as caught:
        load_policy(get_profile("smoke", model="nobody/no-such-model"))
    assert "'nobody/no-such-model'" in sentence(caught) and "DDPO_MODEL" in sentence(caught)
    monkeypatch.setenv("DDPO_MODEL", str(tmp_path))  # a folder without a model
    with pytest.raises(CourseError) as caught:
        load_policy(get_profile("smoke"))
    assert str(tmp_path) in sentence(caught)


@pytest.mark.parametrize(
    ("what", "way"),
    [
        ("model", "--model FOLDER (or by DDPO_MODEL"),
        ("tokenizer", "--model FOLDER (or"),
        ("reward's backbone", "--reward FOLDER."),
        ("reward", "--reward-model FOLDER."),
    ],
)
def test_what_cannot_be_loaded_is_said_with_the_flag_that_names_another(what, way):
    said = str(policy.cannot_load(what, "nobody/nothing", OSError("Not there.\nSee below.")))
    assert (
        "'nobody/nothing' cannot be loaded (OSError: Not there):" in said
        and way in said
        and "\n" not in said
    )


def test_a_local_model_is_loaded_ready_for_sampling(monkeypatch, tiny_folder):
    model, tokenizer = load_policy(get_profile("smoke", model=str(tiny_folder), dtype="float32"))
    assert model.dtype == torch.float32 and not model.training
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))  # it overrides the profile's
    assert load_policy(get_profile("smoke", dtype="bfloat16"))[0].dtype == torch.bfloat16


def test_a_folder_without_a_tokenizer_is_said_with_the_way_out(tiny_folder, tmp_path, monkeypatch):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder / name, tmp_path)
    profile = get_profile("smoke", model=str(tmp_path), dtype="float32")
    with pytest.raises(CourseError) as caught:
        load_policy(profile)
    assert f"{tmp_path} gives no tokenizer" in sentence(caught) and "--tokenizer" in sentence(
        caught
    )
    _, tokenizer = load_policy(replace(profile, tokenizer=str(tiny_folder)))
    assert tokenizer.chat_template
    monkeypatch.setenv("DDPO_MODEL", str(tmp_path))  # goes before both, as the sentence says
    with pytest.raises(CourseError) as caught:
        load_policy(replace(profile, tokenizer=str(tiny_folder)))
    assert "DDPO_MODEL" in sentence(caught)


def test_a_missing_pad_token_becomes_the_end_of_text(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
    _, tokenizer = load_policy(get_profile("smoke", model=str(tmp_path / "m"), dtype="float32"))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|end|>"


@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_is_put_on_top_under_the_name_that_training_needs(
    tiny_folder, adapter_folder, trainable
):
    model, _ = load_policy(
        get_profile("smoke", model=str(tiny_folder), dtype="float32"), adapter_folder, trainable
    )
    assert list(model.peft_config) == ["default"] and not model.training
    assert any(p.requires_grad for p in model.parameters()) is trainable


def test_a_missing_or_unfitting_adapter_is_said_in_one_sentence(
    tiny_folder, adapter_folder, tmp_path, monkeypatch
):
    profile = get_profile("smoke", model=str(tiny_folder), dtype="float32")
    with monkeypatch.context() as patch, pytest.raises(CourseError) as caught:
        patch.setattr(
            "transformers.AutoModelForCausalLM.from_pretrained", None
        )  # said before the model is loaded
        load_policy(profile, tmp_path / "none")
    assert "no adapter" in sentence(caught) and "notebook 04" in sentence(caught)
    shutil.copytree(adapter_folder, tmp_path / "half")
    (tmp_path / "half" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(CourseError) as caught:
        load_policy(profile, tmp_path / "half")
    assert "does not fit" in sentence(caught) and "half" in sentence(caught)


def test_the_number_type_is_chosen_by_the_device(monkeypatch):
    assert choose_dtype("cpu") in (torch.float32, torch.bfloat16)
    assert choose_dtype("mps") == torch.float32
    for capability, expected in (
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *a, c=capability: c)
        assert choose_dtype("cuda") == choose_dtype(torch.device("cuda", 0)) == expected


@pytest.mark.parametrize(
    ("bf16_seconds", "expected"),
    [(0.5, torch.bfloat16), (0.9, torch.float32), (2.0, torch.float32)],
)
def test_on_a_cpu_the_faster_type_must_be_clearly_faster(monkeypatch, bf16_seconds, expected):
    clock, now = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}, [0.0]
    product = torch.Tensor.__matmul__

    def timed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        now[0] += clock[a.dtype]
        return product(a[:1], b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", timed)
    monkeypatch.setattr(policy.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(
        policy, "_timed_dtype", policy._timed_dtype.__wrapped__
    )  # the process's own choice stays
    assert choose_dtype("cpu") == expected


def test_lora_follows_the_profile():
    paper = lora_config(get_profile("8b"))
    assert (paper.r, paper.lora_alpha, set(paper.target_modules)) == (
        128,
        256,
        {"q_proj", "v_proj"},
    )
    assert lora_config(get_profile("laptop")).target_modules == "all-linear"
