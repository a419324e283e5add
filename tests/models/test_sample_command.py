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
    lines = (json.dumps(row) for row in PROMPTS.assign(other=1).to_dict("records"))
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [
        "sample",
        "--model",
        "a/b:c",
        "--base-url",
        teller.url,
        "--prompts",
        "p.jsonl",
        "--samples",
        "2",
    ]


def test_it_samples_and_says_what_for(teller, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    flags = [
        "--yes",
        "--temperature",
        "none",
        "--top-p",
        "0.5",
        "--max-tokens",
        "9",
        "--key-variable",
        "MY_KEY",
    ]
    assert main([*arguments, *flags, "--prices", "1", "2"]) == 0
    said = capsys.readouterr()
    assert (
        "10 calls to make; estimate" in said.out and "10 calls used 100 prompt tokens" in said.out
    )
    assert "10 stories of 5 prompts in build/endpoint/a-b-c-plain.jsonl" in said.out.replace(
        "\\", "/"
    )
    assert len(read_samples(tmp_path / "build" / "endpoint" / "a-b-c-plain.jsonl")) == 10
    body = teller.requests[0]
    assert "temperature" not in body and (body["top_p"], body["max_tokens"], body["model"]) == (
        0.5,
        9,
        "a/b:c",
    )
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


GOOD = '{"prompt_id": 1, "prompt": "Sea."}\n\n'


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "There is no file p.jsonl"),
        (" \n", "p.jsonl is empty"),
        (b"\xff\xfe", "p.jsonl is no text in UTF-8"),
        ("not json", "Line 1 of p.jsonl is no JSON object"),
        (GOOD + "[1]", "Line 3 of p.jsonl is no JSON object"),
        ('{"prompt_id": "a"}', "Line 1 of p.jsonl has no prompt, or"),
        (
            GOOD + '{"prompt_id": "q1", "prompt": 5}',
            "Line 3 of p.jsonl has no prompt, or one that is no text",
        ),
        (GOOD + '{"prompt_id": "q1", "prompt": " "}', "Line 3 of p.jsonl has no prompt, or"),
        (GOOD + '{"prompt": "Sea."}', "Line 3 of p.jsonl has no prompt_id, or"),
        (GOOD + '{"prompt_id": [1], "prompt": "Sea."}', "Line 3 of p.jsonl has no prompt_id, or"),
        (GOOD + GOOD, "Line 3 of p.jsonl repeats the prompt_id 1"),
    ],
)
def test_prompts_that_cannot_be_read_are_said(teller, arguments, tmp_path, capsys, content, says):
    path = tmp_path / "p.jsonl"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([*arguments, "--yes"]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: {says}")
        and said.endswith("prompt_id and prompt.\n")
        and said.count("\n") == 1
    )
    assert not teller.requests


def test_folders_are_no_files(teller, arguments, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    assert main([*arguments, "--yes", "--prompts", "folder"]) == 1
    assert capsys.readouterr().err.startswith("error: folder is a folder: name a file of ")
    assert main([*arguments, "--yes", "--output", "folder"]) == 1
    assert capsys.readouterr().err == "error: folder is a folder: name a file.\n"
    assert main([*arguments, "--yes", "--output", "p.jsonl/s.jsonl"]) == 1
    assert (
        capsys.readouterr().err
        == "error: p.jsonl is a file where a folder is needed: name another.\n"
    )
    assert not teller.requests


@pytest.mark.parametrize(
    "flags", [["--model", ""], ["--temperature", "-1"], ["--prices", "-1", "2"]], ids=str
)
def test_settings_that_no_endpoint_takes_are_refused(teller, arguments, capsys, flags):
    assert main([*arguments, "--yes", *flags]) == 1 and not teller.requests
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_the_key_is_no_flag(arguments, capsys, monkeypatch):
    assert main([*arguments, "--key", KEY]) == 1
    assert KEY not in "".join(capsys.readouterr())
