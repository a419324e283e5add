"""The scripts of recorded experiments, whole, at trial size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpo_utils.settings import cache_dir

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
USER_CACHE = str(cache_dir())  # before a fixture names another one
SCRIPTS = {
    "second_round.py": ("12", "second_round/12.json", {"dpo-rate", "dorpo-shuffled", "ddpo-sem"}),
    "tiny_stories.py": ("1", "tiny_stories/1.json", {"start", "dpo", "ddpo", "shuffled"}),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_makes_its_record_and_goes_on(script: str, tmp_path: Path) -> None:
    seed, name, arms = SCRIPTS[script]
    command = [sys.executable, str(ROOT / "data" / "make" / script), "--smoke", seed]
    command += ["--output", str(tmp_path / "data")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DDPO_CACHE": USER_CACHE}
    for _ in range(2):  # the second call finds everything done
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads((tmp_path / "data" / "results" / name).read_text(encoding="utf-8"))["rows"]
    assert arms <= {row["arm"] for row in rows}
