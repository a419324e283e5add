"""Stories in: the bundled data, and one's own files in every state of repair."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults import refusal

from ddpo_utils import CourseError, load_stories, make_pairs
from ddpo_utils.corpus.stories import (
    decisions,
    development_prompts,
    is_writing_prompts,
    load_prompts,
)
from ddpo_utils.settings import data_dir

ROWS = [
    {"prompt": "A", "text": "one", "score": 3},
    {"prompt": "A", "text": "two 🙂\u2028with a separator", "score": 5},
    {"prompt": "B", "text": 'Élodie said: "no,"\nand left.', "score": 1.5},
]


def jsonl(
    path: Path, rows: list[object], newline: str = "\n", start: str = "", encoding: str = "utf-8"
) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes((start + newline.join(lines) + newline).encode(encoding))
    return path


def test_the_bundled_stories_are_those_of_the_data_card():
    stories = load_stories()
    assert len(stories) == 720 and stories["prompt_id"].nunique() == 30
    per_prompt = stories.groupby(["prompt_id", "source"]).size().unstack()
    assert (per_prompt == {"assistant": 6, "assistant_iter": 6, "authors": 12}).all(axis=None)
    test = {f"p{n:02d}" for n in (5, 10, 15, 20, 25, 30)}
    assert set(stories.loc[stories["split"] == "test", "prompt_id"]) == test
    assert set(stories["split"]) == {"train", "test"}
    assert stories["score"].between(1, 10).all()
    assert (stories["score"] == [np.mean(s) for s in stories["judge_scores"]]).all()
    assert stories["text"].str.split().str.len().between(78, 100).all()
    assert stories.loc[stories["source"] == "authors", "writer"].nunique() == 12
    assert {"prompt_id", "prompt", "text", "score", "source", "writer", "split"} <= set(stories)


def test_the_further_prompts_and_the_decisions_keep_the_test_prompts_apart():
    prompts, stories = load_prompts(), load_stories()
    assert len(prompts) == 40 and prompts["prompt_id"].is_unique
    assert not set(prompts["prompt"]) & set(stories["prompt"])
    train = set(stories.loc[stories["split"] == "train", "prompt_id"])
    assert set(development_prompts()) < train
    assert len(development_prompts()) == len(set(development_prompts())) == 5
    assert {"min_words", "reward_bound", "usable_margin"} <= set(decisions())


@pytest.mark.parametrize(
    ("newline", "start", "end"),
    [
        ("\n", "", ""),
        ("\r\n", "", ""),
        ("\n", "\ufeff", ""),
        ("\r\n", "\ufeff", "\r\n \r\n\t\r\n"),
        ("\n\n", "", "\n"),
    ],
    ids=["plain", "windows", "BOM", "all at once", "blank lines"],
)
def test_own_jsonl_is_read_in_every_dialect(tmp_path, newline, start, end):
    path = jsonl(tmp_path / "own.jsonl", ROWS, newline, start)
    path.write_bytes(path.read_bytes() + end.encode())
    frame = load_stories(path)
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["score"].tolist() == [3.0, 5.0, 1.5]
    assert frame["prompt_id"].tolist() == ["A", "A", "B"]  # the prompt itself
    assert (
        (frame["source"] == "own").all()
        and (frame["split"] == "train").all()
        and (frame["writer"] == "").all()
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["own.csv", "OWN.CSV"])
def test_own_csv_is_read_in_every_dialect(tmp_path, encoding, newline, name):
    pd.DataFrame(ROWS).to_csv(
        tmp_path / name, index=False, encoding=encoding, lineterminator=newline
    )
    frame = load_stories(str(tmp_path / name))
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["score"].tolist() == [3.0, 5.0, 1.5]


def test_texts_of_digits_stay_texts(tmp_path):
    (tmp_path / "own.csv").write_text(
        "prompt,text,score\n1984,2001,1\n1984,0042,2\n", encoding="utf-8"
    )
    frame = load_stories(tmp_path / "own.csv")
    assert frame["prompt"].tolist() == ["1984", "1984"] and frame["text"].tolist() == [
        "2001",
        "0042",
    ]


def test_own_frame_is_copied_and_keeps_its_columns():
    frame = pd.DataFrame(ROWS, index=[7, 7, 9]).assign(
        writer="me", source="club", split="test", prompt_id=[2, 2, 1]
    )
    frame[0] = "a column whose name is a number"
    before = frame.copy()
    loaded = load_stories(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert loaded.index.tolist() == [0, 1, 2] and loaded[0].nunique() == 1
    assert loaded["prompt_id"].tolist() == [2, 2, 1] and set(loaded["source"]) == {"club"}


def test_stories_without_scores_are_read_and_refused_for_pairs():
    frame = load_stories(pd.DataFrame(ROWS).drop(columns="score"))
    assert frame["score"].isna().all()
    with pytest.raises(CourseError, match=r"index 0 .* has no score"):
        make_pairs(frame)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "A"}], "no column 'text'"),
        ([{"text": "one"}], "no column 'prompt'"),
        ([*ROWS, {"prompt": "A"}], "Row 4 of own.jsonl has no text"),
        ([*ROWS, {"text": "three"}], "Row 4 of own.jsonl has no prompt"),
        ([ROWS[0], {"prompt": "A", "text": " \n"}], "Row 2 of own.jsonl has no text"),
        ([{"prompt": "A", "text": 3}], "Row 1 of own.jsonl has no text"),
        ([{"prompt": None, "text": "one"}], "Row 1 of own.jsonl has no prompt"),
        (
            [ROWS[0], {**ROWS[1], "score": "good"}],
            "Row 2 of own.jsonl has a score that is no number",
        ),
        (
            [ROWS[0], {**ROWS[1], "score": [1, 2]}],
            "Row 2 of own.jsonl has a score that is no number",
        ),
        (
            [ROWS[0], '{"prompt": "A", "text": "x", "score": Infinity}'],
            "Row 2 .* score that is no number",
        ),
        (
            [{"prompt": "A", "text": "x", "judge_scores": "[1, 2]"}],
            "Row 1 .* score that is no number",
        ),
        (
            [{"prompt": "A", "text": "x", "prompt_id": "a"}, ROWS[0]],
            "Row 2 of own.jsonl has no prompt_id",
        ),
        (
            [{**ROWS[0], "prompt_id": 7}, {**ROWS[2], "prompt_id": 7}],
            "prompt_id 7 of own.jsonl stands for two",
        ),
        ([ROWS[0], "not JSON"], "Line 2 of .*own.jsonl is not a JSON object"),
        ([ROWS[0], "", '{"prompt": "A", "te'], "Line 3 of .*own.jsonl is not a JSON object"),
        ([ROWS[0], "[1, 2]"], "Line 2 of .*own.jsonl is not a JSON object"),
        ([ROWS[0], "3"], "Line 2 of .*own.jsonl is not a JSON object"),
        (["[", "{}", "]"], "Line 1 of .*own.jsonl is not a JSON object"),
        ([], "own.jsonl holds no story"),
        (["", " "], "own.jsonl holds no story"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, rows, message):
    assert re.search(message, refusal(load_stories, jsonl(tmp_path / "own.jsonl", rows)))


def test_judge_scores_may_be_missing_in_a_row():
    rows = [
        {"prompt": "A", "text": t, "judge_scores": s}
        for t, s in (("a", [1, 2]), ("b", None), ("c", []))
    ]
    with pytest.raises(CourseError, match="Row 3"):
        load_stories(pd.DataFrame(rows))
    assert load_stories(pd.DataFrame(rows[:2]))["score"].tolist()[0] == 1.5


def test_unreadable_files_are_said_in_one_sentence(tmp_path):
    assert "no stories file" in refusal(load_stories, tmp_path / "none.jsonl")
    assert "no stories file" in refusal(load_stories, tmp_path)
    assert "UTF-8" in refusal(
        load_stories, jsonl(tmp_path / "latin.jsonl", ROWS[2:], encoding="latin-1")
    )
    (tmp_path / "latin.csv").write_bytes("prompt,text\nA,Élodie\n".encode("latin-1"))
    assert "UTF-8" in refusal(load_stories, tmp_path / "latin.csv")
    (tmp_path / "ragged.csv").write_text(
        'prompt,text\nA,one\nA,two,three,four\n"A,five\n', encoding="utf-8"
    )
    assert "ParserError" in refusal(load_stories, tmp_path / "ragged.csv")
    for name, content in (("empty.csv", ""), ("header.csv", "prompt,text\n"), ("empty.jsonl", "")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert f"{name} holds no story" in refusal(load_stories, tmp_path / name)
    assert "the frame holds no story" in refusal(load_stories, pd.DataFrame())


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("euclaise/WritingPrompts_preferences", True),
        ("posts.parquet", True),
        ("POSTS.PARQUET", True),
        ("folder", True),
        ("folder/data/train.parquet", True),
        ("bundled", False),
        ("own.jsonl", False),
        ("own.csv", False),
        ("empty", False),
        ("absent", False),
        ("", False),
        (pd.DataFrame(ROWS), False),
    ],
    ids=str,
)
def test_writing_prompts_are_told_from_other_stories(tmp_path, monkeypatch, data, answer):
    (tmp_path / "folder" / "data").mkdir(parents=True)
    (tmp_path / "folder" / "data" / "train.parquet").touch()
    (tmp_path / "empty").mkdir()
    jsonl(tmp_path / "own.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    assert is_writing_prompts(data) is answer
    if isinstance(data, str) and data:
        assert is_writing_prompts(Path(data)) is answer
    if answer:
        assert "read it with stories_of" in refusal(load_stories, data)


def test_the_bundled_files_are_where_the_package_looks():
    assert {"stories.jsonl", "test_prompts.jsonl", "authors.json", "README.md"} <= {
        p.name for p in data_dir().iterdir()
    }
    assert len(json.loads((data_dir() / "authors.json").read_text(encoding="utf-8"))) == 12
