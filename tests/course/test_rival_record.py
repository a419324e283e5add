"""The recorded rivals: what is asked for is stored, goes on after a kill, and is read beside the trained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddpo_utils.course import recorded_rivals as rival_record
from ddpo_utils.evaluation.rivals import rival_table


def test_rivals_are_recorded_and_read_beside_the_adapters(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    for name in ("runs.json", "samples.jsonl"):
        (tmp_path / "results" / name).symlink_to(rival_record.data_dir() / "results" / name)
    asked = {"hot": {"temperature": 1.5, "min_p": 0.1}, "told": {"condition": "iterative"}}
    short = {"settings": {"max_new_tokens": 3, "sample_batch": 80}}
    monkeypatch.setenv("DDPO_MODEL", str(tiny_folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rival_record, "RIVALS", asked)
    monkeypatch.setattr(rival_record, "decisions", lambda: short)
    monkeypatch.setattr(rival_record, "data_dir", lambda: tmp_path)
    rival_record.record_rivals(samples=2)
    lines = (tmp_path / "results" / "rivals.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(asked) * 40 * 2
    monkeypatch.setattr(rival_record, "load_policy", lambda *_: pytest.fail("sampled again"))
    facts, stories = rival_record.load_rivals()
    assert json.loads(json.dumps(asked)) == facts["rivals"] and str(tmp_path) not in json.dumps(
        facts
    )
    table = rival_table(stories, {"semantic": "wordllama"})
    assert set(asked) <= set(table.index) and {"sft", "dpo", "ddpo", "start"} <= set(table.index)
    assert table.loc["told", "calls"] == 80
    assert stories["prompt"].notna().all()
