"""r/writingPrompts prepared once: what is kept, when it is made anew, and the report."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from awkward_posts import small_posts
from faults import refusal

from ddpo_utils import get_profile
from ddpo_utils.corpus import writing_prompts
from ddpo_utils.corpus.writing_prompts import load_writing_prompts, print_report, stories_of


@pytest.fixture
def profile(tmp_path):
    return get_profile("8b", data=str(small_posts(tmp_path / "small.parquet")))


@pytest.fixture
def loads(monkeypatch):
    """The sources that were read, in order."""
    read = []

    def load(source, *args):
        read.append(source)
        return load_writing_prompts(source, *args)

    monkeypatch.setattr(writing_prompts, "load_writing_prompts", load)
    return read


def test_a_second_call_reads_what_the_first_made(
    profile, tokenizer, tmp_path, loads, capsys, monkeypatch
):
    folder = tmp_path / "not" / "yet"
    first = stories_of(profile, tokenizer, folder)
    printed = capsys.readouterr().out
    second = stories_of(profile, tokenizer, folder)
    assert len(loads) == 1 and printed == capsys.readouterr().out and "train" in printed
    pd.testing.assert_frame_equal(first, second)
    direct, report = load_writing_prompts(profile.data, tokenizer)
    pd.testing.assert_frame_equal(first, direct)
    account = next(folder.glob("*.json")).read_text(encoding="utf-8")
    assert json.loads(account).items() >= report.items() and str(tmp_path) not in account
    monkeypatch.setenv("RANK", "1")  # only the first process of a launch prints
    stories_of(profile, tokenizer, folder)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["max_length", "file", "template", "tokenizer", "rules"])
def test_another_source_setting_or_tokenizer_is_prepared_anew(
    profile, tiny, tmp_path, loads, monkeypatch, change
):
    _, tokenizer = tiny
    stories_of(profile, tokenizer, tmp_path / "out")
    if change == "file":
        small_posts(Path(profile.data), posts=13)
    elif change == "template":
        tokenizer.chat_template += " "
    elif change == "tokenizer":
        tokenizer.add_tokens(["tide-wall"])
    elif change == "rules":
        monkeypatch.setattr(writing_prompts, "VERSION", -1)
    else:
        profile = replace(profile, max_length=777)
    for _ in range(2):
        stories_of(profile, tokenizer, tmp_path / "out")
        assert len(loads) == 2 and len(list((tmp_path / "out").glob("*.parquet"))) == 2


def test_a_killed_or_damaged_preparation_is_made_anew(
    profile, tokenizer, tmp_path, loads, monkeypatch
):
    def killed(frame, path, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", killed)
        with pytest.raises(KeyboardInterrupt):
            stories_of(profile, tokenizer, tmp_path / "out")
    whole = stories_of(profile, tokenizer, tmp_path / "out")
    (account,) = (tmp_path / "out").glob("*.json")
    (table,) = (tmp_path / "out").glob("*.parquet")
    damages = [
        account.unlink,
        lambda: account.write_text('{"digest"'),
        lambda: account.write_text("[]"),
        table.unlink,
        lambda: table.write_bytes(table.read_bytes()[:-9]),
        lambda: table.write_bytes(table.read_bytes().replace(b"e", b"a", 1)),
    ]
    for damage in damages:
        damage()
        pd.testing.assert_frame_equal(stories_of(profile, tokenizer, tmp_path / "out"), whole)
    assert len(loads) == 2 + len(damages)
    (tmp_path / "file").touch()
    assert "file" in refusal(stories_of, profile, tokenizer, tmp_path / "file" / "out")


def test_of_three_at_once_one_prepares(profile, tokenizer, tmp_path, loads):
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(stories_of, profile, tokenizer, tmp_path / "out") for _ in range(3)]
        frames = [call.result() for call in calls]
    assert len(loads) == 1
    pd.testing.assert_frame_equal(frames[0], frames[1])


def test_the_report_gives_every_rule_and_the_papers_counts(loaded, capsys):
    report = loaded[1]
    print_report(report)
    table = {}
    for line in capsys.readouterr().out.splitlines():
        name, *numbers = re.split(r" {2,}", line)
        table[name] = [int(number.replace(",", "")) for number in numbers if number[0].isdigit()]
    expected = {"read": report["read"], **report["removed"], "left": [*report["left"], 467_198]}
    assert table.items() >= expected.items()
    assert table["train"] == [*report["train"], 421_330]
