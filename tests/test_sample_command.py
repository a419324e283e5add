"""The command `sample`, against a server on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from teller import KEY, PROMPTS, Teller

from ddpo_utils.cli import main
from ddpo_utils.sampling import read_samples


@pytest.fixture
def arguments(teller: Teller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    lines = (json.dumps(row) for row in PROMPTS.assign(other=1).to_dict("records"))
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return ["sample", "--model", "a/b:c", "--base-url", teller.url, "--prompts", "p.jsonl", "--samples", "2"]


def test_it_samples_and_says_what_for(teller, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    flags = ["--yes", "--temperature", "none", "--top-p", "0.5", "--max-tokens", "9", "--key-variable", "MY_KEY"]
    assert main([*arguments, *flags, "--prices", "1", "2"]) == 0
    said = capsys.readouterr()
    assert "10 calls to make; estimate" in said.out and "10 calls used 100 prompt tokens" in said.out
    assert "10 stories of 5 prompts in build/endpoint/a-b-c-plain.jsonl" in said.out.replace("\\", "/")
    assert len(read_samples(tmp_path / "build" / "endpoint" / "a-b-c-plain.jsonl")) == 10
    body = teller.requests[0]
    assert "temperature" not in body and (body["top_p"], body["max_tokens"], body["model"]) == (0.5, 9, "a/b:c")
    assert body["authorization"] == f"Bearer {KEY}" and KEY not in said.out + said.err


def test_the_course_s_test_prompts_are_the_default(teller, arguments):
    at = arguments.index("--prompts")
    assert main([*arguments[:at], "--samples", "1", "--yes"]) == 0 and len(teller.requests) == 40


def test_nothing_is_sent_unless_someone_agrees(teller, arguments, capsys, monkeypatch):
    assert main(arguments) == 1 and "--yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for said, status in (("", 1), ("n", 1), ("nothing", 1), (" Yes ", 0)):
        monkeypatch.setattr("builtins.input", lambda question, said=said: said)
        assert (main(arguments), len(teller.requests)) == (status, 0 if status else 10)


@pytest.mark.parametrize("content", [None, "not json", '{"prompt_id": "a"}'])
def test_prompts_that_cannot_be_read_are_said(teller, arguments, tmp_path, capsys, content):
    (tmp_path / "p.jsonl").unlink() if content is None else (tmp_path / "p.jsonl").write_text(content)
    assert main([*arguments, "--yes"]) == 1 and "prompt_id and prompt" in capsys.readouterr().err
    assert not teller.requests


def test_the_key_is_no_flag(arguments, capsys, monkeypatch):
    assert main([*arguments, "--key", KEY]) == 1
    assert KEY not in "".join(capsys.readouterr())
