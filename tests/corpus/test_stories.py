"""Stories in: the bundled data, and your own files in every state."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from faults import refusal

from ddpo_utils import load_stories
from ddpo_utils.corpus.stories import (
    decisions,
    development_prompts,
    is_writing_prompts,
    load_prompts,
)
from ddpo_utils.settings import WRITING_PROMPTS

ONE = {"prompt": "A", "text": "one", "score": 3}
TWO = {"prompt": "A", "text": "two 🙂\u2028with a separator", "score": 5}
THREE = {"prompt": "B", "text": 'Élodie said: "no,"\nand left.', "score": 1.5}
ROWS = [ONE, TWO, THREE]


def as_jsonl(rows: list[object]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return "\n".join(lines) + "\n"


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


def test_the_further_prompts_and_the_decisions_keep_the_test_prompts_apart():
    prompts, stories = load_prompts(), load_stories()
    assert len(prompts) == 40 and prompts["prompt_id"].is_unique
    assert not set(prompts["prompt"]) & set(stories["prompt"])
    train = set(stories.loc[stories["split"] == "train", "prompt_id"])
    assert set(development_prompts()) < train
    assert len(development_prompts()) == len(set(development_prompts())) == 5
    assert {"min_words", "reward_bound", "usable_margin"} <= set(decisions())


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("name", ["own.jsonl", "own.csv", "OWN.CSV"])
def test_own_files_are_read_in_every_dialect(tmp_path, name, newline, start):
    content = as_jsonl([*ROWS, " ", ""]).replace("\n", newline)
    if name != "own.jsonl":
        content = pd.DataFrame(ROWS).to_csv(index=False, lineterminator=newline)
    (tmp_path / name).write_bytes((start + content).encode())
    frame = load_stories(tmp_path / name)
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["score"].tolist() == [3.0, 5.0, 1.5]
    assert frame["prompt_id"].tolist() == ["A", "A", "B"]  # the prompt itself
    assert frame[["source", "split", "writer"]].drop_duplicates().values.tolist() == [
        ["own", "train", ""]
    ]


def test_texts_of_digits_stay_texts(tmp_path):
    (tmp_path / "own.csv").write_text("prompt,text,score\n1984,0042,2\n", encoding="utf-8")
    frame = load_stories(str(tmp_path / "own.csv"))
    assert frame[["prompt", "text"]].values.tolist() == [["1984", "0042"]]


def test_own_frame_is_copied_and_keeps_its_columns():
    own = {"writer": "me", "source": "club", "split": "test", "prompt_id": [2, 2, 1]}
    frame = pd.DataFrame(ROWS, index=[7, 7, 9]).assign(**own)
    frame[0] = "a column whose name is a number"
    before = frame.copy()
    loaded = load_stories(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(loaded, before.reset_index(drop=True), check_dtype=False)


def test_scores_may_be_missing_or_be_given_by_judges():
    assert load_stories(pd.DataFrame(ROWS).drop(columns="score"))["score"].isna().all()
    judged = pd.DataFrame(ROWS[:2]).drop(columns="score").assign(judge_scores=[[1, 2], None])
    np.testing.assert_array_equal(load_stories(judged)["score"], [1.5, np.nan])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (as_jsonl([{"prompt": "A"}]), "'text'"),
        (as_jsonl([*ROWS, {"prompt": "A"}]), "Row 4 .* text"),
        (as_jsonl([ONE, {"prompt": "A", "text": " \n"}]), "Row 2 .* text"),
        (as_jsonl([ONE, {**TWO, "score": "good"}]), "Row 2 .* score"),
        (as_jsonl([ONE, '{"prompt": "A", "text": "x", "score": Infinity}']), "Row 2 .* score"),
        (as_jsonl([{**ONE, "prompt_id": "a"}, TWO]), "Row 2 .* prompt_id"),
        (as_jsonl([{**ONE, "prompt_id": 7}, {**THREE, "prompt_id": 7}]), "prompt_id 7"),
        (as_jsonl([ONE, "", '{"prompt": "A", "te']), "Line 3"),
        ("", "own"),
        ("prompt,text\nA,Élodie\n".encode("latin-1"), "own.csv"),
        ('prompt,text\nA,one\nA,two,three,four\n"A,five\n', "own.csv"),
        ("prompt,text\n", "own.csv"),
        (None, "own"),
    ],
    ids=range(13),
)
def test_a_fault_names_its_place(tmp_path, content, names):
    path = tmp_path / ("own.csv" if names == "own.csv" else "own.jsonl")
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(names, refusal(load_stories, path))


def test_writing_prompts_are_told_from_other_stories(tmp_path):
    for folder in ("full/data", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "full" / "data" / "train.parquet").touch()
    for data in (WRITING_PROMPTS, "POSTS.PARQUET", str(tmp_path / "full"), tmp_path / "full"):
        assert is_writing_prompts(data) and str(data) in refusal(load_stories, data)
    for data in ("bundled", "own.csv", "", str(tmp_path / "empty"), pd.DataFrame(ROWS)):
        assert not is_writing_prompts(data)
