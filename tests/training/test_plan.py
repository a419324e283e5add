"""The plan: exact counts, what autograd really keeps, what was really measured, and sentences that a reader can use."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddpo_utils import cli
from ddpo_utils.models.policy import lora_config
from ddpo_utils.settings import CourseError, data_dir, get_profile
from ddpo_utils.training import plan
from ddpo_utils.training.architecture import KNOWN, architecture, trained_parameters

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
    "Gemma2Config": {"head_dim": 32},
}


def written(folder: Path, kind: str = "LlamaConfig", **changes: Any) -> tuple[Any, str]:
    """A configuration, and the name of the folder that it lies in."""
    import transformers

    config = getattr(transformers, kind)(**SIZES | KINDS[kind] | changes)
    config.save_pretrained(folder)
    return config, str(folder)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("k_proj", "down_proj")])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_model_with_its_adapter(
    tmp_path: Path, kind: str, targets: str | tuple
) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    config, folder = written(tmp_path, kind)
    profile = replace(BIG, model=folder, lora_r=3, lora_targets=targets)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert architecture(profile).parameters == model.num_parameters()
        linear = [
            m for m in model.modules() if isinstance(m, torch.nn.Linear)
        ]  # the head is one of them
        assert architecture(profile).multiplied == sum(
            m.in_features * m.out_features for m in linear
        )
        model = get_peft_model(model, lora_config(profile))
    assert (
        trained_parameters(architecture(profile), profile) == model.get_nb_trainable_parameters()[0]
    )


def test_known_models_have_their_published_sizes() -> None:
    assert trained_parameters(KNOWN["Llama-3.1-8B"], BIG) == 54_525_952
    # the Hub's own counts of the checkpoints, where they are known to the last digit; otherwise to its rounding
    assert KNOWN["Llama-3.1-8B"].parameters == 8_030_261_248
    assert KNOWN["SmolLM2-135M"].parameters == 134_515_008
    assert (
        KNOWN["granite-3.1-8b-base"].parameters == 8_170_848_256
    )  # the instruct model's; the base's is not known
    for name, billions in {"Mistral-7B-v0.3": 7.25, "SmolLM2-1.7B": 1.71}.items():
        assert KNOWN[name].parameters == pytest.approx(billions * 1e9, rel=0.001)
    assert architecture(get_profile("laptop")) == KNOWN["SmolLM2-135M"]
    assert architecture(get_profile("colab")) == KNOWN["SmolLM2-1.7B"]


@pytest.mark.parametrize(
    ("kind", "number", "checkpointing", "targets"),
    [
        ("LlamaConfig", "float32", False, "all-linear"),
        ("LlamaConfig", "float32", False, ("q_proj", "v_proj")),
        ("LlamaConfig", "float32", True, "all-linear"),
        ("LlamaConfig", "bfloat16", False, "all-linear"),
        ("LlamaConfig", "bfloat16", True, ("q_proj", "v_proj")),
        ("MistralConfig", "bfloat16", False, ("q_proj", "v_proj")),
        ("GraniteConfig", "bfloat16", False, ("k_proj", "down_proj")),
        ("Gemma2Config", "float32", False, ("q_proj", "v_proj")),
        ("Gemma2Config", "bfloat16", False, "all-linear"),
    ],
)
def test_what_autograd_keeps(
    tmp_path: Path, kind: str, number: str, checkpointing: bool, targets: Any
) -> None:
    """Tensors saved by one forward pass through TRL's head, each storage once, beside the formula; autocast on a CPU
    stands in for a GPU's."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    config, folder = written(tmp_path, kind)
    profile = replace(
        BIG,
        model=folder,
        dtype=number,
        lora_r=16,
        lora_targets=targets,
        max_length=100,
        micro_batch=1,
        gradient_checkpointing=checkpointing,
    )
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, number)), lora_config(profile)
    )
    add_fused_lm_head(model.get_base_model())
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    tokens = torch.randint(0, 500, (2, 100))
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=number == "bfloat16"),
    ):
        model(
            input_ids=tokens,
            attention_mask=mask,
            labels=tokens,
            fused_lm_head=True,
            use_cache=False,
        )
    expected = plan.memory(profile, device="cuda")["kept for backward"]
    expected += (
        2 * 100 * 96 * (4 if number == "float32" else 2)
    )  # the head's hidden states, which it keeps as well
    expected += 2 * 100 * 96 * 4 * checkpointing  # the last norm's input
    assert sum(size for size, _ in kept.values()) == pytest.approx(expected, rel=0.03)


def test_what_an_adapter_costs_under_adam(tmp_path: Path) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    config, folder = written(tmp_path)
    profile = replace(BIG, model=folder)
    model = get_peft_model(AutoModelForCausalLM.from_config(config), lora_config(profile))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    tokens = torch.randint(0, 500, (1, 8))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    held = [p for p in model.parameters() if p.requires_grad]
    held += [p.grad for p in held] + [
        s[name] for s in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    assert plan.memory(profile)["adapter, gradients, Adam"] == sum(t.nbytes for t in held)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert plan.memory(replace(profile, dtype="float32"))["frozen weights"] == frozen


def test_four_bit_weights_by_counting_blocks() -> None:
    model = KNOWN["Llama-3.1-8B"]
    packed = 0
    for n_in, n_out in model.linears.values():
        blocks = -(-n_in * n_out // 64)
        packed += n_in * n_out // 2 + blocks + 4 * -(-blocks // 256)
    rest = 2 * 128256 * 4096 + (2 * 32 + 1) * 4096  # embedding, head and norms stay in bf16
    assert plan.memory(replace(BIG, quantize=True))["frozen weights"] == 32 * packed + 2 * rest


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_that_torch_counts(tmp_path: Path, checkpointing: bool) -> None:
    import torch
    from peft import get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    config, folder = written(tmp_path, num_hidden_layers=4)
    profile = replace(BIG, model=folder, lora_r=1, gradient_checkpointing=checkpointing)
    model = get_peft_model(AutoModelForCausalLM.from_config(config), lora_config(profile)).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    tokens = torch.randint(0, 500, (4, 8))  # short: attention's own products are left out
    with FlopCounterMode(display=False) as counted:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    once = (
        checkpointing * 2 * 500 * 96
    )  # TRL's head computes its logits anew in any case, the plain one never
    expected = plan.flops(profile, "sft")[0] - once
    assert counted.get_total_flops() / tokens.numel() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("checkpointing", "ratio"), [(False, 0.78), (True, 0.83)])
def test_a_precomputed_reference_saves_what_the_formula_says(
    checkpointing: bool, ratio: float
) -> None:
    profile = replace(BIG, gradient_checkpointing=checkpointing)
    assert plan.reference_ratio(3, checkpointing) == pytest.approx(ratio, abs=0.005)
    (epoch, once), (loop, none) = (
        plan.flops(profile),
        plan.flops(replace(profile, precompute_reference=False)),
    )
    assert (3 * epoch + once) / (3 * loop + none) == pytest.approx(
        plan.reference_ratio(3, checkpointing)
    )


def recorded() -> list[dict[str, Any]]:
    path = data_dir() / "results" / "memory.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


@pytest.mark.parametrize(
    "row", recorded(), ids=lambda row: "-".join(map(str, row["case"].values()))
)
def test_memory_is_within_15_percent_of_every_measured_peak(row: dict[str, Any]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from memory import planned

    assert planned(row["case"]) == pytest.approx(row["measured"], rel=0.15)


def test_memory_grows_and_shrinks_with_its_settings() -> None:
    base = plan.peak(BIG)
    for change in (
        {"gradient_checkpointing": False},
        {"micro_batch": 4},
        {"max_length": 4096},
        {"lora_targets": "all-linear"},
        {"dtype": "float32"},
        {"lora_r": 256},
    ):
        assert plan.peak(replace(BIG, **change)) > base
    assert plan.peak(replace(BIG, quantize=True)) < base
    assert (
        plan.peak(BIG, gpus=6, sharded=True) < base < plan.peak(BIG, gpus=6)
    )  # which adds buckets for the gradients
    assert plan.memory(BIG, "sft")["reference adapter"] == 0 < plan.memory(BIG)["reference adapter"]
    ddpo, orpo = plan.memory(BIG), plan.memory(BIG, "orpo")
    assert {part for part in ddpo if ddpo[part] != orpo[part]} == {"reference adapter"}
    assert orpo["reference adapter"] == 0
    # a batch of 12 over 4 GPUs leaves 3 on each: pairs one at a time, since 2 do not divide them; stories all at once
    assert plan.sequences(BIG, "ddpo", 4) == 2 and plan.sequences(BIG, "sft", 4) == 3


@pytest.mark.parametrize("room", [141, 80, 40, 24, 16, 12, 10])
def test_the_settings_that_it_names_do_fit(room: float, capsys: pytest.CaptureFixture[str]) -> None:
    said = plan.verdict(BIG, room * 1e9)
    if said.startswith("It fits"):
        assert plan.peak(BIG) * 1.15 <= room * 1e9
        return
    assert plan.peak(BIG) * 1.15 > room * 1e9
    flags = said.split("; with ")[1].split(" it fits")[0].split()
    assert cli.main(["plan", "--profile", "8b", "--gpu-memory", str(room), *flags]) == 0
    assert f"It fits in {room} GB" in capsys.readouterr().out


def test_nothing_fits() -> None:
    assert "no setting helps" in plan.verdict(BIG, 4e9)
    assert plan.remedy(BIG, 4e9) is None


@pytest.mark.parametrize("name", ["laptop", "colab", "8b"])
@pytest.mark.parametrize("gpus", [1, 2])
def test_command(name: str, gpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--profile", name, "--gpu-memory", "80", "--gpus", str(gpus)]) == 0
    said = capsys.readouterr().out
    profile = get_profile(name)
    assert f"trained: {trained_parameters(architecture(profile), profile):,} " in said
    assert said.count("fit") == gpus and "estimates" in said and "assumed" in said
    assert ("FSDP: " in said) == (gpus > 1)
    if name == "laptop":  # the bundled stories as training takes them
        from ddpo_utils.pairs import make_pairs
        from ddpo_utils.training.arms import training_stories

        stories = training_stories(profile)
        assert plan.data_size(profile)[:2] == (
            len(stories),
            len(make_pairs(stories, seed=profile.seed)),
        )


def test_hours_are_flops_over_the_assumed_rate(capsys: pytest.CaptureFixture[str]) -> None:
    plan.show(BIG, 80, 2)
    lines = capsys.readouterr().out.splitlines()
    seconds = 421_330 * 600 * 6 * (32 * 218_103_808 + 128_256 * 4096) / (2 * 989e12)
    for row, epochs in (("SFT, an epoch", 1), ("ORPO arms, 4 x", 4)):  # and no reference in either
        line = next(line for line in lines if line.startswith(row))
        hours = [f"{epochs * seconds / share / 3600:.1f}" for share in (0.45, 0.30)]
        assert line.endswith(" to ".join(hours))


@pytest.mark.parametrize(
    ("hours", "says"),
    [
        ((0.5, 2), "0.5 to 2.0"),
        ((0.01, 0.05), "0.6 to 3.0 minutes"),
        ((1e-5, 2e-5), "under 0.1 minutes"),
    ],
)
def test_hours_that_would_be_nought_are_minutes(hours: tuple[float, float], says: str) -> None:
    assert plan.span(*hours) == says


def test_it_says_whose_machine_it_speaks_of(capsys: pytest.CaptureFixture[str]) -> None:
    plan.show(get_profile("laptop"), 24)
    said = capsys.readouterr().out
    assert (
        "on 1 GPU of 24 GB, whatever this machine has" in said
        and "0.0 to 0.0" not in said.split("hours")[1]
    )
    plan.show(BIG, 80, 2)
    assert "on 2 GPUs of 80 GB" in capsys.readouterr().out


def test_data_of_one_s_own_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": f"Prompt {n // 4}", "text": "A story.", "score": n % 4, "split": "train"}
        for n in range(8)
    ]
    rows[7]["split"] = "test"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert plan.data_size(replace(BIG, data=str(path)))[:2] == (7, 3)
    assert cli.main(["plan", "--data", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Data: mine.jsonl's 7 training stories" in said and "421,330" not in said


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet", "no-such-folder"])
def test_data_that_are_not_there_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--data", name]) == 1
    out, error = capsys.readouterr()
    assert not out and name in error and "check the path" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("room", "taken"),
    [(8, 16), (47.5, 40), (48, 40), (200, 141), *((size, size) for size in plan.CARDS)],
)
def test_a_speed_that_is_another_card_s_is_said_to_be(
    room: float, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.show(BIG, room)
    said, name = capsys.readouterr().out, plan.CARDS[taken][0]
    assert f"\nHours: 1 x {name} at" in said
    assert (f"no card of {room:g} GB: these are the hours of its {name}." in said) == (
        room != taken
    )


@pytest.mark.parametrize(
    ("flags", "way_out"),
    [
        (["--model", "someone/model-7B"], "config.json"),
        (["--gpus", "5"], "--gpus"),
        (["--gpus", "0"], "--gpus"),
        (["--lora-targets", "c_attn"], "q_proj"),
    ],
)
def test_faults_are_one_sentence(
    flags: list[str], way_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "--profile", "8b", *flags]) == 1
    out, error = capsys.readouterr()
    assert not out and error.startswith("error: ") and way_out in error and "Traceback" not in error


@pytest.mark.parametrize(
    "text", ["{}", "no json", '["a"]', '{"model_type": "gpt2", "num_attention_heads": 2}']
)
def test_strange_configurations_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CourseError, match=r"config\.json"):
        architecture(replace(BIG, model=str(tmp_path)))
