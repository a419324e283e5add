"""What takes minutes or needs system packages: the wheel, the manifests' resolution, a notebook run, a browser."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Before the tests' own cache takes their place: the model that the user has already fetched is not fetched again.
STRANGE = ("DDPO_PROFILE", "PYTHONPATH", "TQDM_DISABLE")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in STRANGE}

pytestmark = pytest.mark.slow


def carried_out(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, **options
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def index(tmp_path: Path) -> None:
    """Skip where pip reaches no package index."""
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(tmp_path),
        "hatchling",
    ]
    if subprocess.run(probe, capture_output=True, env=ENVIRONMENT).returncode:
        pytest.skip("pip reaches no package index")


def test_wheel_works_outside_the_clone(index: None, tmp_path: Path) -> None:
    carried_out(
        sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--quiet", "--wheel-dir", tmp_path
    )
    (wheel,) = tmp_path.glob("ddpo_utils-*.whl")
    carried_out(sys.executable, "-m", "venv", tmp_path / "venv")
    python = next(
        path
        for part in ("bin/python", "Scripts/python.exe")
        if (path := tmp_path / "venv" / part).exists()
    )
    carried_out(python, "-m", "pip", "install", "--no-deps", "--quiet", wheel)
    # numpy, torch and the rest come from this environment; a plain path, so its editable ddpo_utils is not among them
    site = carried_out(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    ).strip()
    (Path(site) / "rest.pth").write_text(sysconfig.get_path("purelib"))
    code = (
        "import ddpo_utils; from ddpo_utils.embeddings.encoders import load_encoder; from ddpo_utils.settings import data_dir\n"
        "print(ddpo_utils.__file__); print(data_dir()); print(len(ddpo_utils.load_stories()))\n"
        "print(load_encoder('stylometric').encode(['A story.']).shape[0])"
    )
    lines = carried_out(python, "-c", code, cwd=tmp_path).splitlines()
    assert all(Path(line).is_relative_to(tmp_path / "venv") for line in lines[:2])
    assert lines[2:] == ["720", "1"]


def test_pip_resolves_the_environment(index: None, tmp_path: Path) -> None:
    manifest = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    lines = next(entry["pip"] for entry in manifest["dependencies"] if isinstance(entry, dict))[:-1]
    pins = tmp_path / "pins.txt"
    pins.write_text("\n".join(lines))
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    carried_out(*pip, "-r", pins, f"{ROOT}[test]")


@pytest.fixture(scope="module")
def executed() -> Path:
    """Folder of an executed notebook and its HTML, made as `make course` makes them, in the smoke profile."""
    if not NOTEBOOKS:
        pytest.skip("there is no notebook yet")
    command = [
        sys.executable,
        "-m",
        "ddpo_utils",
        "run",
        "--profile",
        "smoke",
        "--notebooks",
        NOTEBOOKS[0].stem,
    ]
    out = carried_out(*command, cwd=ROOT)
    assert re.search(rf"^{NOTEBOOKS[0].stem} +\d+ s  passed$", out, re.MULTILINE)
    assert "1 passed, 0 failed" in out
    return ROOT / "build" / "smoke"


def alternatives(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [
        output.metadata["image/png"]["alt"]
        for output in outputs
        if "image/png" in output.get("data", {})
    ]


def test_run_executes_a_notebook_and_leaves_the_source_alone(executed: Path) -> None:
    assert alternatives(executed / NOTEBOOKS[0].name)
    copy = nbformat.read(executed / NOTEBOOKS[0].name, as_version=4)
    assert 'profile = "smoke"' in [cell.source.strip().split("\n")[-1] for cell in copy.cells]
    assert "papermill" not in nbformat.read(NOTEBOOKS[0], as_version=4).metadata


@pytest.mark.skipif(
    not CHROMIUM, reason="needs a Chromium or Chrome browser (Debian: apt install chromium)"
)
def test_browser_shows_the_figures_with_their_alternative_text(
    executed: Path, tmp_path: Path
) -> None:
    page = (executed / NOTEBOOKS[0].name).with_suffix(".html")
    picture = tmp_path / "page.png"
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'user'}",
        "--virtual-time-budget=10000",
    ]
    dom = carried_out(*command, "--dump-dom", page.as_uri(), timeout=180)
    shown = [html.unescape(alt) for alt in re.findall(r'<img\b[^>]*?\balt="([^"]*)"', dom)]
    assert set(alternatives(executed / NOTEBOOKS[0].name)) <= set(shown)
    carried_out(
        *command, "--window-size=1100,3000", f"--screenshot={picture}", page.as_uri(), timeout=180
    )
    assert picture.stat().st_size > 20_000  # an empty page is far smaller
