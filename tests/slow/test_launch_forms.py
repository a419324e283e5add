"""The reference's ways of starting a trainer start as many processes as they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_trainers import preference_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "notebooks" / "REFERENCE.md").read_text(encoding="utf-8")
FORMS = re.findall(r"^(\w.* train\.py) +#", REFERENCE, re.MULTILINE)


def test_the_reference_has_them() -> None:
    assert len(FORMS) == 3


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_processes(form: str, tmp_path: Path, tiny_folder: Path) -> None:
    """They train on pairs from disk, with the reference's log-probs computed before."""
    pairs = tmp_path / "pairs.parquet"
    preference_data(8, weights=[0.5, 1.5] * 4).to_parquet(pairs)
    script = [Path(__file__).with_name("train.py"), tiny_folder, pairs, tmp_path / "out"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    command = [*form.split()[:-1], *map(str, script)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    asked = int(re.search(r"(?:num_processes|nproc_per_node) (\d+)", form)[1])
    started = sorted(re.findall(r"process \d+ of \d+", done.stdout))
    assert started == [f"process {index} of {asked}" for index in range(asked)]
