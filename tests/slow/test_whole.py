"""What takes minutes or needs system packages: the wheel, the manifests, a run, a browser."""

from __future__ import annotations

import html
import re
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
import yaml
from commands import NOTEBOOKS, ROOT, index, new_python, run_command
from lab import CHROMIUM

__all__ = ["index"]  # the fixture
pytestmark = pytest.mark.slow
BROWSER = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--virtual-time-budget=10000",
)


def test_the_wheel_works_outside_the_clone(index: None, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet")
    run_command(*pip, ROOT, "--wheel-dir", tmp_path)
    (wheel,) = tmp_path.glob("ddpo_utils-*.whl")
    # torch and the rest come from this environment, but not its editable ddpo_utils
    python = new_python(tmp_path / "venv", Path(sysconfig.get_path("purelib")))
    run_command(python, "-m", "pip", "install", "--no-deps", "--quiet", wheel)
    code = (
        "import ddpo_utils\n"
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


@pytest.fixture(scope="module")
def executed() -> Path:
    """Notebook 01 and its HTML, made as `make course` makes them, in the smoke profile."""
    name = NOTEBOOKS[0].stem
    options = ("--profile", "smoke", "--notebooks", name)
    out = run_command(sys.executable, "-m", "ddpo_utils", "run", *options, cwd=ROOT)
    assert re.search(rf"^{name} +\d+ s  passed$", out, re.MULTILINE)
    assert "1 passed, 0 failed" in out
    return ROOT / "build" / "smoke" / NOTEBOOKS[0].name


def alternatives(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return [picture.metadata["image/png"]["alt"] for picture in pictures]


def test_run_leaves_the_source_alone(executed: Path) -> None:
    assert alternatives(executed)
    copy = nbformat.read(executed, as_version=4)
    assert 'profile = "smoke"' in [cell.source.strip().split("\n")[-1] for cell in copy.cells]
    assert "papermill" not in nbformat.read(NOTEBOOKS[0], as_version=4).metadata


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt install chromium)")
def test_a_browser_shows_the_figures_with_their_alternative_text(
    executed: Path, tmp_path: Path
) -> None:
    page, picture = executed.with_suffix(".html").as_uri(), tmp_path / "page.png"
    command = (CHROMIUM, *BROWSER, f"--user-data-dir={tmp_path / 'user'}")
    dom = run_command(*command, "--dump-dom", page, timeout=180)
    shown = [html.unescape(alt) for alt in re.findall(r'<img\b[^>]*?\balt="([^"]*)"', dom)]
    assert set(alternatives(executed)) <= set(shown)
    screenshot = ("--window-size=1100,3000", f"--screenshot={picture}")
    run_command(*command, *screenshot, page, timeout=180)
    assert picture.stat().st_size > 20_000  # an empty page is far smaller
