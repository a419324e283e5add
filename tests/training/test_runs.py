"""A run's folder: settings that come back as they went, whose change is refused or not, checkpoints, adapter, card."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from faults import sentence
from tiny_runs import adapter, few_stories, tiny_profile

from ddpo_utils import CourseError, Profile, get_profile, make_pairs
from ddpo_utils.settings import PROFILES
from ddpo_utils.training.recipes import train_pairs, train_sft
from ddpo_utils.training.runs import last_checkpoint, model_card, open_run, read_config, run_facts

# What each setting decides: the model and its data, SFT, the pairs' training, the pairs' weights, or nothing lasting.
MODEL = [
    "model",
    "tokenizer",
    "data",
    "prompts",
    "dtype",
    "quantize",
    "lora_r",
    "lora_alpha",
    "lora_targets",
    "max_length",
    "seed",
]
SFT = ["sft_learning_rate", "sft_batch_size", "sft_steps", "sft_epochs", "sft_warmup_steps"]
PAIRS = ["min_gap", "beta", "learning_rate", "batch_size", "steps", "epochs", "nll_weight"]
WEIGHTS = ["weights", "floor", "semantic", "style"]
NOTHING = [
    "judge_semantic",
    "judge_style",
    "reward",
    "report_to",
    "checkpoint_every",
    "attention",
    "micro_batch",
    "gradient_checkpointing",
    "precompute_reference",
    "sample_prompts",
    "samples",
    "max_new_tokens",
    "sample_batch",
]
ORPO = ["orpo_beta", "orpo_learning_rate", "orpo_epochs"]
DECIDES = {"sft": {*MODEL, *SFT}, "dpo": {*MODEL, *PAIRS}, "ddpo": {*MODEL, *PAIRS, *WEIGHTS}}
DECIDES["shuffled"] = DECIDES["ddpo-sem"] = DECIDES["ddpo"]
DECIDES["orpo"] = {*MODEL, *ORPO, "min_gap", "batch_size", "steps"}
DECIDES["dorpo"] = DECIDES["dorpo-sty"] = DECIDES["orpo"] | {*WEIGHTS}
DECIDES["divpo-sem"] = DECIDES["ddpo"] - {"floor", "min_gap"}
SETTINGS = [field.name for field in fields(Profile) if field.name != "name"]


def other(profile: Profile, setting: str) -> Any:
    """A value of the same kind as the setting's own, and not the same."""
    was = getattr(profile, setting)
    if isinstance(was, bool):
        return not was
    return (
        was + 1
        if isinstance(was, (int, float))
        else ("k_proj",)
        if isinstance(was, tuple)
        else f"other-{was}"
    )


def test_every_setting_is_known_to_these_tests() -> None:
    assert sorted([*MODEL, *SFT, *PAIRS, *ORPO, *WEIGHTS, *NOTHING]) == sorted(SETTINGS)


@pytest.mark.parametrize(
    "arm", ["sft", "dpo", "ddpo", "ddpo-sem", "shuffled-sty", "orpo", "dorpo-sty"]
)
@pytest.mark.parametrize("name", PROFILES)
def test_settings_come_back_as_they_went(name: str, arm: str, tmp_path: Path) -> None:
    weird = {
        "data": "my: own [posts] #1.parquet",
        "learning_rate": "5e-6",
        "sft_epochs": 0.1 + 0.2,
        "seed": 7,
    }
    weird |= {
        "model": "0123",
        "tokenizer": "no",
        "lora_targets": "v_proj,null",
        "quantize": "true",
        "floor": 1e-300,
    }
    for number, profile in enumerate((get_profile(name), get_profile(name, **weird))):
        path = tmp_path / str(number) / "config.yaml"
        assert open_run(path.parent, profile, arm) is False
        assert read_config(path) == (profile, arm)
        assert "train --config" in path.read_text(encoding="utf-8").splitlines()[0]


def test_a_profile_of_ones_own_is_kept_with_all_its_settings(tmp_path: Path) -> None:
    own = replace(get_profile("8b"), name="mine", steps=3)
    open_run(tmp_path, own, "ddpo")
    assert read_config(tmp_path / "config.yaml") == (replace(own, name="laptop"), "ddpo")
    assert open_run(tmp_path, own, "ddpo") is False


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("arm", DECIDES)
def test_a_run_goes_on_with_its_own_settings_alone(arm: str, setting: str, tmp_path: Path) -> None:
    open_run(tmp_path, get_profile("8b"), arm)
    checkpoint(tmp_path, 2)
    profile, _ = read_config(tmp_path / "config.yaml")
    before = (tmp_path / "config.yaml").read_bytes()
    now = replace(profile, **{setting: other(profile, setting)})
    if setting in DECIDES[arm]:
        with pytest.raises(CourseError) as caught:
            open_run(tmp_path, now, arm)
        said = sentence(caught)
        assert (
            f"{setting} {getattr(profile, setting)!r}, and {getattr(now, setting)!r}" in said
            and "--output" in said
        )
    else:
        assert open_run(tmp_path, now, arm) is False
    assert (tmp_path / "config.yaml").read_bytes() == before
    (tmp_path / "run.json").write_text("{}")
    assert open_run(tmp_path, profile, arm) is True


@pytest.mark.parametrize("arm", ["dpo", "ddpo-sem", "divpo", "sft", "orpo"])
def test_where_an_nll_is_added_the_parts_of_a_batch_count(arm: str, tmp_path: Path) -> None:
    profile = get_profile("8b", nll_weight=0.1)
    open_run(tmp_path, profile, arm)
    checkpoint(tmp_path, 2)
    now = replace(profile, micro_batch=1)
    if arm in ("sft", "orpo"):
        assert open_run(tmp_path, now, arm) is False
    else:
        with pytest.raises(CourseError, match="micro_batch 2"):
            open_run(tmp_path, now, arm)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no configuration at"),
        (b"", "TypeError"),
        (b"just a text", "TypeError"),
        (b"- profile: smoke", "TypeError"),
        (b"{profile: smoke", "ParserError"),
        (b"\xff\xfe\x00\x80", "Error"),
        (b"profile: smoke", "KeyError"),
        (b"settings: {seed: 1}", "KeyError"),
        (b"profile: smoke\nsettings: 3", "TypeError"),
        (b"profile: smoke\nsettings:", "TypeError"),
        (b"profile: [smoke]\nsettings: {}", "TypeError"),
        (b"profile: smoke\nsettings: {1: 2}", "TypeError"),
        (b"profile: huge\nsettings: {}", "no profile 'huge'"),
        (b"profile: smoke\nsettings: {speed: 3}", "no setting 'speed'"),
        (b"profile: smoke\nsettings: {steps: many}", "steps cannot be 'many'"),
        (
            b"compute_environment: LOCAL_MACHINE\nnum_processes: 2",
            "KeyError",
        ),  # accelerate's, by mistake
    ],
)
def test_a_damaged_or_foreign_configuration_gives_one_sentence(
    content: bytes | None, says: str, tmp_path: Path
):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError) as caught:
        read_config(path)
    assert says in sentence(caught)


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    if whole:
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "nowhere") is None
    half = checkpoint(tmp_path, 300, whole=False)
    assert last_checkpoint(tmp_path) is None and not half.exists()
    kept = [checkpoint(tmp_path, step) for step in (9, 100, 20)]
    half = checkpoint(tmp_path, 101, whole=False)
    (tmp_path / "checkpoints" / "README.md").write_text("not a checkpoint")
    assert last_checkpoint(tmp_path) == kept[1] and not half.exists()
    assert (
        all(path.is_dir() for path in kept) and (tmp_path / "checkpoints" / "README.md").is_file()
    )


@pytest.fixture(scope="module")
def runs(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an SFT and a DDPO run of the tiny model, its KL watched."""
    folder, stories = tmp_path_factory.mktemp("runs"), few_stories()
    profile = tiny_profile(tiny_folder)
    train_sft(profile, stories, folder / "sft")
    pairs = make_pairs(stories)
    weight = [0.5, 1.5] * (len(pairs) // 2)
    watch = stories[["prompt", "text"]].head(2)
    train_pairs(profile, pairs, weight, folder / "ddpo", folder / "sft", "ddpo", watch)
    return folder


@pytest.mark.parametrize("arm", ["sft", "ddpo"])
def test_the_adapter_is_one_for_plain_peft(runs: Path, tiny_folder: Path, arm: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = {path.name for path in (runs / arm).iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "run.json",
        "config.yaml",
    } <= names
    assert "ref" not in names and not [name for name in names if name.endswith(".part")]
    assert (
        json.loads((runs / arm / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "tiny"
    )
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tiny_folder)("The light answers.", return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        plain = base(ids).logits
        model = PeftModel.from_pretrained(base, str(runs / arm))
        moved = model(ids).logits
    loaded = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
    stored = adapter(runs / arm)
    assert (
        len(stored) == 8 and loaded.keys() == stored.keys()
    )  # A and B of q_proj and v_proj in two layers
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert (plain - moved).abs().max() > 1e-2


@pytest.mark.parametrize("arm", ["sft", "ddpo"])
def test_the_record_is_what_the_run_returned_and_names_no_path(
    runs: Path, tiny_folder: Path, arm: str
) -> None:
    record = json.loads((runs / arm / "run.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in record["log"]] == ([1, 2] if arm == "sft" else [1, 2, 3, 4])
    assert (
        record["number_type"] == "torch.float32"
        and record["processes"] == 1
        and record["resumed_at_step"] == 0
    )
    assert record["settings"]["sft_learning_rate"] == 1e-2 and record["arm"] == arm
    if arm == "ddpo":
        assert record["pairs"] == 8 and record["mean_weight"] == 1.0
        assert record["effective_pairs"] == pytest.approx(8 / 1.25)  # (sum w)^2 / sum w^2
        assert list(record["kl"]) == ["2", "4"] and record["kl"]["4"] > 0
    texts = [
        (runs / arm / name).read_text() for name in ("run.json", "README.md", "adapter_config.json")
    ]
    assert not [text for text in texts if str(tiny_folder.parent) in text or str(runs) in text]


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


@pytest.mark.parametrize("arm", ["sft", "ddpo"])
def test_the_model_card_says_data_settings_and_what_was_measured(runs: Path, arm: str) -> None:
    from huggingface_hub import ModelCard

    card = (runs / arm / "README.md").read_text(encoding="utf-8")
    record = json.loads((runs / arm / "run.json").read_text(encoding="utf-8"))
    head = front_matter(card)
    assert head["base_model"] == "tiny" and head["library_name"] == "peft" and arm in head["tags"]
    assert ModelCard(card).data.base_model == "tiny"
    assert (
        "8 preference pairs" if arm == "ddpo" else "24 stories"
    ) in card and "data set: bundled" in card
    for name, value in record["settings"].items():
        assert f"| {name} | {tuple(value) if isinstance(value, list) else value} |" in card
    figures = (
        {"loss": "loss", "rewards/margins": "reward margin (nats)"}
        if arm == "ddpo"
        else {"loss": "loss"}
    )
    for key, name in figures.items():
        values = [entry[key] for entry in record["log"]]
        assert (
            f"| {name}, mean of the last {len(values)} logged steps | {sum(values) / len(values):.3f} |"
            in card
        )
    if arm == "ddpo":
        assert (
            f"at step 4, along its own stories (nats a story) | {record['kl']['4']:.2f} |" in card
        )
    assert "It has not been evaluated" in card
    assert "It has not been evaluated" not in model_card(record, "| a | table |")
    assert "| a | table |" in model_card(record, "| a | table |")


def test_a_checkpoint_whose_state_a_full_disk_cut_off_is_passed_over(tmp_path: Path) -> None:
    kept, cut = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    (cut / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == kept and not cut.exists()


@pytest.mark.parametrize("name", ["my: model #2", "0123"])
def test_any_folder_name_makes_valid_front_matter(runs: Path, name: str) -> None:
    record = json.loads((runs / "sft" / "run.json").read_text(encoding="utf-8"))
    assert front_matter(model_card({**record, "model": name}))["base_model"] == name


@pytest.mark.parametrize("setting", ["judge_semantic", "judge_style"])
def test_a_judge_of_a_folder_is_recorded_by_its_name(setting: str) -> None:
    facts = run_facts(replace(get_profile("laptop"), **{setting: "/models/encoder"}))
    assert facts["settings"][setting] == "encoder"
