"""Commands run as a user runs them, in the user's environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
# Read before the tests get their own cache, so that a model in the user's cache is used.
STRANGE = ("DDPO_PROFILE", "PYTHONPATH", "TQDM_DISABLE")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in STRANGE}


def run_command(*command: object, **options: object) -> str:
    """What the command prints; the test fails with its output if it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, **options)
    assert done.returncode == 0, f"{words} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def new_python(folder: Path, *packages: Path) -> Path:
    """The Python of a new environment in `folder`, which also sees the folders `packages`."""
    run_command(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run_command(python, "-c", code).strip())
    (site / "more.pth").write_text("\n".join(map(str, packages)))
    return python


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where pip reaches no package index."""
    folder = str(tmp_path_factory.mktemp("probe"))
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder]
    if subprocess.run([*pip, "hatchling"], capture_output=True, env=ENVIRONMENT).returncode:
        pytest.skip("pip reaches no package index")
