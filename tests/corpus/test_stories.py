"""Stories in: the bundled data, and your own files in every state."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from awkward_posts import small_posts
from faults import refusal

from ddpo_utils import load_stories
from ddpo_utils.corpus.stories import (
    decisions,
    development_prompts,
    is_writing_prompts,
    load_prompts,
    read_stories,
)
from ddpo_utils.settings import WRITING_PROMPTS

ONE = {"prompt": "A", "text": "one", "score": 3}
TWO = {"prompt": "A", "text": "two 🙂\u2028with a separator", "score": 5}
THREE = {"prompt": "B", "text": 'Élodie said: "no,"\nand left.', "score": 1.5}
ROWS = [ONE, TWO, THREE]
OWN = [{"prompt": "A", "text": f"text {n}", "score": n} for n in range(6)]
FRAME = pd.DataFrame(OWN)
USER, ANSWER = {"role": "user", "content": "A"}, {"role": "assistant", "content": "one"}
SYSTEM = {"role": "system", "content": "You are."}
HALF = USER | {"content": "half \ud83d"}
PARTS = [USER | {"content": [{"type": "text", "text": "A"}, {"type": "text", "text": " door"}]}]
IMAGE = [USER | {"content": [{"type": "image"}]}]
SHARED = [{"from": "human", "value": "A"}, {"from": "gpt", "value": "one"}]


def row(prompt: object, text: object, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "text": text, **more}


def pair(chosen: object, rejected: object, prompt: str = "A") -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def jsonl(*rows: object) -> str:
    """Lines of JSON; a text is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return "\n".join(lines) + "\n"


def own_file(folder: Path, name: str, content: object) -> Path:
    """A file of this content: bytes, text, or a frame for parquet; None: no file."""
    path = folder / name
    if isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
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
@pytest.mark.parametrize("name", ["own.jsonl", "OWN.CSV"])
def test_own_files_are_read_in_every_dialect(tmp_path, name, newline, start):
    content = jsonl(*ROWS, " ", "").replace("\n", newline)
    if name != "own.jsonl":
        content = pd.DataFrame(ROWS).to_csv(index=False, lineterminator=newline)
    frame, reading = read_stories(own_file(tmp_path, name, start + content))
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["score"].tolist() == [3.0, 5.0, 1.5]
    assert frame["prompt_id"].tolist() == ["A", "A", "B"]  # the prompt itself
    others = frame[["source", "split", "writer"]].drop_duplicates()
    assert others.values.tolist() == [["own", "train", ""]]
    assert not reading.left_out and (reading.responses, reading.prompts) == (3, 2)


FORMATS = {
    **{f"{n}.csv": FRAME.to_csv(index=False, sep=sep) for n, sep in enumerate(",;\t|^~\x1f: ")},
    "numbered.csv": FRAME.to_csv(),
    "excel.csv": "sep=;\r\n" + FRAME.to_csv(index=False, sep=";", lineterminator="\r\n"),
    "mac.csv": FRAME.to_csv(index=False, lineterminator="\r"),
    "capitals.csv": FRAME.to_csv(index=False, header=["Prompt", " TEXT", "Score "]) + ",,\n",
    "utf-16.csv": FRAME.to_csv(index=False).encode("utf-16"),
    "utf-16-le.csv": FRAME.to_csv(index=False).encode("utf-16-le"),
    "utf-16-be.jsonl": jsonl(*OWN).encode("utf-16-be"),
    "array.json": json.dumps(OWN, indent=1),
    "array.jsonl": json.dumps(OWN),
    "split.json": json.dumps({"train": OWN}),
    "data.json": json.dumps({"version": 1, "data": OWN}),
    "lists.json": json.dumps(FRAME.to_dict("list")),
    "columns.json": FRAME.to_json(),
    "own.parquet": FRAME,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_stories(tmp_path, name):
    frame = load_stories(own_file(tmp_path, name, FORMATS[name]))
    assert frame[["prompt", "text", "score"]].to_dict("records") == OWN


ALPACA = {"prompt": "instruction+input", "text": "output"}
PAIRS = [pair("x", "y"), pair([USER, ANSWER], "x", "A "), pair("z", "y")]
FIELDS = [  # content of a file, its columns, and the prompt, text and score of each response
    ("p,text,score\n007,NA,1\n7,None,NA\n", "prompt=p", [("007", "NA", 1)]),
    ("prompt,text\n1984,0042\nnull,nan\n", "", [("1984", "0042"), ("null", "nan")]),
    ('prompt\ttext\nA\t"Go," she said\n', "", [("A", '"Go," she said')]),
    ("frage;antwort\nA, b;c, d\n", "text=antwort,prompt=frage", [("A, b", "c, d")]),
    (jsonl(row("one", "A")), "text=prompt,prompt=text", [("A", "one")]),
    (jsonl({"instruction": "A", "input": "b", "output": "one"}), ALPACA, [("A\n\nb", "one")]),
    ('{"prompt": "A", "text": "\\ud83d\\ude00 a"}', "", [("A", "😀 a")]),
    ('{"prompt": "A", "text": "half \\ud83d"}', "", [("A", "half \ufffd")]),
    (b'{"prompt": "A", "text": "half \xed\xa0\xbd"}', "", [("A", "half \ufffd")]),
    (f"prompt\ttext\n{json.dumps([HALF])}\tone\n", "", [("half \ufffd", "one")]),
    (jsonl(row(" Cafe\u0301 ", "e\u0301\r\n")), "", [("Café", "é")]),
    (jsonl(row("A", "x", score=1), row("A", " x", score=5)), "", [("A", "x", 5)]),
    (jsonl(row([USER], "one")), "", [("A", "one")]),
    (jsonl(row(PARTS[0], [ANSWER])), "", [("A door", "one")]),
    (jsonl({"messages": [SYSTEM, USER, ANSWER]}), "", [("A", "one")]),
    (jsonl({"conversations": SHARED}), "", [("A", "one")]),
    (f'prompt,text\n"{[USER]}",one\n', "", [("A", "one")]),
    (jsonl(row("[{odd", "[{'a': 1}]")), "", [("[{odd", "[{'a': 1}]")]),
    (jsonl(*PAIRS), "", [("A", "x", 1), ("A", "y", 0), ("A", "one", 2), ("A", "z", 1)]),
]


@pytest.mark.parametrize(("content", "columns", "expected"), FIELDS)
def test_own_fields_are_brought_into_the_courses(tmp_path, content, columns, expected):
    name = "own.jsonl" if content[:1] in ("{", b"{") else "own.csv"
    frame, _ = read_stories(own_file(tmp_path, name, content), columns)
    names = ["prompt", "text", "score"][: len(expected[0])]
    assert [*frame[names].itertuples(index=False, name=None)] == expected
    assert len(names) == 3 or frame["score"].isna().all()


LEFT_OUT = [  # rows, how many are left, what is said
    ([*OWN, row("A", None)], 6, "1 with no text"),
    ([*OWN, row("\u200b", "x")], 6, "1 with no prompt"),
    ([*OWN, *(row("A", f"{s}x", score=s) for s in ("", "n/a", None))], 6, "3 without a score"),
    ([row("A", "x", score=1), row("A", " x", score=5), row("A", "y", score=3)], 2, "1 copies"),
    ([*OWN, row(" B", "x"), row("B", "y", split="test")], 7, "1 with a test prompt"),
    ([row([SYSTEM, USER], own["text"]) for own in OWN], 6, "6 system"),
    ([pair("x", "x "), pair("x", "y")], 2, "1 pairs of one text"),
    ([pair(*"xy"), pair(*"yx"), pair(*"zw")], 2, "2 responses"),
    ([pair(None, "x"), pair("x", "y")], 2, "1 pairs without a text"),
    ([*OWN, row("B", "x", split="test")], 7, "6 rows without a split"),
    ([row("A", "x", score=5), row("A", "y", score=3)], 2, "two responses"),
    ([row("A", "x", votes=3)], 1, "score=votes"),
]


@pytest.mark.parametrize(("rows", "kept", "said"), LEFT_OUT)
def test_what_is_left_out_is_counted_and_said(rows, kept, said):
    frame, reading = read_stories(pd.DataFrame(rows, dtype=object))
    assert len(frame) == reading.responses == kept and said in str(reading)
    with pytest.warns(UserWarning, match=said):
        pd.testing.assert_frame_equal(load_stories(pd.DataFrame(rows, dtype=object)), frame)


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path):
    frame = load_stories(own_file(tmp_path, "own.csv", f"prompt,text\nA,{'x' * 200_000}\n"))
    assert frame["text"].str.len().tolist() == [200_000]


def test_one_prompt_in_several_spellings_is_one():
    prompts = ["Café noir", " Cafe\u0301  noir", "Café\u00a0noir", "Thé"]
    rows = {"prompt": prompts, "text": list("abcd"), "prompt_id": [None, 7, 8, "007"]}
    frame, _ = read_stories(pd.DataFrame(rows, dtype=object))
    assert frame["prompt"].tolist() == ["Café noir"] * 3 + ["Thé"]
    assert frame["prompt_id"].tolist() == ["7"] * 3 + ["007"]
    assert frame["text"].tolist() == list("abcd")


def test_own_frame_is_copied_and_keeps_its_columns():
    own = {"writer": "me", "source": "club", "split": "test", "prompt_id": [2, 2, 1]}
    frame = pd.DataFrame(ROWS, index=[7, 7, 9]).assign(**own)
    frame[0], frame["row"] = "a column whose name is a number", "a name in use"
    before = frame.copy()
    loaded = load_stories(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(loaded, before.reset_index(drop=True), check_dtype=False)


def test_scores_may_be_missing_or_be_given_by_judges():
    assert load_stories(FRAME.drop(columns="score"))["score"].isna().all()
    judged = FRAME.drop(columns="score").assign(judge_scores=[[1, 2], *[[4, 4]] * 5])
    assert load_stories(judged)["score"].tolist() == [1.5, *[4.0] * 5]


SCORES = ('"good"', "Infinity", "9" * 400, "[3]", '"1_0"')
ROW_FAULTS = [  # rows, and what the refusal names
    ([{"prompt": "A"}], "'text'"),
    ([ONE, row("A", " \n")], "Row 2 .* text"),
    ([ONE, {"prompt": "A"}, {"prompt": "A"}], "2 of 3 .* row 2"),
    ([*OWN, row("A", 7)], "Row 7 .* text"),
    ([*OWN, row(["A"], "x")], "Row 7 .* prompt"),
    *(([ONE, f'{{"prompt": "A", "text": "x", "score": {s}}}'], "Row 2 .* score") for s in SCORES),
    ([{**ONE, "prompt_id": 7}, {**THREE, "prompt_id": "7"}], "prompt_id 7"),
    ([{**ONE, "prompt_id": [7]}], "Row 1 .* prompt_id"),
    ([{**row, "split": s} for row, s in zip(ROWS, ("Test", "dev", 3), strict=True)], "'dev', 3"),
    ([{**ONE, "split": "test"}, TWO], "Row 2 .* test prompt"),
    ([row([USER, ANSWER, USER], "x")], "Row 1 .* user, assistant, user"),
    ([row([USER, ANSWER], "x")], "Row 1 .* user, assistant"),
    ([row(IMAGE, "x")], "Row 1 .* prompt"),
    ([pair("x", "x")], "no pair"),
    ([ONE, "", '{"prompt": "A", "te'], "Line 3"),
    ([ONE, '{"prompt": ' + "[" * 100_000], "Line 2"),
]


@pytest.mark.parametrize(("rows", "names"), ROW_FAULTS)
def test_a_faulty_row_is_named(tmp_path, rows, names):
    assert re.search(names, refusal(load_stories, own_file(tmp_path, "a.jsonl", jsonl(*rows))))


FILE_FAULTS = [
    ("a.csv", "prompt;text;score\nA;x;3,5\n", "Row 1 .* score"),
    ("a.csv", "instruction,output\nA,x\n", "prompt=instruction,text=output"),
    ("a.csv", "instruction,input,answer\nA,b,x\n", r"prompt=instruction\+input,text=answer"),
    ("a.csv", "\ufeff\ufeffUSER,Generated Text\nA,x\n", "prompt=USER,text=Generated Text"),
    ("a.csv", "frage,antwort\nA,x\n", "frage, antwort"),
    ("a.csv", "prompt,text,score\nA,hello, you,3\nB,x,1\n", "Row 1 .* 4 cells"),
    ("a.csv", "prompt,text,split\nA,x,\nA,y\n", "Row 2 .* 2 cells"),
    ("a.csv", 'prompt,text\nA,"x\nB,y\n', "CSV"),
    ("a.csv", "prompt,text,text\nA,x,y\n", "'text'"),
    ("a.csv", "prompt,text\nA,Élodie\n".encode("latin-1"), "byte 14"),
    ("a.csv", "prompt,text\nA,x\n".encode("utf-32"), "UTF-8"),
    ("a.csv", "prompt,text\n", "no story"),
    ("a.csv", "", "no story"),
    ("a.json", "[" * 100_000 + "]" * 100_000, "Line 1"),
    ("a.json", "[[1, 2]]", "Row 1"),
    ("a.json", "7", "a.json"),
    ("a.parquet", "no parquet", "a.parquet"),
    ("", None, "folder"),
    ("none.csv", None, "none.csv"),
    ("/dev/null", None, "/dev/null"),
]


@pytest.mark.parametrize(("name", "content", "names"), FILE_FAULTS)
def test_a_faulty_file_names_the_place(tmp_path, name, content, names):
    assert re.search(names, refusal(load_stories, own_file(tmp_path, name, content)))


@pytest.mark.parametrize("columns", ["text=outptu", "output=text", "text", {"text": ""}])
def test_a_wrong_mapping_is_named(columns):
    frame = pd.DataFrame({"instruction": ["A"], "output": ["x"]})
    assert "the frame" in refusal(load_stories, frame, columns)


def test_writing_prompts_are_told_from_other_stories(tmp_path):
    (tmp_path / "posts").mkdir()
    posts = small_posts(tmp_path / "posts" / "train.parquet")
    for data in (WRITING_PROMPTS, posts, str(tmp_path / "posts")):
        assert is_writing_prompts(data) and str(data) in refusal(load_stories, data)
    own = own_file(tmp_path, "train-0.parquet", FRAME)
    FRAME.assign(prompt="B").to_parquet(tmp_path / "test-0.parquet")
    for data in ("bundled", "own.csv", "", tmp_path / "none.parquet", own, pd.DataFrame(ROWS)):
        assert not is_writing_prompts(data)
    shutil.rmtree(tmp_path / "posts")
    splits = load_stories(tmp_path).groupby("split")["prompt"].unique()
    assert splits.map(list).to_dict() == {"test": ["B"], "train": ["A"]}
