"""r/writingPrompts prepared once: what is kept, when it is made anew, and the report."""

from __future__ import annotations

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
from ddpo_utils.storage.files import read_json


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


def test_of_several_calls_the_first_prepares(
    profile, tokenizer, tmp_path, loads, capsys, monkeypatch
):
    folder = tmp_path / "not" / "yet"

    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pd.DataFrame, "to_parquet", killed)
        stories_of(profile, tokenizer, folder)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(stories_of, profile, tokenizer, folder) for _ in range(3)]
        frames = [call.result() for call in calls]
    assert len(loads) == 2 and capsys.readouterr().out.count("\ntrain ") == 3
    direct, report = load_writing_prompts(profile.data, tokenizer)
    monkeypatch.setenv("RANK", "1")  # only the first process of a launch prints
    for frame in (*frames, stories_of(profile, tokenizer, folder)):
        pd.testing.assert_frame_equal(frame, direct)
    assert capsys.readouterr().out == "" and len(loads) == 2
    (account,) = folder.rglob("report.json")
    assert read_json(account) == report and str(tmp_path) not in str(report)


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
        assert len(loads) == 2 and len(list((tmp_path / "out").rglob("*.parquet"))) == 2


def test_a_damaged_or_impossible_preparation_is_refused_by_its_name(profile, tokenizer, tmp_path):
    stories_of(profile, tokenizer, tmp_path / "out")
    (table,) = (tmp_path / "out").rglob("*.parquet")
    table.write_bytes(table.read_bytes().replace(b"e", b"a", 1))
    assert str(table.parent) in refusal(stories_of, profile, tokenizer, tmp_path / "out")
    (tmp_path / "file").touch()
    assert "file" in refusal(stories_of, profile, tokenizer, tmp_path / "file" / "out")


def test_the_report_gives_every_rule_and_the_papers_counts(loaded, capsys):
    report = loaded[1]
    print_report(report)
    lines = capsys.readouterr().out.splitlines()
    expected = {"read": report["read"], **report["removed"], "left": [*report["left"], 467_198]}
    for name, numbers in (expected | {"train": [*report["train"], 421_330]}).items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert line.removeprefix(name).split() == [f"{number:,}" for number in numbers]
