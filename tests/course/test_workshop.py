"""The rehearsal of a lesson."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ddpo_utils import cli
from ddpo_utils.course import doctor, notebooks, workshop
from ddpo_utils.course.doctor import Finding
from ddpo_utils.course.workshop import live_minutes
from ddpo_utils.settings import cache_dir, get_profile
from ddpo_utils.training import one_arm


def test_live_training_is_estimated_from_notebook_04_s_steps() -> None:
    minutes = workshop.OVERHEAD * (6 + 3 * 3) * 10.0 / 60
    assert live_minutes(get_profile("laptop"), 10.0) == pytest.approx(minutes)
    shorter = get_profile("laptop", sft_steps=1, steps=2)
    assert live_minutes(shorter, 10.0) == pytest.approx(minutes * 7 / 15)
    colab = get_profile("colab", sft_steps=10, steps=20)  # takes all its steps
    assert live_minutes(colab, 60.0) == pytest.approx(workshop.OVERHEAD * 70)


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> None:
    """A machine with memory and disk, a tiny model that is fetched, and a clone to work in."""
    for folder in ("ddpo_utils", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))
    monkeypatch.setenv("DDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "available_memory", lambda: 16e9)
    monkeypatch.setattr(doctor, "BUILD_ROOM", 0)
    complete = cache_dir() / "models" / "SmolLM2-135M-Instruct" / "complete"
    complete.parent.mkdir(parents=True)
    complete.touch()


def rehearse(capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status of `doctor --workshop`, its report, and its last line."""
    status = cli.main(["doctor", "--workshop"])
    report = capsys.readouterr().out
    return status, report, report.strip().splitlines()[-1]


def test_the_rehearsal_ends_with_ready(ready: None, capsys: pytest.CaptureFixture[str]) -> None:
    status, report, last = rehearse(capsys)
    assert status == 0 and last.startswith("ready: live training takes about "), report
    for word in ("Python", "trl", "disk for build/", "encoders", "a kernel", "a training step"):
        assert word in report
    assert "train_runtime" not in report  # the trainer's own lines


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [("available_memory", lambda: 1e9, "free memory"), ("BUILD_ROOM", 1e18, "1000000000 GB")],
)
def test_a_fault_is_in_the_last_line_and_nothing_is_rehearsed(
    ready: None, name: str, value: Any, remedy: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(doctor, name, value)
    status, report, last = rehearse(capsys)
    assert status == 1 and last.startswith("not ready: ") and remedy in last
    assert "rehearsal" not in report


def test_a_kernel_that_does_not_start_is_not_ready(
    ready: None, monkeypatch: Any, capsys: Any
) -> None:
    broken = notebooks.Outcome("00_preflight", 1.0, "failed: its kernel died")
    monkeypatch.setattr(workshop, "execute", lambda *_, **__: broken)
    monkeypatch.setattr(workshop, "_training", lambda: [Finding("live training", "about 1 minute")])
    status, report, last = rehearse(capsys)
    assert status == 1 and "its kernel died" in report and "pip install" in last


@pytest.mark.parametrize("seconds", [1.0, 12.0, 25.0, 40.0, 900.0])
def test_slow_machines_are_ready_with_a_setting(
    ready: None, monkeypatch: Any, seconds: float
) -> None:
    def train(profile, *_):
        return {"seconds": 30.0 + profile.sft_steps * seconds}  # 30 s of loading

    monkeypatch.setattr(one_arm, "train_sft", train)
    step, live = workshop._training()
    assert step.value.startswith(f"{seconds:.1f} s") and not live.remedy
    advice = re.search("overrides = ({.*})", live.value)
    assert bool(advice) == (live_minutes(get_profile(), seconds) > workshop.LONGEST_LIVE)
    if advice and seconds < 60:
        fewer = get_profile(**json.loads(advice[1]))
        assert live_minutes(fewer, seconds) <= workshop.LONGEST_LIVE
