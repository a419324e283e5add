"""Two processes under `accelerate launch` give what one gives: losses, weights, adapter; also after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from awkward_posts import small_posts
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "ddpo_utils" / "training" / "configs"
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--main_process_port",
    "0",
    "--config_file",
]
LAUNCHERS = {
    "one": [sys.executable, "-m", "ddpo_utils"],
    "ddp": [*LAUNCH, CONFIGS / "ddp.yaml", "-m", "ddpo_utils"],
    "fsdp": [*LAUNCH, CONFIGS / "fsdp.yaml", Path(__file__).with_name("fsdp_on_cpu.py")],
}
SETTINGS = {
    "tokenizer": "",
    "semantic": "stylometric",
    "style": "delta",
    "dtype": "float32",
    "batch_size": 4,
    "micro_batch": 2,
    "sft_batch_size": 4,
    "sft_steps": 4,
    "sft_warmup_steps": 2,
    "steps": 6,
    "max_length": 512,
    "max_new_tokens": 8,
    "checkpoint_every": 2,
    "learning_rate": 1e-3,
    "sft_learning_rate": 1e-3,
    "orpo_learning_rate": 1e-3,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    small_posts(folder / "posts.parquet", posts=12, responses=6, seed=0)
    return folder


@pytest.fixture(scope="module")
def command(place: Path, tiny_folder: Path):
    def make(launcher: str, output: str, *more: str) -> list[str]:
        settings = SETTINGS | {"model": tiny_folder, "data": place / "posts.parquet"}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        arms = ["--method", "sft", "ddpo", "dorpo", "--output", place / output]
        return [
            str(part)
            for part in (*LAUNCHERS[launcher], "train", "--profile", "8b", *flags, *arms, *more)
        ]

    return make


def options(place: Path) -> dict:
    # one thread a process: more would share the cores that the processes themselves need
    strange = ("DDPO_PROFILE", "DDPO_MODEL", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    env = {k: v for k, v in os.environ.items() if k not in strange} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "DDPO_CACHE": str(place / "cache"),
    }
    return {"cwd": place, "env": env, "text": True}


def carried_out(command: list[str], place: Path) -> None:
    done = subprocess.run(command, capture_output=True, **options(place))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def alone(place: Path, command) -> Path:
    carried_out(command("one", "one"), place)
    return place / "one"


def check_same(a: Path, b: Path, processes: int) -> None:
    """Losses to 1e-5, the weights of each step's pairs, and the adapter to 1e-4 of its largest number."""
    for arm in ("sft", "ddpo", "dorpo"):
        one, other = (json.loads((folder / arm / "run.json").read_text()) for folder in (a, b))
        assert (one["processes"], other["processes"]) == (1, processes)
        names = ["loss"] + (["weight", "rewards/margins", "logps/chosen"] if arm != "sft" else [])
        for name in names:
            x, y = ([entry[name] for entry in run["log"]] for run in (one, other))
            assert len(x) == SETTINGS["sft_steps" if arm == "sft" else "steps"]
            np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-5, err_msg=f"{arm}: {name}")
        if arm != "sft":
            weights = [entry["weight"] for entry in one["log"]]
            assert np.ptp(weights) > 0.1  # else the comparison would say nothing about them
            kl = [
                list(json.loads((folder / arm / "kl.json").read_text()).values())
                for folder in (a, b)
            ]
            np.testing.assert_allclose(kl[1], kl[0], rtol=1e-3)
        x, y = (load_file(folder / arm / "adapter_model.safetensors") for folder in (a, b))
        assert x.keys() == y.keys()
        for name, values in x.items():
            np.testing.assert_allclose(
                y[name], values, rtol=0, atol=1e-4 * np.abs(values).max(), err_msg=name
            )


@pytest.mark.parametrize("launcher", ["ddp", "fsdp"])
def test_two_processes_give_what_one_gives(
    launcher: str, alone: Path, place: Path, command
) -> None:
    carried_out(command(launcher, launcher), place)
    check_same(alone, place / launcher, processes=2)


@pytest.mark.parametrize("launcher", ["one", "ddp", "fsdp"])
def test_a_killed_run_goes_on_to_the_same_losses(
    launcher: str, alone: Path, place: Path, command
) -> None:
    output = f"killed-{launcher}"
    line = command(launcher, output)
    with (place / f"{output}.log").open("w") as log:
        run = psutil.Popen(line, stdout=log, stderr=log, **options(place))
        ripe = place / output / "ddpo" / "checkpoints" / "checkpoint-2" / "trainer_state.json"
        while run.poll() is None and not ripe.exists():
            time.sleep(0.02)
        processes = [
            run,
            *run.children(recursive=True),
        ]  # torch's launcher gives each worker a group of its own
        for each in processes:
            each.kill()
        psutil.wait_procs(processes)
    assert not (place / output / "ddpo" / "run.json").exists(), (
        place / f"{output}.log"
    ).read_text()[-3000:]
    carried_out(line, place)
    assert json.loads((place / output / "ddpo" / "run.json").read_text())["resumed_at_step"] >= 2
    check_same(alone, place / output, processes=1 if launcher == "one" else 2)


def test_a_batch_that_cannot_be_shared_is_refused(place: Path, command) -> None:
    line = command("ddp", "odd", "--batch-size", "3", "--sft-batch-size", "3")
    done = subprocess.run(line, capture_output=True, **options(place))
    assert done.returncode != 0
    assert "A batch of 3 cannot be shared by 2 processes: choose a multiple of 2." in done.stderr
