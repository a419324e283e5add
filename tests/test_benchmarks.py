"""The training benchmark: its formula, its architectures, and a whole run on a tiny random Llama."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import training
import training_arms


def test_head_raises_the_ratio_that_the_formula_gives():
    assert (
        training.with_head(0.0)
        == pytest.approx(training.reference_ratio(3, False))
        == pytest.approx(14 / 18)
    )
    assert training.with_head(0.2) == pytest.approx((4.4 + 2 / 3) / 6.4)


def test_architectures_are_exact(tmp_path):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {
        "llama-3.1-8b": 8_030_261_248,
        "smollm2-135m": 134_515_008,
    }  # as the models' cards on the Hub count them
    for name, parameters in sizes.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                LlamaConfig(**training_arms.ARCHITECTURES[name])
            )
        assert model.num_parameters() == parameters
        model.config.save_pretrained(tmp_path / name)
        profile = training_arms.row_profile(
            training_arms.Row("", name, "any"), tmp_path / name, "bfloat16"
        )
        linear = [
            m.in_features * m.out_features
            for m in model.modules()
            if isinstance(m, torch.nn.Linear)
        ]
        assert training.architecture(profile).multiplied == sum(linear)
        if name == "llama-3.1-8b":
            with torch.device("meta"):
                adapted = get_peft_model(model, training_arms.lora_config(profile))
            assert adapted.get_nb_trainable_parameters()[0] == 54_525_952
            assert profile.max_length == 2048 and profile.gradient_checkpointing


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("NVIDIA H200 MIG 3g.71gb", None),
        ("Some Other Card", None),
    ],
)
def test_peak_of_a_card_by_its_name(name, peak):
    assert training.card_peak(name) == peak


def test_ratios_pair_what_ran_in_one_turn():
    load = np.array(
        [[1.0, 1.0], [3.0, 2.0], [1.5, 1.2]]
    )  # of the machine, the same for all arms of a turn
    own = {
        "ddpo, precomputed": 4,
        "trl, precomputed": 5,
        "ddpo, in the loop": 6,
        "trl, in the loop": 8,
        "reference": 2,
    }
    out = training.ratios({name: load * seconds for name, seconds in own.items()}, False, 0.0)
    got = [values["clock"] for values in out.values()]
    for values, ratio in zip(got, (0.8, 0.75, (12 + 2) / 18), strict=True):
        assert values == pytest.approx(dict.fromkeys(("mean", "low", "high"), ratio), abs=1e-4)
    assert out["precomputed / in the loop, 3 epochs"]["formula"] == 0.778


def test_pairs_fill_the_length():
    pairs, weight = training_arms.pairs_of_length(96, 5)
    assert len(pairs) == len(weight) == 5 and len(set(weight)) > 1
    assert (pairs["chosen"].str.len() == 96).all() and (pairs["rejected"].str.len() == 96).all()
    assert pairs["chosen"].nunique() == 5 and (pairs["chosen"] != pairs["rejected"]).all()


def test_arms_differ_in_trainer_and_reference_alone(tmp_path):
    row = training_arms.ROWS["tiny"]
    training_arms.write_model(row, tmp_path / "tiny", "float32")
    bench = training_arms.Bench(row, training_arms.row_profile(row, tmp_path / "tiny", "float32"))
    flops: dict[str, FlopCounterMode] = {}
    rows: dict[
        tuple[str, str], int
    ] = {}  # sequences that went through the model, by arm and adapter
    for arm, (ours, _) in training_arms.ARMS.items():
        trainer, _ = bench.trainer(ours)
        assert type(trainer).__name__ == ("DDPOTrainer" if ours else "DPOTrainer")

        def count(model, args, kwargs, arm=arm, trainer=trainer):
            key = arm, trainer.model.active_adapter
            rows[key] = rows.get(key, 0) + kwargs["input_ids"].shape[0]
            assert (
                kwargs["attention_mask"].sum()
                == kwargs["input_ids"].numel()
                == 128 * bench.profile.batch_size
            )

        handle = trainer.model.get_base_model().register_forward_pre_hook(count, with_kwargs=True)
        with FlopCounterMode(display=False) as flops[arm]:
            clock, processor = bench.step(arm)
        handle.remove()
        assert clock > 0 and processor > 0
    sequences = 2 * bench.count
    assert {key: rows.pop(key) for key in [(arm, "default") for arm in training_arms.ARMS]} == {
        (arm, "default"): sequences for arm in training_arms.ARMS
    }
    assert rows == {("ddpo, in the loop", "ref"): sequences, ("trl, in the loop", "ref"): sequences}
    with FlopCounterMode(display=False) as reference:
        assert bench.reference()[0] > 0
    counted = {
        arm: counter.get_total_flops() for arm, counter in flops.items()
    }  # products alone, the same on any load
    assert counted["ddpo, precomputed"] == counted["trl, precomputed"] > 0
    assert counted["ddpo, in the loop"] == counted["trl, in the loop"]
    assert (
        counted["ddpo, in the loop"] - counted["ddpo, precomputed"]
        == reference.get_total_flops()
        > 0
    )


def test_record_marks_what_was_not_measured(tmp_path):
    path = tmp_path / "training.json"
    if torch.cuda.is_available():
        pytest.skip("with a GPU the rows below would be measured")
    with pytest.raises(SystemExit):
        training.main(["--device", "cuda"], path, tmp_path)
    training.main(["--rows", "8b-lora", "8b-qlora"], path, tmp_path)
    rows = json.loads(path.read_text())["rows"]
    assert rows.keys() == training_arms.ROWS.keys() - {"tiny"}
    for name, row in rows.items():
        assert row["status"] == "not measured" and row["runs"] == []
        assert row["command"] == f"{training.COMMAND} --device {training_arms.ROWS[name].device}"


@pytest.mark.slow
def test_whole_run_is_recorded_and_appended(tmp_path):
    path = tmp_path / "training.json"
    for runs in (1, 2):
        training.main(["--device", "cpu", "--rows", "tiny"], path, tmp_path)
        row = json.loads(path.read_text())["rows"]["tiny"]
        assert row["status"] == "measured" and len(row["runs"]) == runs
    run = row["runs"][0]
    assert run["arms"].keys() == training_arms.ARMS.keys()
    assert run["parameters"]["trained"] == 2 * 2 * (
        64 + 64 + 64 + 32
    )  # layers x r x (q in + out, v in + out)
    for arm in run["arms"].values():
        assert (
            arm["model_flop_utilisation"] is None and 0 < arm["share_of_matmul"] < 1
        )  # no card, so no utilisation
        assert all(peak > 1e8 for peak in arm["peak_bytes"])
    assert all(values["clock"]["low"] <= values["clock"]["high"] for values in run["time"].values())
    assert {"versions", "hardware", "seed", "command", "settings", "code"} <= run.keys()
    assert str(tmp_path) not in path.read_text()
