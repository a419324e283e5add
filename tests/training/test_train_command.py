"""The command `train`: every flag reaches the trainer, a config.yaml repeats a run, a fault is one sentence."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import Command, assert_same_adapter, curve, record_of

from ddpo_utils import cli
from ddpo_utils.training.runs import read_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def train(tiny_folder: Path, place: Path) -> Command:
    return Command(tiny_folder, place)


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)  # build/ lies below the working directory, the prepared posts in it


@pytest.fixture(scope="module")
def made(train: Command, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the arms sft and ddpo-sem."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("DDPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert train(place / "made", "ddpo", weights="semantic") == 0
    return place / "made"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a failing command; progress bars may stand before it."""
    text = capsys.readouterr().err
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    assert lines[-1].startswith("error: ") and "Traceback" not in text, text
    return lines[-1]


def test_it_says_what_it_made_and_keeps_what_is_finished(train, made, capsys):
    assert sorted(path.name for path in made.iterdir()) == ["ddpo-sem", "sft"]
    stamps = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    assert train("made", "ddpo", weights="semantic") == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split(" in ")[0] for line in lines] == ["sft: 2 steps", "ddpo-sem: 2 steps"]
    assert [line.split()[-1] for line in lines] == ["made/sft", "made/ddpo-sem"]
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")} == stamps


def test_a_configuration_repeats_its_run(made, place):
    config = made / "ddpo-sem" / "config.yaml"
    assert cli.main(["train", "--config", str(config), "--output", str(place / "again")]) == 0
    assert sorted(path.name for path in (place / "again").iterdir()) == ["ddpo-sem", "sft"]
    for arm in ("sft", "ddpo-sem"):
        assert curve(record_of(place / "again" / arm)) == curve(record_of(made / arm))
        assert_same_adapter(place / "again" / arm, made / arm)
    assert read_config(place / "again" / "ddpo-sem" / "config.yaml") == read_config(config)


def test_flags_stand_above_a_configuration(made, place):
    words = [
        "train",
        "--config",
        str(made / "ddpo-sem" / "config.yaml"),
        "--sft",
        str(made / "sft"),
    ]
    assert cli.main([*words, "--output", "over", "--method", "dpo", "--learning-rate", "1e-3"]) == 0
    assert [path.name for path in (place / "over").iterdir()] == ["dpo"]
    kept = yaml.safe_load((place / "over" / "dpo" / "config.yaml").read_text())
    assert (
        kept["arm"] == "dpo"
        and kept["settings"]["learning_rate"] == 1e-3
        and kept["settings"]["lora_r"] == 4
    )
    assert record_of(place / "over" / "dpo")["log"][0]["learning_rate"] == 1e-3


def test_a_wrong_place_of_sft_is_refused_and_nothing_is_trained_there(made, place, capsys):
    (place / "empty").mkdir()
    words = [
        "train",
        "--config",
        str(made / "ddpo-sem" / "config.yaml"),
        "--output",
        "lost",
        "--sft",
    ]
    for folder in ("empty", "nowhere"):
        assert cli.main([*words, folder]) == 1
        assert (
            f"no SFT adapter in {folder}: check --sft, or leave it out" in capsys.readouterr().err
        )
    assert (
        not (place / "nowhere").exists()
        and not (place / "lost").exists()
        and not list((place / "empty").iterdir())
    )


def test_an_sft_configuration_trains_sft_alone(made, place):
    assert (
        cli.main(["train", "--config", str(made / "sft" / "config.yaml"), "--output", "alone"]) == 0
    )
    assert [path.name for path in (place / "alone").iterdir()] == ["sft"]
    assert_same_adapter(place / "alone" / "sft", made / "sft")


def test_every_flag_reaches_the_trainer(train, place, monkeypatch):
    from transformers import Trainer

    seen: dict[str, Any] = {}
    original = Trainer.train

    def spy(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        seen["sft" if type(trainer).__name__ == "SFTTrainer" else "ddpo"] = trainer
        return original(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", spy)
    flags = {
        "learning_rate": 2e-3,
        "beta": 0.3,
        "steps": 0,
        "epochs": 0.2,
        "batch_size": 6,
        "micro_batch": 3,
        "seed": 7,
        "sft_learning_rate": 3e-3,
        "sft_steps": 3,
        "sft_batch_size": 12,
        "sft_warmup_steps": 1,
        "checkpoint_every": 2,
        "lora_r": 3,
        "lora_alpha": 5,
        "lora_targets": "k_proj,o_proj",
        "max_length": 700,
        "dtype": "bfloat16",
        "attention": "eager",
        "gradient_checkpointing": "true",
        "nll_weight": 0.25,
        "floor": 0.5,
        "min_gap": 20,
        "precompute_reference": "false",
    }
    assert train(place / "flags", "ddpo", **flags) == 0
    sft, ddpo = seen["sft"].args, seen["ddpo"].args
    assert (sft.learning_rate, sft.max_steps, sft.warmup_steps) == (3e-3, 3, 1)
    assert (sft.per_device_train_batch_size, sft.gradient_accumulation_steps) == (6, 2)
    assert (
        sft.lr_scheduler_type == "cosine_with_min_lr"
        and sft.lr_scheduler_kwargs["min_lr_rate"] == 0.5
    )
    assert sft.completion_only_loss is True
    assert (ddpo.learning_rate, ddpo.beta, ddpo.max_steps, ddpo.num_train_epochs) == (
        2e-3,
        0.3,
        -1,
        0.2,
    )
    assert (ddpo.per_device_train_batch_size, ddpo.gradient_accumulation_steps) == (3, 2)
    assert ddpo.loss_type == ["sigmoid", "sft"] and ddpo.loss_weights == [1.0, 0.25]
    assert ddpo.lr_scheduler_type == "linear" and ddpo.warmup_steps == 0
    for args in (sft, ddpo):
        assert (args.max_length, args.seed, args.save_steps) == (
            700,
            7,
            2,
        ) and args.gradient_checkpointing
    model = seen["ddpo"].model
    lora = model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, set(lora.target_modules)) == (3, 5, {"k_proj", "o_proj"})
    assert model.config._attn_implementation == "eager" and str(model.dtype) == "torch.bfloat16"
    assert min(seen["ddpo"].train_dataset["weight"][:]) >= 0.5
    assert "ref_chosen_logps" not in seen["ddpo"].train_dataset.column_names
    record = record_of(place / "flags" / "ddpo")
    assert (
        record["log"][-1]["step"] == -(-0.2 * record["pairs"] // 6)
        and record["settings"]["min_gap"] == 20
    )


def test_orpo_trains_from_the_starting_model_alone(train, made, place, monkeypatch, capsys):
    """Every setting of it reaches the trainer, no SFT is made, and a config.yaml repeats the run."""
    from transformers import Trainer

    seen: list[Any] = []
    original = Trainer.train
    monkeypatch.setattr(
        Trainer, "train", lambda own, **options: seen.append(own) or original(own, **options)
    )
    flags = {
        "orpo_learning_rate": 2e-3,
        "orpo_beta": 0.4,
        "orpo_epochs": 0.3,
        "steps": 0,
        "weights": "style",
    }
    assert train(place / "orpo", "orpo", "dorpo", **flags) == 0
    assert sorted(path.name for path in (place / "orpo").iterdir()) == ["dorpo-sty", "orpo"]
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        "orpo",
        "dorpo-sty",
    ]
    for trainer in seen:
        args = trainer.args
        assert (args.learning_rate, args.beta, args.num_train_epochs, args.max_length) == (
            2e-3,
            0.4,
            0.3,
            768,
        )
        assert (args.per_device_train_batch_size, args.lr_scheduler_type, args.warmup_steps) == (
            4,
            "linear",
            0,
        )
        lora = trainer.model.peft_config["default"]
        assert (lora.r, lora.lora_alpha, set(trainer.model.peft_config)) == (4, 8, {"default"})
        first = trainer.state.log_history[0]
        assert {"nll_loss", "log_odds_chosen", "rewards/margins", "weight"} <= set(first)
    weights = [set(trainer.train_dataset["weight"][:]) for trainer in seen]
    assert weights[0] == {1.0} and len(weights[1]) > 2

    config = place / "orpo" / "dorpo-sty" / "config.yaml"
    assert yaml.safe_load(config.read_text())["arm"] == "dorpo-sty"
    assert cli.main(["train", "--config", str(config), "--output", str(place / "orpo again")]) == 0
    assert [path.name for path in (place / "orpo again").iterdir()] == ["dorpo-sty"]
    assert_same_adapter(place / "orpo again" / "dorpo-sty", place / "orpo" / "dorpo-sty")
    card = (place / "orpo" / "dorpo-sty" / "README.md").read_text()
    assert (
        "Diversified ORPO (deviation weights: style)" in card
        and "log odds ratio (nats), mean of" in card
    )


def test_divpo_says_what_it_leaves_unused(train, made, place, capsys):
    assert train(place / "divpo", "divpo", weights="semantic", sft=made / "sft") == 0
    record = record_of(place / "divpo" / "divpo-sem")
    said = capsys.readouterr().out.splitlines()[-1]
    assert (
        said.startswith(f"divpo-sem: {record['unused_responses']} responses are in no pair")
        and "fewer" in said
    )
    assert record["unused_responses"] > 0 and set(curve(record, "weight")) == {1.0}
    assert (
        "DPO on DivPO's pairs (chosen by deviation: semantic)"
        in (place / "divpo/divpo-sem/README.md").read_text()
    )
    assert (
        train(
            place / "divpo", "divpo", weights="semantic", sft=made / "sft", orpo_beta=0.9, floor=0.5
        )
        == 0
    )


def test_the_parts_of_a_batch_change_nothing(train, made, place):
    """SFT, DDPO and DORPO, a batch of 4 at once or in parts of 1 pair (2 stories)."""
    assert train(place / "parts", "ddpo", "dorpo", weights="semantic", micro_batch=1) == 0
    assert train(place / "whole", "dorpo", weights="semantic") == 0
    for arm, at_once in (("sft", made), ("ddpo-sem", made), ("dorpo-sem", place / "whole")):
        ours, whole = record_of(place / "parts" / arm), record_of(at_once / arm)
        assert curve(ours) == pytest.approx(curve(whole), rel=1e-4), arm
        assert curve(ours, "grad_norm") == pytest.approx(curve(whole, "grad_norm"), rel=1e-3), arm


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"config": "none.yaml"}, "no configuration at none.yaml"),
        ({"config": "posts.parquet"}, "posts.parquet is no configuration of a run"),
        ({"data": "none.parquet"}, "no parquet file at none.parquet"),
        ({"learning_rate": "fast"}, "learning_rate cannot be 'fast'"),
        ({"steps": "2.5"}, "steps cannot be '2.5'"),
        ({"quantize": "maybe"}, "quantize cannot be 'maybe'"),
        ({"beta": "0.2"}, "holds a run with beta 0.1, and 0.2 is asked for"),
        ({"lora_r": "5"}, "holds a run with lora_r 4, and 5 is asked for"),
        ({"batch_size": "1000"}, "pairs do not fill one batch of 1000"),
        ({"model": "nowhere/nothing"}, "'nowhere/nothing' cannot be loaded"),
    ],
)
def test_a_fault_is_one_sentence(train, made, flags, says, capsys):
    assert train("made", "ddpo", weights="semantic", **flags) == 1
    assert says in said(capsys)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"weights": "votes"}, "semantic, style or both"),
        ({"floor": 2}, "floor"),
        ({"lora_targets": "nowhere"}, "lora_targets"),
        ({"lora_r": 0}, "lora_r"),
        ({"batch_size": 0}, "batch_size"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"learning_rate": "nan"}, "learning_rate"),
        ({"beta": -1}, "beta"),
        ({"orpo_beta": 0}, "orpo_beta"),
        ({"orpo_learning_rate": "nan"}, "orpo_learning_rate"),
        ({"steps": 0, "epochs": 0}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"prompts": -1}, "prompts"),
        ({"report_to": "nonsense"}, "report_to"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(train, place, flags, says, capsys, tmp_path):
    assert train(tmp_path / "out", "ddpo", **flags) == 1
    assert says in said(capsys)
    assert not list(tmp_path.rglob("*.safetensors"))  # before anything is trained


def test_a_number_type_that_no_model_has_is_one_sentence(train, capsys, tmp_path):
    assert train(tmp_path / "out", "sft", dtype="int8") == 1
    assert "'int8' is no number type" in said(capsys)


def test_a_tracker_gets_the_curve_where_it_is_installed(train, made, place, capsys):
    if find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    assert train(place / "tracked", "dpo", sft=made / "sft", report_to="tensorboard") == 0
    assert list((place / "tracked").rglob("events.out.tfevents*"))


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_tracker_that_is_missing_is_one_sentence(train, made, place, capsys):
    assert train(place / "untracked", "dpo", sft=made / "sft", report_to="tensorboard") == 1
    assert "tensorboard" in said(capsys)


def test_an_adapter_of_ones_own_is_never_trained_over(train, made, place):
    own = place / "own"
    own.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(made / "sft" / name, own / name)
    before = (own / "adapter_model.safetensors").read_bytes()
    train(place / "from_own", "dpo", sft=own, sft_learning_rate=1e-3)
    assert (own / "adapter_model.safetensors").read_bytes() == before


def test_a_finished_run_without_a_configuration_gets_no_invented_one(train, made, place):
    """data/adapters/sft is such a folder."""
    published = place / "published"
    published.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "run.json"):
        shutil.copy(made / "sft" / name, published / name)
    train(place / "from_published", "dpo", sft=published, sft_steps=77)
    path = published / "config.yaml"
    assert not path.exists() or yaml.safe_load(path.read_text())["settings"]["sft_steps"] == 2


def test_a_run_that_never_began_may_be_called_with_other_settings(train, place, tmp_path):
    assert train(tmp_path / "out", "sft", lora_targets="nowhere") == 1
    assert train(tmp_path / "out", "sft", lora_targets="q_proj") == 0


def test_a_configuration_of_an_unknown_arm_is_refused(made, place, capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        (made / "ddpo-sem" / "config.yaml").read_text().replace("arm: ddpo-sem", "arm: dddpo-sem")
    )
    words = ["train", "--config", str(path), "--sft", str(made / "sft")]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 1
    assert "dddpo" in said(capsys)


def test_a_configuration_says_where_its_data_were_looked_for(made, capsys, tmp_path, monkeypatch):
    config = made / "ddpo-sem" / "config.yaml"
    path = tmp_path / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["settings"]["data"] = "posts/some.parquet"
    path.write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--config", "config.yaml", "--output", "out"]) == 1
    told = said(capsys)
    assert "posts/some.parquet" in told and str(tmp_path) in told and "--data" in told
