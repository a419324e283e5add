"""Experiments: one SFT adapter for all arms, and the command `train` with its flags."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from awkward_posts import small_posts
from tiny_runs import (
    PAIRS,
    STORIES,
    Command,
    assert_same_adapter,
    curve,
    record_of,
    tiny_profile,
)

from ddpo_utils import CourseError, Profile, cli
from ddpo_utils.training.all_arms import train_arms
from ddpo_utils.training.arms import training_stories
from ddpo_utils.training.run_folder import read_config


@pytest.fixture
def profile(tiny_folder: Path) -> Profile:
    return tiny_profile(tiny_folder, steps=2, batch_size=4)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_sft_adapter_is_shared_by_all_arms(profile: Profile, tmp_path: Path) -> None:
    shared, arms = tmp_path / "elsewhere" / "sft", tmp_path / "arms"
    first = train_arms(profile, STORIES, arms, ["sft"], shared)
    assert list(first) == ["sft"] and not arms.exists()
    made = (shared / "adapter_model.safetensors").stat().st_mtime_ns
    records = train_arms(profile, STORIES, arms, ["dpo", "ddpo-sem", "divpo-sem"], shared)
    assert list(records) == ["sft", "dpo", "ddpo-sem", "divpo-sem"]
    assert (shared / "adapter_model.safetensors").stat().st_mtime_ns == made
    assert records["sft"] == first["sft"]
    assert names(arms) == ["ddpo-sem", "divpo-sem", "dpo"]
    for pattern in ("reference-*.csv", "watch-*.jsonl"):
        assert len(list(shared.glob(pattern))) == 1
    assert list(records["dpo"]["kl"]) == ["2"]
    ddpo = records["ddpo-sem"]
    assert ddpo["settings"]["weights"] == "semantic"
    # at the first step every pair's loss is log 2, times its weight
    assert curve(records["dpo"])[0] == pytest.approx(np.log(2), rel=1e-4)
    assert curve(ddpo)[0] == pytest.approx(np.log(2) * ddpo["log"][0]["weight"], rel=1e-5)
    divpo = records["divpo-sem"]
    assert divpo["pairs"] == 4 and divpo["mean_weight"] == 1.0  # two prompts, two pairs each
    assert divpo["unused_responses"] == 2 * 12 - 8 and divpo["unused_pairs"] == len(PAIRS) - 4


def test_the_kl_is_watched_along_training_prompts(profile: Profile, tmp_path: Path) -> None:
    posts = str(small_posts(tmp_path / "posts.parquet", posts=20))
    profile = replace(profile, data=posts, max_length=1024)
    stories = training_stories(profile)
    train_arms(profile, stories, tmp_path / "arms", ["dpo"])
    (path,) = (tmp_path / "arms" / "sft").glob("watch-*.jsonl")
    watched = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    assert len(watched) == 16 and len(set(watched)) == 8
    assert set(watched) <= set(stories["prompt"])


def test_faults_of_pairs_and_weights_are_found_before_sft(profile: Profile, tmp_path: Path) -> None:
    scoreless = STORIES.assign(score=STORIES["score"].where(STORIES.index != STORIES.index[3]))
    with pytest.raises(CourseError, match=str(STORIES.index[3])):
        train_arms(profile, scoreless, tmp_path, ["dpo"])
    with pytest.raises(CourseError, match="columns score="):
        train_arms(profile, STORIES.assign(score=np.nan), tmp_path, ["dpo"])
    with pytest.raises(CourseError, match="nobody/encoder"):
        train_arms(replace(profile, semantic="nobody/encoder"), STORIES, tmp_path, ["ddpo"])
    for arm, pairs in (("orpo", 12), ("dpo", 12), ("divpo", 4)):
        with pytest.raises(CourseError, match=f"{pairs} pairs .* {pairs + 1}"):
            train_arms(replace(profile, batch_size=pairs + 1), STORIES, tmp_path, [arm])
    assert not names(tmp_path)


def test_orpo_needs_no_sft_and_its_kl_is_watched_where_there_is_one(
    profile: Profile, tmp_path: Path
) -> None:
    """The KL is measured beside training: losses and adapter are the same."""
    alone = train_arms(profile, STORIES, tmp_path / "alone", ["orpo", "dorpo-sty"])
    assert list(alone) == names(tmp_path / "alone")[::-1] == ["orpo", "dorpo-sty"]
    assert alone["orpo"]["kl"] == {} and alone["dorpo-sty"]["settings"]["weights"] == "style"
    beside = train_arms(profile, STORIES, tmp_path / "beside", ["sft", "dorpo-sty", "orpo"])
    assert list(beside["orpo"]["kl"]) == ["2"] and beside["orpo"]["kl"]["2"] > 0
    for arm in ("orpo", "dorpo-sty"):
        assert curve(beside[arm]) == curve(alone[arm])
        assert_same_adapter(tmp_path / "beside" / arm, tmp_path / "alone" / arm)
    orpo, dorpo = (alone[arm]["log"][0] for arm in ("orpo", "dorpo-sty"))
    expected = orpo["nll_loss"] - 0.25 * orpo["log_odds_ratio"]
    assert orpo["loss"] == pytest.approx(expected, rel=2e-3)  # the metrics are means of pairs
    assert orpo["weight"] == 1 != dorpo["weight"] and orpo["loss"] != dorpo["loss"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def train(tiny_folder: Path, place: Path) -> Command:
    return Command(tiny_folder, place)


@pytest.fixture(autouse=True)
def working_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)  # build/ lies below it, the prepared posts in it


@pytest.fixture(scope="module")
def made(train: Command, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the arms sft and ddpo-sem."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("DDPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train(place / "made", "ddpo", weights="semantic") == 0
    return place / "made"


def test_what_is_finished_is_kept_and_a_configuration_repeats_it(
    train: Command, made: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    assert train("made", "ddpo", weights="semantic") == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split(" in ")[0] for line in lines] == ["sft: 2 steps", "ddpo-sem: 2 steps"]
    assert [line.split()[-1] for line in lines] == ["made/sft", "made/ddpo-sem"]
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")} == stamps
    config = made / "ddpo-sem" / "config.yaml"
    assert cli.main(["train", f"--config={config}", "--output=again"]) == 0
    assert names(place / "again") == names(made) == ["ddpo-sem", "sft"]
    for arm in ("sft", "ddpo-sem"):
        assert curve(record_of(place / "again" / arm)) == curve(record_of(made / arm))
        assert_same_adapter(place / "again" / arm, made / arm)
    repeated = read_config(place / "again" / "ddpo-sem" / "config.yaml")
    assert repeated[:2] == read_config(config)[:2]
    given = [f"--config={config}", f"--sft={made / 'sft'}"]  # flags go before it
    assert cli.main(["train", *given, "--output=over", "--method=dpo", "--learning-rate=1e-3"]) == 0
    profile, arm, _ = read_config(place / "over" / "dpo" / "config.yaml")
    assert arm.name == "dpo" and profile.learning_rate == 1e-3 and profile.lora_r == 4
    assert record_of(place / "over" / "dpo")["log"][0]["learning_rate"] == 1e-3


def given(trainer: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """The trainer's arguments of these names."""
    return {name: getattr(trainer.args, name) for name in expected}


def test_every_flag_reaches_the_trainer(train: Command, place: Path, trainers: list[Any]) -> None:
    same = {"max_length": 700, "seed": 7, "gradient_checkpointing": True}
    sft = {"sft_learning_rate": 3e-3, "sft_steps": 3, "sft_batch_size": 12, "sft_warmup_steps": 1}
    dpo = {"learning_rate": 2e-3, "beta": 0.3, "steps": 0, "epochs": 0.2, "batch_size": 6}
    dpo |= {"nll_weight": 0.25, "floor": 0.5, "precompute_reference": "false"}
    lora = {"lora_r": 3, "lora_alpha": 5, "lora_targets": "k_proj,o_proj"}
    model = {"dtype": "bfloat16", "attention": "eager", "micro_batch": 3, "checkpoint_every": 2}
    assert train(place / "flags", "ddpo", **same | sft | dpo | lora | model) == 0
    same |= {"save_steps": 2, "gradient_accumulation_steps": 2}
    schedule = {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.5},
    }
    sft = same | schedule | {"learning_rate": 3e-3, "max_steps": 3, "warmup_steps": 1}
    sft |= {"per_device_train_batch_size": 6, "completion_only_loss": True}
    dpo = same | {"learning_rate": 2e-3, "beta": 0.3, "max_steps": -1, "num_train_epochs": 0.2}
    dpo |= {"per_device_train_batch_size": 3, "lr_scheduler_type": "linear", "warmup_steps": 0}
    dpo |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.25]}
    assert given(trainers[0], sft) == sft and given(trainers[1], dpo) == dpo
    model, data = trainers[1].model, trainers[1].train_dataset
    adapter = model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha) == (3, 5)
    assert set(adapter.target_modules) == {"k_proj", "o_proj"}
    assert model.config._attn_implementation == "eager" and str(model.dtype) == "torch.bfloat16"
    assert min(data["weight"][:]) >= 0.5 and "ref_chosen_logps" not in data.column_names


def test_orpo_s_flags_reach_the_trainer(train: Command, place: Path, trainers: list[Any]) -> None:
    flags = {"orpo_learning_rate": 2e-3, "orpo_beta": 0.4, "orpo_epochs": 0.3, "steps": 0}
    assert train(place / "orpo", "orpo", "dorpo", weights="style", **flags) == 0
    config = str(place / "orpo" / "dorpo-sty" / "config.yaml")
    assert cli.main(["train", "--config", config, "--output", "orpo again"]) == 0
    assert names(place / "orpo") == ["dorpo-sty", "orpo"]  # and no SFT
    assert names(place / "orpo again") == ["dorpo-sty"]
    assert_same_adapter(place / "orpo again" / "dorpo-sty", place / "orpo" / "dorpo-sty")
    expected = {"learning_rate": 2e-3, "beta": 0.4, "num_train_epochs": 0.3, "max_length": 768}
    expected |= {"per_device_train_batch_size": 4, "lr_scheduler_type": "linear"}
    for trainer in trainers:
        assert given(trainer, expected) == expected
        assert set(trainer.model.peft_config) == {"default"}


def test_the_parts_of_a_batch_change_nothing(train: Command, made: Path, place: Path) -> None:
    """SFT, DDPO and DORPO, a batch of 4 at once or in parts of 1 pair (2 stories)."""
    assert train(place / "parts", "ddpo", "dorpo", weights="semantic", micro_batch=1) == 0
    assert train(place / "whole", "dorpo", weights="semantic") == 0
    for arm, at_once in (("sft", made), ("ddpo-sem", made), ("dorpo-sem", place / "whole")):
        parts, whole = record_of(place / "parts" / arm), record_of(at_once / arm)
        assert curve(parts) == pytest.approx(curve(whole), rel=1e-4), arm
        assert curve(parts, "grad_norm") == pytest.approx(curve(whole, "grad_norm"), rel=1e-3), arm


def test_it_says_what_it_trains_on(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four prompts: two with one pair, one whose long response is left out, one for testing."""
    rows = [
        {"prompt": f"Prompt {p}", "text": f"Story {p} {n}", "score": n, "split": "train"}
        for p, size in enumerate((2, 3, 5, 3))
        for n in range(size)
    ]
    rows[9]["text"] += " and on" * 300
    for row in rows[10:]:
        row["split"] = "test"
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    flags = {"data": path, "weights": "semantic", "batch_size": 2, "min_gap": 0}
    assert train(tmp_path / "out", "ddpo", **flags) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("Training on"))
    numbers = [int(word) for word in re.findall(r"\d+", line)]
    assert numbers == [3, 9, 4, 1, 2, 3, 1, 3, 1] and "DDPO is DPO" in line
    record = record_of(tmp_path / "out" / "ddpo-sem")
    assert record["too_long"] == 1 and record["pairs_too_long"] == 0 and record["pairs"] == 4
    assert record_of(tmp_path / "out" / "sft")["stories"] == 9


FAULTS = [
    {"config": "none.yaml"},
    {"data": "none.parquet"},
    {"beta": "0.2"},  # the folder holds a run with other settings
    {"batch_size": "1000"},  # more than there are pairs
    {"model": "nowhere/nothing"},
    {"sft": "nowhere"},
    {"weights": "votes"},
    {"lora_targets": "nowhere", "lora_r": "4"},
    {"dtype": "int8"},
    {"report_to": "nonsense"},
]


@pytest.mark.parametrize("flags", FAULTS, ids=str)
def test_a_fault_is_one_sentence(
    train: Command, made: Path, flags: dict[str, str], capsys: Any, tmp_path: Path
) -> None:
    output = made if "beta" in flags else tmp_path / "out"
    assert train(output, "ddpo", **{"weights": "semantic"} | flags) == 1
    name, value = next(iter(flags.items()))
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and (value in message or name in message)
    assert not list(tmp_path.rglob("*.safetensors"))  # before anything is trained
    if name == "lora_targets":  # a run that never began may have other settings
        assert train(output, "sft", lora_targets="q_proj") == 0


def test_an_adapter_without_a_run_is_never_trained_over(
    train: Command, made: Path, place: Path
) -> None:
    plain, published = place / "plain", place / "published"  # the latter like data/adapters/sft
    for folder, more in ((plain, []), (published, ["run.json"])):
        folder.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors", *more):
            shutil.copy(made / "sft" / name, folder / name)
        assert train(place / f"from {folder.name}", "dpo", sft=folder, sft_steps=77) == 0
        assert_same_adapter(folder, made / "sft")
        assert not (folder / "config.yaml").exists()
