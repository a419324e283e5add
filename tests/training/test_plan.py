"""The plan: exact counts, what autograd keeps, what was measured, and what the command prints."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from ddpo_utils import Profile, cli, make_pairs
from ddpo_utils.models.policy import lora_config
from ddpo_utils.settings import CourseError, get_profile
from ddpo_utils.training import plan
from ddpo_utils.training.arms import data_size, training_stories
from ddpo_utils.training.plan import KNOWN, architecture, trained_parameters

BIG = get_profile("8b")
SIZES = {
    "vocab_size": 500,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
KINDS = {
    "LlamaConfig": {},
    "MistralConfig": {"head_dim": 40},
    "GraniteConfig": {"tie_word_embeddings": True},
}


def written(folder: Path, kind: str = "LlamaConfig", **changes: Any) -> Any:
    """A small configuration, also written into the folder."""
    config = getattr(transformers, kind)(**SIZES | KINDS[kind] | changes)
    config.save_pretrained(folder)
    return config


def adapted(config: Any, profile: Profile, dtype: torch.dtype = torch.float32) -> Any:
    """A random model with the profile's adapter."""
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = get_peft_model(model, lora_config(profile))
    if profile.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model.train()


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("k_proj", "down_proj")])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_model(tmp_path: Path, kind: str, targets: str | tuple) -> None:
    config = written(tmp_path, kind)
    profile = replace(BIG, model=str(tmp_path), lora_r=3, lora_targets=targets)
    sizes = architecture(profile)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert sizes.parameters == model.num_parameters()
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]  # with the head
        assert sizes.multiplied == sum(m.in_features * m.out_features for m in linear)
        model = get_peft_model(model, lora_config(profile))
    assert trained_parameters(sizes, profile) == model.get_nb_trainable_parameters()[0]


def test_known_models_have_their_published_sizes() -> None:
    assert trained_parameters(KNOWN["Llama-3.1-8B"], BIG) == 54_525_952
    assert KNOWN["Llama-3.1-8B"].parameters == 8_030_261_248
    assert architecture(get_profile("laptop")).parameters == 134_515_008
    for name, billions in {"Mistral-7B-v0.3": 7.25, "SmolLM2-1.7B": 1.71}.items():
        assert KNOWN[name].parameters == pytest.approx(billions * 1e9, rel=0.001)


@pytest.mark.parametrize(
    ("kind", "number", "checkpointing", "targets"),
    [
        ("LlamaConfig", "float32", True, "all-linear"),
        ("MistralConfig", "bfloat16", False, ("q_proj", "v_proj")),
        ("GraniteConfig", "bfloat16", True, ("k_proj", "down_proj")),
        ("LlamaConfig", "bfloat16", False, "all-linear"),
    ],
)
def test_what_autograd_keeps(
    tmp_path: Path, kind: str, number: str, checkpointing: bool, targets: Any
) -> None:
    """Tensors saved by a forward pass through TRL's head; autocast on a CPU stands for a GPU's."""
    profile = replace(BIG, model=str(tmp_path), dtype=number, lora_r=16, lora_targets=targets)
    profile = replace(profile, max_length=100, micro_batch=1, gradient_checkpointing=checkpointing)
    torch.manual_seed(0)
    model = adapted(written(tmp_path, kind), profile, getattr(torch, number))
    add_fused_lm_head(model.get_base_model())
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:  # each storage once, and alive, so none is reused
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    tokens = torch.randint(0, 500, (2, 100))
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask, "labels": tokens}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=number == "bfloat16"),
    ):
        model(**inputs, fused_lm_head=True, use_cache=False)
    expected = plan.memory(profile, device="cuda")["kept for backward"]
    hidden = 2 * 100 * 96  # the head keeps its hidden states; checkpointing the last norm's input
    expected += hidden * (4 if number == "float32" else 2) + hidden * 4 * checkpointing
    assert sum(size for size, _ in kept.values()) == pytest.approx(expected, rel=0.03)


def test_what_an_adapter_costs_under_adam(tmp_path: Path) -> None:
    profile = replace(BIG, model=str(tmp_path), gradient_checkpointing=False)
    model = adapted(written(tmp_path), profile)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    # the weights, their gradients and Adam's two moments
    assert plan.memory(profile)["adapter, gradients, Adam"] == 4 * trained
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert plan.memory(replace(profile, dtype="float32"))["frozen weights"] == frozen


def test_four_bit_weights_by_counting_blocks() -> None:
    packed = 0
    for n_in, n_out in KNOWN["Llama-3.1-8B"].linears.values():
        blocks = -(-n_in * n_out // 64)
        packed += n_in * n_out // 2 + blocks + 4 * -(-blocks // 256)
    rest = 2 * 128256 * 4096 + (2 * 32 + 1) * 4096  # embedding, head and norms stay in bf16
    assert plan.memory(replace(BIG, quantize=True))["frozen weights"] == 32 * packed + 2 * rest


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_that_torch_counts(tmp_path: Path, checkpointing: bool) -> None:
    config = written(tmp_path, num_hidden_layers=4)
    profile = replace(BIG, model=str(tmp_path), lora_r=1, gradient_checkpointing=checkpointing)
    model = adapted(config, profile)
    tokens = torch.randint(0, 500, (4, 8))  # short: attention's own products are left out
    with FlopCounterMode(display=False) as counted:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    # TRL's head computes its logits anew in any case, the plain one never
    expected = plan.flops(profile, "sft")[0] - checkpointing * 2 * 500 * 96
    assert counted.get_total_flops() / tokens.numel() == pytest.approx(expected, rel=0.06)
    epoch, once = plan.flops(profile)
    loop, _ = plan.flops(replace(profile, precompute_reference=False))
    ratio = (3 * epoch + once) / (3 * loop)
    assert ratio == pytest.approx(20 / 24 if checkpointing else 14 / 18)


RESULTS = Path(__file__).parents[2] / "data" / "results"
RECORDED = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: "-".join(map(str, row["case"].values())))
def test_memory_is_within_15_percent_of_every_measured_peak(row: dict[str, Any]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from memory import planned

    assert planned(row["case"]) == pytest.approx(row["measured"], rel=0.15)


@pytest.mark.parametrize("row", ["8b-lora", "8b-lora-stored", "8b-qlora"])
def test_the_plan_holds_what_a_gpu_took(row: str) -> None:
    """Peaks of torch's allocator on an H200, so without CUDA's context."""
    record = json.loads((RESULTS / "training.json").read_text(encoding="utf-8"))["rows"][row]
    (run,) = record["runs"]
    settings = run["settings"] | {"model": "meta-llama/Llama-3.1-8B"}
    settings.pop("name")
    need = plan.memory(get_profile("8b", **settings))
    planned = sum(need.values()) - need["overhead"]
    for arm in run["arms"].values():
        assert arm["peak_bytes"] < planned < plan.MARGIN * arm["peak_bytes"]


def test_memory_grows_and_shrinks_with_its_settings() -> None:
    base = plan.peak(BIG)
    assert plan.peak(replace(BIG, lora_r=256)) > base > plan.peak(replace(BIG, quantize=True))
    buckets = plan.peak(BIG, gpus=6)  # DDP adds buckets for the gradients
    assert plan.peak(BIG, gpus=6, sharded=True) < base < buckets
    ddpo, orpo = plan.memory(BIG), plan.memory(BIG, "orpo")
    assert {part for part in ddpo if ddpo[part] != orpo[part]} == {"reference adapter"}
    assert orpo["reference adapter"] == plan.memory(BIG, "sft")["reference adapter"] == 0
    # a batch of 12 over 4 GPUs leaves 3 on each: pairs one at a time, stories all at once
    assert plan.split_batch(BIG, sft=False, processes=4) == (1, 3)
    assert plan.split_batch(BIG, sft=True, processes=4) == (3, 1)


@pytest.mark.parametrize(("gpus", "room", "fits"), [(1, 27, True), (2, 26, False), (1, 24, False)])
def test_command(gpus: int, room: int, fits: bool, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gpu-memory", str(room), "--gpus", str(gpus)]
    assert cli.main(["plan", "--profile", "8b", *flags]) == 0
    text = capsys.readouterr().out
    assert "trained: 54,525,952 " in text and f"on {gpus} x {room} GB" in text
    assert "estimates" in text and "assumed" in text
    assert (", FSDP" in text) == (gpus > 1) and ("may not fit" not in text) == fits


def test_hours_are_flops_over_the_assumed_rate(capsys: pytest.CaptureFixture[str]) -> None:
    plan.show_plan(BIG, 80, 2)
    lines = capsys.readouterr().out.splitlines()
    seconds = 421_330 * 600 * 6 * (32 * 218_103_808 + 128_256 * 4096) / (2 * 989e12)
    for row, epochs in (("SFT, 1 epochs", 1), ("ORPO arm, 4 x", 4)):  # no reference in either
        line = next(line for line in lines if line.startswith(row))
        expected = [epochs * seconds / share / 3600 for share in (0.30, 0.45)]
        assert [float(word) for word in line.split()[-2:]] == pytest.approx(expected, rel=0.01)


def test_data_are_counted_as_training_takes_them(tmp_path: Path) -> None:
    laptop = get_profile("laptop")
    stories = training_stories(laptop)
    pairs = make_pairs(stories, seed=laptop.seed)
    assert data_size(laptop)[:2] == (len(stories), len(pairs))
    path, scores = tmp_path / "mine.csv", [0, 1, 2, 3, 0, 1, 2]
    rows = [f"Prompt {n // 4},Story {n},{score},train\n" for n, score in enumerate(scores)]
    path.write_text("".join(["prompt,text,score,split\n", *rows, "Prompt 2,Story 7,3,test\n"]))
    responses, number, _, source = data_size(replace(BIG, data=str(path)))
    assert (responses, number) == (7, 3) and "mine.csv" in source


@pytest.mark.parametrize(
    ("flags", "names_it"),
    [
        (["--model", "someone/model-7B"], "someone/model-7B"),
        (["--gpus", "0"], "0"),
        (["--gpu-memory", "0"], "--gpu-memory"),
        (["--lora-targets", "c_attn"], "c_attn"),
        (["--data", "none.parquet"], "none.parquet"),
        (["--attention", "eager"], "eager"),
    ],
)
def test_a_fault_is_one_sentence(
    flags: list[str], names_it: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "--profile", "8b", *flags]) == 1
    out, error = capsys.readouterr()
    assert not out and names_it in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["{}", "no json", '["a"]', '{"model_type": "gpt2", "num_attention_heads": 2}']
)
def test_strange_configurations_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CourseError, match=re.escape(str(tmp_path))):
        architecture(replace(BIG, model=str(tmp_path)))
