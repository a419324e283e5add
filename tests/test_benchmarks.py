"""The training benchmark: exact architectures, arms that differ in one thing, and a whole run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import training
from training import ARMS, MODELS, ROWS, Bench, row_profile, write_model

from ddpo_utils.training.plan import architecture


def test_arms_differ_in_trainer_and_reference_alone(tmp_path: Path) -> None:
    row = ROWS["tiny"]
    write_model(row, tmp_path / "tiny")
    profile = row_profile(row, tmp_path / "tiny")
    assert architecture(profile) == MODELS["tiny"]
    bench, flops = Bench(row, profile), {}
    for arm, (ours, _) in ARMS.items():
        trainer, _ = bench.trainer(ours)
        assert type(trainer).__name__ == ("DDPOTrainer" if ours else "DPOTrainer")
        with FlopCounterMode(display=False) as counter:
            assert min(bench.step(arm)) > 0
        flops[arm] = counter.get_total_flops()  # of products alone, the same on any load
    with FlopCounterMode(display=False) as counter:
        bench.reference()
    assert flops["ddpo, precomputed"] == flops["trl, precomputed"] > 0
    assert flops["ddpo, in the loop"] == flops["trl, in the loop"]
    reference = flops["ddpo, in the loop"] - flops["ddpo, precomputed"]
    assert reference == counter.get_total_flops() > 0


@pytest.mark.slow
def test_a_whole_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "training.json"
    training.main(["--device", "cpu", "--rows", "tiny"], path)
    rows = json.loads(path.read_text())["rows"]
    for name in rows.keys() - {"tiny"}:  # what was not measured says how to
        assert rows[name]["status"] == "not measured"
        assert rows[name]["command"] == f"{training.COMMAND} --device {ROWS[name].device}"
    (run,) = rows["tiny"]["runs"]
    assert run["arms"].keys() == ARMS.keys()
    for arm in run["arms"].values():
        assert arm["tokens_a_second"] > 0 and arm["peak_bytes"] > 1e8
    for ratio in run["time"].values():
        assert ratio["clock"]["low"] <= ratio["clock"]["high"]
