"""DDPOTrainer passes its tests with each older TRL that it takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, ROOT, index, run_command

__all__ = ["index"]  # the fixture
pytestmark = pytest.mark.slow
TESTS = ["tests/test_trainers.py", "tests/test_trainer_inputs.py"]


# 1.15 has 1.16's loss; its own trainer needs Triton, which comes with torch's CUDA builds alone
@pytest.mark.parametrize("version", ["1.12.0", "1.13.0", "1.14.0"])
def test_the_trainer_with_an_older_trl(
    index: None, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path)
    run_command(*pip, f"trl=={version}")
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "passed" in run_command(*pytest_, *TESTS, cwd=ROOT)
    found = (sys.executable, "-c", "import trl; print(trl.__version__)")
    assert run_command(*found).strip() == version
