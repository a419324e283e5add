"""The doctor: what a machine lacks, the remedy, and the estimate of memory."""

from __future__ import annotations

import importlib.metadata as metadata
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import error_line

from ddpo_utils import cli, get_profile
from ddpo_utils.course import doctor
from ddpo_utils.settings import PROFILES, cache_dir
from ddpo_utils.training import plan

# in the user's cache: read before the tests get their own
SMOLLM2 = cache_dir() / "models" / "SmolLM2-135M-Instruct"


def test_too_little_memory_is_refused_with_both_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_gpu", lambda: ("", 0.0))
    monkeypatch.setattr(doctor, "available_memory", lambda: 1.5e9)
    assert cli.main(["run", "--profile", "laptop"]) == 1
    assert "1.5 GB are free" in error_line(capsys)
    monkeypatch.setattr(doctor, "available_memory", lambda: 1e12)  # no profile is refused by name
    assert not [fault for profile in PROFILES.values() for fault in doctor.lacking(profile)]


def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = metadata.version

    def without_trl(name: str) -> str:
        if name == "trl":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "pandas" else version(name)

    monkeypatch.setattr(metadata, "version", without_trl)
    assert len(doctor.lacking(get_profile("laptop"))) == 2
    assert cli.main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert "lacks trl\n" in report and "pip install 'pandas>=2.2'" in report
    assert cli.main(["run", "--profile", "smoke"]) == 1
    assert "pandas" in error_line(capsys)


def test_a_broken_package_does_not_hide_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert cli.main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert "pandas" in report and "psutil" in report and "halted" in report


def test_doctor_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 16e9)
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out
    for part in ("Python", "cores", "torch", "trl", "minilm", "faster number type", *PROFILES):
        assert part in report
    assert "ddpo_utils fetch" in report  # the tests' cache is empty


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (1e3, True)])
def test_a_load_above_the_cores_is_said(load: float, busy: bool, monkeypatch, capsys) -> None:
    monkeypatch.setattr("psutil.getloadavg", lambda: (load, 0.0, 0.0))
    cli.main(["doctor"])
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["load"]
    )
    assert f"{load:.1f} on " in line and ("other programs" in line) == busy


def test_estimate_is_the_plans(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    laptop, big = get_profile("laptop"), get_profile("8b")
    assert doctor.estimate_memory(replace(laptop, model="some/model"), gpu=False) is None
    assert doctor.estimate_memory(big, gpu=True) == plan.peak(big)
    assert 4e9 < doctor.estimate_memory(laptop, gpu=False) < 6e9  # what the course promises
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))  # what will be loaded is what counts
    assert doctor.estimate_memory(big, gpu=True) < 2e9


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="the policy's tokenizer has not been fetched")
def test_bundled_stories_are_no_longer_than_the_estimate_takes_them_to_be() -> None:
    from transformers import AutoTokenizer

    from ddpo_utils import load_stories
    from ddpo_utils.corpus.text import as_messages

    tokenizer, stories = AutoTokenizer.from_pretrained(SMOLLM2), load_stories()
    pairs = zip(stories["prompt"], stories["text"], strict=True)
    turns = [as_messages("user", prompt) + as_messages("assistant", text) for prompt, text in pairs]
    lengths = [len(ids) for ids in tokenizer.apply_chat_template(turns)["input_ids"]]
    assert 0.9 * doctor.LONGEST_STORY < max(lengths) <= doctor.LONGEST_STORY
