"""An evaluation by two processes, killed and begun again, says what one process says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from evaluated import LENIENT, as_flags, contents, same

from ddpo_utils import Profile
from ddpo_utils.evaluation.evaluate import evaluate_adapters

pytest_plugins = ["evaluation_fixtures"]
pytestmark = pytest.mark.slow


def samples(folder: Path, row: str) -> list[Path]:
    return [path for path in folder.glob(f"{row}-*.jsonl") if path.name.count(".") == 1]


def command(profile: Profile, adapters: Path, folder: Path, processes: int) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    what = ["-m", "ddpo_utils", "evaluate", *as_flags(profile)]
    return [sys.executable, *launch, *what, "--adapters", str(adapters), "--output", str(folder)]


def test_two_processes_killed_and_begun_again_say_what_one_says(
    profile: Profile, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = replace(profile, max_new_tokens=120, sample_batch=3)  # five batches a row
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = evaluate_adapters(profile, LENIENT, adapters, tmp_path / "one")
    right, folder = contents(tmp_path / "one"), tmp_path / "two"
    line = command(profile, adapters, folder, 2)
    run = psutil.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and not any(samples(folder, row) for row in ("dpo", "shuffled")):
        time.sleep(0.02)
    # torch's launcher gives each worker a process group
    processes = [run, *run.children(recursive=True)]
    for each in processes:
        each.kill()
    psutil.wait_procs(processes)
    assert not (folder / "results.json").exists()
    whole = {}
    for path in samples(folder, "*"):
        if path.read_bytes() == right.get(path.name):
            whole[path] = path.stat().st_mtime_ns
    assert whole
    again = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("5 prompts by 3 samples") == 1  # one process prints
    assert same(json.loads((folder / "results.json").read_text()), one)
    assert contents(folder) == right
    assert {p.suffix for p in folder.iterdir()} <= {".json", ".jsonl", ".csv", ".md"}
    # nothing was sampled twice
    assert all(path.stat().st_mtime_ns == before for path, before in whole.items())
