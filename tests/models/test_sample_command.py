"""The command `sample`, against a server on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from teller import KEY, PROMPTS, Teller

from ddpo_utils.cli import main
from ddpo_utils.models.sampling import read_samples


@pytest.fixture
def arguments(teller: Teller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    lines = (json.dumps(row) for row in PROMPTS.to_dict("records"))
    Path("p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--model", "a/b:c", "--base-url", teller.url, "--samples", "2"]
    return ["sample", *flags, "--prompts", "p.jsonl"]


def test_it_samples_by_its_flags_and_the_key_is_nowhere(teller, arguments, capfd, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    flags = "--yes --temperature none --top-p 0.5 --max-tokens 9 --key-variable MY_KEY --prices 1 2"
    assert main([*arguments, *flags.split()]) == 0
    printed = capfd.readouterr()
    assert "10 calls to make" in printed.out and "10 stories of 5 prompts" in printed.out
    assert len(read_samples("build/endpoint/a-b-c-plain.jsonl")) == 10
    body = teller.requests[0]
    assert "temperature" not in body and (body["top_p"], body["max_tokens"]) == (0.5, 9)
    assert {body["authorization"] for body in teller.requests} == {f"Bearer {KEY}"}
    files = [path.read_bytes() for path in Path().rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in data for data in files)
    assert KEY not in printed.out + printed.err


def test_the_courses_test_prompts_are_the_default(teller, arguments):
    assert main([*arguments[:-2], "--samples", "1", "--yes"]) == 0 and len(teller.requests) == 40


def test_nothing_is_sent_unless_someone_agrees(teller, arguments, capsys, monkeypatch):
    assert main(arguments) == 1 and "--yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for typed, status in (("", 1), ("n", 1), ("nothing", 1), (" Yes ", 0)):
        monkeypatch.setattr("builtins.input", lambda question, typed=typed: typed)
        assert (main(arguments), len(teller.requests)) == (status, 0 if status else 10)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", ""],
        ["--max-tokens", "0"],
        ["--prompts", "none"],
        ["--output", "p.jsonl"],
        ["--key", KEY],  # the key is no flag
    ],
    ids=" ".join,
)
def test_faults_are_one_sentence_and_nothing_is_sent(teller, arguments, capsys, flags):
    assert main([*arguments, "--yes", *flags]) == 1 and not teller.requests
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and KEY not in printed
