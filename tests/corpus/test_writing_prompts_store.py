"""r/writingPrompts prepared once: what is kept, when it is made anew, and the report."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from awkward_posts import small_posts
from faults import refusal

from ddpo_utils import get_profile, load_stories
from ddpo_utils.corpus import writing_prompts
from ddpo_utils.corpus.posts import RULES
from ddpo_utils.corpus.writing_prompts import (
    load_writing_prompts,
    prepare,
    print_report,
    stories_of,
)

pytest_plugins = ["posts_fixtures"]


@pytest.fixture
def profile(tmp_path):
    return get_profile("8b", data=str(small_posts(tmp_path / "small.parquet")))


@pytest.fixture
def loads(monkeypatch):
    """The sources that were read, in order."""
    read = []

    def load(source, *args, **kwargs):
        read.append(source)
        return load_writing_prompts(source, *args, **kwargs)

    monkeypatch.setattr(writing_prompts, "load_writing_prompts", load)
    return read


def test_a_second_call_reads_what_the_first_made(profile, tokenizer, tmp_path, loads, capsys):
    folder = tmp_path / "not" / "yet"
    first = prepare(profile, tokenizer, folder)
    said = capsys.readouterr().out
    second = stories_of(profile, tokenizer, folder)
    assert len(loads) == 1 and said == capsys.readouterr().out and "of which train" in said
    pd.testing.assert_frame_equal(first, second)
    direct, report = load_writing_prompts(profile.data, tokenizer, progress=False)
    pd.testing.assert_frame_equal(first, direct)
    names = sorted(path.suffix for path in folder.iterdir())
    assert names == [".json", ".lock", ".parquet"] or names == [".json", ".parquet"]
    assert json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8")) == report
    assert str(tmp_path) not in next(folder.glob("*.json")).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change", ["max_length", "prompts", "seed", "file", "template", "tokenizer", "rules"]
)
def test_another_source_setting_or_tokenizer_is_prepared_anew(
    profile, tiny, tmp_path, loads, monkeypatch, change
):
    _, tokenizer = tiny
    prepare(profile, tokenizer, tmp_path / "out")
    changed = profile
    if change in ("max_length", "prompts", "seed"):
        changed = get_profile(
            "8b", data=profile.data, **{change: 7 if change == "prompts" else 777}
        )
    elif change == "file":
        small_posts(Path(profile.data), posts=13)
    elif change == "template":
        tokenizer.chat_template += " "
    elif change == "tokenizer":
        tokenizer.add_tokens(["tide-wall"])
    else:
        monkeypatch.setattr(writing_prompts, "VERSION", -1)
    prepare(changed, tokenizer, tmp_path / "out")
    assert len(loads) == 2 and len(list((tmp_path / "out").glob("*.parquet"))) == 2
    prepare(changed, tokenizer, tmp_path / "out")
    assert len(loads) == 2


@pytest.mark.parametrize(
    "damage", ["no report", "cut report", "foreign report", "no table", "cut table", "short table"]
)
def test_what_a_kill_or_a_fault_left_behind_is_made_anew(
    profile, tokenizer, tmp_path, loads, damage
):
    whole = prepare(profile, tokenizer, tmp_path / "out")
    table, report = (next((tmp_path / "out").glob(f"*.{kind}")) for kind in ("parquet", "json"))
    table.with_suffix(".part").write_bytes(b"half")
    hurt = report if "report" in damage else table
    if damage.startswith("no"):
        hurt.unlink()
    elif damage.startswith("cut"):
        hurt.write_bytes(hurt.read_bytes()[:-40])
    elif damage.startswith("foreign"):
        hurt.write_text("[1]", encoding="utf-8")
    else:
        pq.write_table(pq.read_table(hurt).slice(1), hurt)
    pd.testing.assert_frame_equal(prepare(profile, tokenizer, tmp_path / "out"), whole)
    assert len(loads) == 2
    pd.testing.assert_frame_equal(prepare(profile, tokenizer, tmp_path / "out"), whole)
    assert len(loads) == 2 and not list((tmp_path / "out").glob("*.part"))


def test_of_two_at_once_one_prepares(profile, tokenizer, tmp_path, loads):
    frames = []
    threads = [
        threading.Thread(
            target=lambda: frames.append(prepare(profile, tokenizer, tmp_path / "out"))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(frames) == 3 and len(loads) == 1
    pd.testing.assert_frame_equal(frames[0], frames[1])


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(profile, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be stored" in refusal(prepare, profile, tokenizer, tmp_path / "file" / "out")


def test_only_the_first_process_of_a_launch_prints(
    profile, tokenizer, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", "1")
    prepare(profile, tokenizer, tmp_path / "out")
    assert capsys.readouterr().out == ""


def test_other_stories_pass_through(tmp_path):
    pd.testing.assert_frame_equal(stories_of(get_profile("laptop"), None, tmp_path), load_stories())
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "A", "text": "one"}\n', encoding="utf-8")
    assert stories_of(get_profile("laptop", data=str(own)), None, tmp_path)["text"].tolist() == [
        "one"
    ]
    assert not list(tmp_path.glob("writing_prompts*"))


def test_the_report_is_an_aligned_table_beside_the_papers_counts(loaded, capsys):
    print_report(loaded[1])
    lines = capsys.readouterr().out.splitlines()
    numbers = r"(.+?) +([\d,]+) +([\d,]+)(?: +([\d,]+))?"
    assert re.fullmatch(r"posts.parquet +posts +responses +paper", lines[0])
    table = [re.fullmatch(numbers, line) for line in lines[1:-2]]
    assert {row.end(2) for row in table} == {lines[0].index("posts ", 5) + 5}
    assert {row.end(3) for row in table} == {lines[0].index("responses") + 9}
    assert {row.end(4) for row in table} == {-1, len(lines[0])}
    rows = [
        (row[1], int(row[2].replace(",", "")), int(row[3].replace(",", "")), row[4])
        for row in table
    ]
    report = loaded[1]
    assert rows == [
        ("read", *report["read"], None),
        *((f"- {rule}", *report["removed"][rule], None) for rule in RULES),
        ("left", *report["left"], "467,198"),
        ("  of which train", *report["train"], "421,330"),
        ("  of which test", *report["test"], "45,868"),
    ]
    assert "no target" in lines[-1] and max(map(len, lines)) <= 120
