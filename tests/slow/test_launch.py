"""Two processes under `accelerate launch` give what one gives: losses, weights, adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from awkward_posts import small_posts
from safetensors.numpy import load_file
from tiny_runs import curve, record_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "ddpo_utils" / "training" / "configs"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
FSDP_ON_CPU = Path(__file__).with_name("fsdp_on_cpu.py")
LAUNCHERS = {
    "one": [sys.executable, "-m", "ddpo_utils"],
    "ddp": [*LAUNCH, "--config_file", CONFIGS / "ddp.yaml", "-m", "ddpo_utils"],
    "fsdp": [*LAUNCH, "--config_file", CONFIGS / "fsdp.yaml", FSDP_ON_CPU],
}
SETTINGS = {"tokenizer": "", "semantic": "stylometric", "style": "delta", "dtype": "float32"}
SETTINGS |= {"batch_size": 4, "micro_batch": 2, "steps": 6, "checkpoint_every": 2}
SETTINGS |= {"sft_batch_size": 4, "sft_steps": 4, "sft_warmup_steps": 2}
SETTINGS |= {"max_length": 512, "max_new_tokens": 8}
SETTINGS |= dict.fromkeys(("learning_rate", "sft_learning_rate", "orpo_learning_rate"), 1e-3)


class Place:
    """A folder with a model and posts, and the commands that train there."""

    def __init__(self, folder: Path, model: Path):
        self.folder = folder
        self.data = {"model": model, "data": small_posts(folder / "posts.parquet", 12, 6, seed=0)}

    def start(self, launcher: str, output: str, *more: str, **options: Any) -> psutil.Popen:
        # one thread a process: more would share the cores that the processes themselves need
        unset = ("DDPO_PROFILE", "DDPO_MODEL", "RANK", "WORLD_SIZE", "LOCAL_RANK")
        env = {name: value for name, value in os.environ.items() if name not in unset}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        env["DDPO_CACHE"] = str(self.folder / "cache")
        settings = (SETTINGS | self.data).items()
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings]
        arms = ["--method", "sft", "ddpo", "dorpo", "--output", self.folder / output]
        words = [*LAUNCHERS[launcher], "train", "--profile", "8b", *flags, *arms, *more]
        return psutil.Popen([str(word) for word in words], cwd=self.folder, env=env, **options)

    def run(self, launcher: str, output: str, *more: str) -> tuple[int, str]:
        """Exit status and stderr."""
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = self.start(launcher, output, *more, **pipes)
        _, error = process.communicate()
        return process.returncode, error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Place:
    place = Place(tmp_path_factory.mktemp("launch"), tiny_folder)
    status, error = place.run("one", "alone")
    assert status == 0, error[-4000:]
    return place


def check_same(place: Place, output: str, processes: int) -> None:
    """Losses to 1e-5, each step's weights, and the adapter to 1e-4 of its largest number."""
    for arm in ("sft", "ddpo", "dorpo"):
        folders = place.folder / "alone" / arm, place.folder / output / arm
        one, other = (record_of(folder) for folder in folders)
        assert (one["processes"], other["processes"]) == (1, processes)
        figures = ["loss"] if arm == "sft" else ["loss", "weight", "rewards/margins"]
        for name in figures:
            np.testing.assert_allclose(curve(other, name), curve(one, name), rtol=1e-5, atol=1e-5)
        if arm != "sft":
            assert np.ptp(curve(one, "weight")) > 0.1  # else nothing would be said about them
            kl = [json.loads((folder / "kl.json").read_text()) for folder in folders]
            assert kl[1] == pytest.approx(kl[0], rel=1e-3)
        x, y = (load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert x.keys() == y.keys()
        for name, values in x.items():
            within = 1e-4 * np.abs(values).max()
            np.testing.assert_allclose(y[name], values, rtol=0, atol=within, err_msg=name)


@pytest.mark.parametrize("launcher", ["one", "ddp", "fsdp"])
def test_a_killed_run_goes_on_to_what_one_process_gives(launcher: str, place: Place) -> None:
    output = f"killed-{launcher}"
    folder = place.folder / output / "ddpo"
    with (place.folder / f"{output}.log").open("w") as log:
        run = place.start(launcher, output, stdout=log, stderr=log)
        state = folder / "checkpoints" / "checkpoint-2" / "trainer_state.json"
        while run.poll() is None and not state.exists():
            time.sleep(0.02)
        processes = [run, *run.children(recursive=True)]  # torch's launcher gives each a group
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
    assert not (folder / "run.json").exists()
    status, error = place.run(launcher, output)
    assert status == 0, error[-4000:]
    assert record_of(folder)["resumed_at_step"] >= 2
    check_same(place, output, processes=1 if launcher == "one" else 2)


def test_a_batch_that_cannot_be_shared_is_refused(place: Place) -> None:
    status, error = place.run("ddp", "odd", "--batch-size=3", "--sft-batch-size=3")
    assert status != 0 and "A batch of 3" in error
