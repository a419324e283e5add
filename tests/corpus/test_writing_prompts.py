"""r/writingPrompts in: the rules, the length, the draw, and faulty sources."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from awkward_posts import post, small_posts, write_posts
from faults import refusal

from ddpo_utils.corpus import posts, writing_prompts
from ddpo_utils.corpus.posts import RULES
from ddpo_utils.corpus.writing_prompts import load_writing_prompts
from ddpo_utils.settings import WRITING_PROMPTS

COLUMNS = ["prompt_id", "prompt", "text", "score"]


def test_every_rule_removes_what_it_should(awkward, loaded):
    source, left, removed = awkward
    frame, report = loaded
    assert frame[COLUMNS].values.tolist() == left
    assert report["removed"] == dict(zip(RULES, removed.tolist(), strict=True))
    unused = [rule for rule, pair in report["removed"].items() if not any(pair)]
    assert unused == ["post not drawn"]  # every other rule has something to do in this file
    comments = pq.read_table(source)["comment_texts"].to_pylist()
    assert report["read"] == [len(comments), sum(len(texts or []) for texts in comments)]
    assert report["left"] == [frame["prompt_id"].nunique(), len(frame)]
    assert report["single"] == (frame.groupby("prompt_id").size() == 1).sum() > 0
    for side, part in frame.groupby("split"):
        assert report[side] == [part["prompt_id"].nunique(), len(part)]
    assert report["test"][0] == round(report["left"][0] / 10)
    assert json.loads(json.dumps(report)) == report


def _tokens(tokenizer, prompt: str, text: str) -> int:
    talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    return len(tokenizer.apply_chat_template(talk, tokenize=True)["input_ids"])


@pytest.mark.parametrize("over", [0, 1])
def test_the_length_is_exact_and_bos_is_counted_once(tmp_path, tokenizer, over):
    texts = ["one bell", "one bell rang, and rang"]
    source = write_posts(tmp_path / "p.parquet", [post("[WP] A", "", texts, [1, 2])])
    longest = max(_tokens(tokenizer, "A", text) for text in texts)
    tokenizer("x " * 50, truncation=True, max_length=5)  # an earlier caller's settings do not stay
    frame, report = load_writing_prompts(source, tokenizer, longest - over)
    assert len(frame) == 2 - over
    assert report["removed"]["response too long with its prompt"] == [0, over]


def test_a_draw_keeps_as_many_posts_as_asked_for(awkward, loaded, tokenizer, monkeypatch):
    monkeypatch.setattr(writing_prompts, "BATCH", 7)
    whole, full = loaded
    drawn = {}
    for number in (1, 4, 10, full["left"][0], 1000):
        frame, report = load_writing_prompts(awkward[0], tokenizer, prompts=number)
        drawn[number] = set(frame["prompt_id"])
        assert report["left"][0] == len(drawn[number]) == min(number, full["left"][0])
        taken = np.sum(list(report["removed"].values()), axis=0)
        assert (report["read"] - taken == report["left"]).all()
        expected = whole.loc[whole["prompt_id"].isin(drawn[number]), COLUMNS]
        pd.testing.assert_frame_equal(frame[COLUMNS], expected.reset_index(drop=True))
    assert drawn[1] < drawn[4] < drawn[10] < drawn[1000] == set(whole["prompt_id"])
    other, _ = load_writing_prompts(awkward[0], tokenizer, prompts=10, seed=1)
    assert set(other["prompt_id"]) != drawn[10]


def test_every_post_is_drawn_equally_often_and_few_are_tokenised(monkeypatch):
    tokenised = []
    monkeypatch.setattr(writing_prompts, "BATCH", 3)
    monkeypatch.setattr(
        writing_prompts, "token_counts", lambda s, _: tokenised.extend(s.index) or np.ones(len(s))
    )
    stories = pd.DataFrame({"prompt_id": np.repeat(np.arange(20), 2)})
    draws = [writing_prompts._draw(stories, None, 9, 5, seed)[0][::2] for seed in range(500)]
    assert (np.sum(draws, axis=1) == 5).all() and len(tokenised) == 12 * 500
    assert (abs(np.sum(draws, axis=0) - 125) < 45).all()  # standard deviation 10


@pytest.mark.parametrize("size", [1, 30])
def test_batches_files_and_the_hub_do_not_matter(
    awkward, loaded, tokenizer, tmp_path, monkeypatch, size
):
    import datasets

    rows, load = pq.read_table(awkward[0]), datasets.load_dataset
    (tmp_path / "data [1]").mkdir()
    for number, start in enumerate(range(0, len(rows), 25)):
        pq.write_table(rows.slice(start, 25), tmp_path / "data [1]" / f"train-{number:05d}.parquet")

    def from_hub(name, split, **options):
        files = options.get("data_files", str(awkward[0]))
        assert options or name == WRITING_PROMPTS
        options = {"cache_dir": str(tmp_path / "cache"), **options, "data_files": files}
        return load("parquet", split=split, **options)

    monkeypatch.setattr(datasets, "load_dataset", from_hub)  # only the network is replaced
    for module in (posts, writing_prompts):
        monkeypatch.setattr(module, "BATCH", size)
    for source in (tmp_path / "data [1]", WRITING_PROMPTS):
        frame, report = load_writing_prompts(source, tokenizer)
        pd.testing.assert_frame_equal(frame, loaded[0])
        assert {**report, "source": ""} == {**loaded[1], "source": ""}


def test_large_types_and_a_column_of_nulls_are_read(tmp_path, tokenizer):
    columns = {
        "post_title": pa.array(["[WP] A"], pa.large_string()),
        "post_text": pa.nulls(1),
        "comment_texts": pa.array([["one", "two"]], pa.large_list(pa.large_string())),
        "comment_scores": pa.array([[1.0, float("nan")]], pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    frame, report = load_writing_prompts(tmp_path / "p.parquet", tokenizer)
    assert frame["text"].tolist() == ["one"]
    assert report["removed"]["comment without votes"] == [0, 1]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("comment_scores", None),  # None: the column is not there
        ("post_title", [1, 2]),
        ("comment_texts", [[1] * 6, [2] * 6]),
        ("comment_scores", [["1"] * 6, ["2"] * 6]),
        ("comment_scores", [3, 4]),
    ],
)
def test_a_wrong_schema_is_refused_also_in_a_second_file(tmp_path, tokenizer, column, values):
    table = pq.read_table(small_posts(tmp_path / "a.parquet", posts=2))
    table = table.remove_column(table.column_names.index(column))
    if values is not None:
        table = table.append_column(column, pa.array(values))
    pq.write_table(table, tmp_path / "p.parquet")
    for source in (tmp_path, tmp_path / "p.parquet"):
        message = refusal(load_writing_prompts, source, tokenizer)
        assert str(source) in message and (column in message) == (values is None)


def test_sources_that_cannot_be_read_are_named(tmp_path, tokenizer, tiny):
    whole = small_posts(tmp_path / "whole.parquet").read_bytes()
    damaged = bytearray(whole)
    damaged[20:400] = bytes(380)
    gone = write_posts(tmp_path / "gone.parquet", [post("[WP] A", "", ["[removed]"], [1])])
    contents = {"text": b"no parquet", "cut": whole[: len(whole) // 2], "damaged": damaged}
    for name, content in contents.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
    (tmp_path / "empty").mkdir()
    for name in (*(f"{name}.parquet" for name in contents), "none.parquet", "empty", gone.name):
        assert name in refusal(load_writing_prompts, tmp_path / name, tokenizer)
    assert "network" in refusal(load_writing_prompts, WRITING_PROMPTS, tokenizer)
    bare = tiny[1]
    bare.chat_template = None
    assert "chat template" in refusal(load_writing_prompts, gone, bare)
