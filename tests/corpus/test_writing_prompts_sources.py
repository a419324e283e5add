"""r/writingPrompts from the Hub, files and folders, whole or drawn, with every fault in one sentence."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from awkward_posts import post, small_posts, write_posts
from faults import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils.corpus import posts
from ddpo_utils.corpus.posts import Counts, Post
from ddpo_utils.corpus.writing_prompts import load_writing_prompts
from ddpo_utils.settings import WRITING_PROMPTS

pytest_plugins = ["posts_fixtures"]


@pytest.fixture
def hub(awkward, monkeypatch, tmp_path):
    """The Hub's data set, read by the real `datasets` from the awkward file: only the network is replaced."""
    import datasets

    load = datasets.load_dataset

    def stand_in(name, split, streaming):
        assert name == WRITING_PROMPTS
        return load(
            "parquet",
            data_files=str(awkward),
            split=split,
            streaming=streaming,
            cache_dir=str(tmp_path),
        )

    monkeypatch.setattr(datasets, "load_dataset", stand_in)


@pytest.mark.parametrize("prompts", [0, 9])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_gives_the_same_whole_and_streaming(hub, awkward, tokenizer, streaming, prompts):
    frame, report = load_writing_prompts(
        WRITING_PROMPTS, tokenizer, prompts=prompts, streaming=streaming
    )
    local, same = load_writing_prompts(awkward, tokenizer, prompts=prompts)
    pd.testing.assert_frame_equal(frame, local)
    assert report == {**same, "source": WRITING_PROMPTS}


@pytest.mark.parametrize("size", [1, 7, 30])
def test_batches_and_files_do_not_matter(awkward, loaded, tokenizer, tmp_path, monkeypatch, size):
    rows = pq.read_table(awkward)
    (tmp_path / "data").mkdir()
    for number, start in enumerate(range(0, len(rows), 50)):
        pq.write_table(rows.slice(start, 50), tmp_path / "data" / f"train-{number:05d}.parquet")
    monkeypatch.setattr(posts.batches, "__defaults__", (size,))
    monkeypatch.setattr(posts, "BATCH", size)
    frame, report = load_writing_prompts(tmp_path, tokenizer, progress=False)
    pd.testing.assert_frame_equal(frame, loaded[0])
    assert {**report, "source": ""} == {**loaded[1], "source": ""}


def test_large_types_and_a_column_of_nulls_are_read(tmp_path, tokenizer):
    table = pa.table(
        {
            "post_title": pa.array(["[WP] A"], pa.large_string()),
            "post_text": pa.nulls(1),
            "comment_texts": pa.array([["one", "two"]], pa.large_list(pa.large_string())),
            "comment_scores": pa.array([[1.0, float("nan")]], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    frame, report = load_writing_prompts(tmp_path / "p.parquet", tokenizer, progress=False)
    assert frame["text"].tolist() == ["one"] and report["removed"]["comment without votes"] == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("post_title", None, "no column 'post_title'"),
        ("post_text", None, "no column 'post_text'"),
        ("comment_texts", None, "no column 'comment_texts'"),
        ("comment_scores", None, "no column 'comment_scores'"),
        ("post_title", [1, 2], "'post_title' of p.parquet holds int64 in place of text"),
        (
            "comment_texts",
            ["one", "two"],
            "'comment_texts' of p.parquet holds string in place of lists of text",
        ),
        (
            "comment_texts",
            [[1], [2]],
            "'comment_texts' of p.parquet holds .* in place of lists of text",
        ),
        (
            "comment_scores",
            [["1"], ["2"]],
            "'comment_scores' of p.parquet holds .* in place of lists of numbers",
        ),
        (
            "comment_scores",
            [3, 4],
            "'comment_scores' of p.parquet holds int64 in place of lists of numbers",
        ),
    ],
)
@pytest.mark.parametrize("second", [False, True])
def test_a_wrong_schema_names_the_column(tmp_path, tokenizer, column, values, message, second):
    table = pq.read_table(small_posts(tmp_path / "a.parquet", posts=2))
    place = table.column_names.index(column)
    table = (
        table.remove_column(place)
        if values is None
        else table.set_column(place, column, pa.array(values))
    )
    pq.write_table(table, tmp_path / "p.parquet")
    said = refusal(load_writing_prompts, tmp_path if second else tmp_path / "p.parquet", tokenizer)
    assert re.search(message, said)


def test_sources_that_cannot_be_read(tmp_path, tokenizer):
    def said(source):
        return refusal(load_writing_prompts, source, tokenizer)

    assert "no parquet file" in said(tmp_path / "none.parquet")
    assert "no parquet file" in said(tmp_path)
    (tmp_path / "text.parquet").write_text("not parquet", encoding="utf-8")
    assert "text.parquet cannot be read (ArrowInvalid): check the file" in said(
        tmp_path / "text.parquet"
    )
    whole = small_posts(tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in said(tmp_path / "cut.parquet")
    damaged = bytearray(whole)
    damaged[20:400] = bytes(380)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    assert "cannot be read" in said(tmp_path / "damaged.parquet")
    assert "connect to a network" in said(WRITING_PROMPTS)
    gone = write_posts(tmp_path / "gone.parquet", [post("[WP] A", "", ["[removed]"], [1])])
    assert "No response of gone.parquet is left" in said(gone)


def test_a_tokenizer_without_a_template_is_refused(awkward, tiny):
    _, tokenizer = tiny
    tokenizer.chat_template = None
    assert "no chat template" in refusal(load_writing_prompts, awkward, tokenizer)


# ---- the draw -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [2048, 150])
def test_a_draw_keeps_as_many_posts_as_asked_for(awkward, tokenizer, max_length):
    whole, full = load_writing_prompts(awkward, tokenizer, max_length, progress=False)
    drawn = {}
    for number in (1, 4, 10, full["left"][0], 1000):
        frame, report = load_writing_prompts(
            awkward, tokenizer, max_length, prompts=number, progress=False
        )
        drawn[number] = set(frame["prompt_id"])
        assert report["left"][0] == len(drawn[number]) == min(number, full["left"][0])
        for n in (0, 1):
            assert (
                report["read"][n] - sum(pair[n] for pair in report["removed"].values())
                == report["left"][n]
            )
        columns = ["prompt_id", "prompt", "text", "score"]
        expected = whole.loc[whole["prompt_id"].isin(drawn[number]), columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame[columns], expected)
    assert drawn[1] < drawn[4] < drawn[10] < drawn[1000] == set(whole["prompt_id"])
    other, _ = load_writing_prompts(
        awkward, tokenizer, max_length, prompts=10, seed=1, progress=False
    )
    assert set(other["prompt_id"]) != drawn[10]


def fake_posts(fates: list[int]) -> list[Post]:
    """Posts of 3 responses; fate 0 is no post at all, 1 one whose responses are all too long, 2 a good one."""
    return [
        Post(i, "t", "p", [("a", 1.0), ("b", 2.0), ("c", 3.0)])
        for i, fate in enumerate(fates)
        if fate
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    fates=st.lists(st.integers(0, 2), max_size=60),
    number=st.integers(1, 20),
    seed=st.integers(0, 9),
    size=st.sampled_from([1, 4, 100]),
)
def test_the_draw_takes_the_smallest_numbers(fates, number, seed, size):
    measured = []

    def shorten(batch):
        measured.extend(batch)
        for one in batch:
            if fates[one.place] == 1:
                one.responses, one.long = [], 3

    counts = Counts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posts.batches, "__defaults__", (size,))
        got = posts.draw(fake_posts(fates), shorten, number, seed, counts)
    tickets = np.random.default_rng(seed).random(len(fates))
    good = sorted((i for i, fate in enumerate(fates) if fate == 2), key=lambda i: tickets[i])[
        :number
    ]
    limit = tickets[good[-1]] if len(good) == number else 1.0
    bad = [i for i, fate in enumerate(fates) if fate == 1 and tickets[i] <= limit]
    assert [one.place for one in got] == sorted([*good, *bad])
    left_out = sum(fate > 0 for fate in fates) - len(good) - len(bad)
    assert counts.removed["post not drawn"] == [left_out, 3 * left_out]
    assert {one.place for one in got} <= {one.place for one in measured}


def test_every_post_is_drawn_equally_often(monkeypatch):
    monkeypatch.setattr(posts.batches, "__defaults__", (3,))
    hits = np.zeros(20)
    for seed in range(2000):
        got = [
            one.place
            for one in posts.draw(fake_posts([2] * 20), lambda batch: None, 5, seed, Counts())
        ]
        assert got == sorted(np.random.default_rng(seed).random(20).argsort()[:5])
        hits[got] += 1
    assert ((hits > 400) & (hits < 600)).all()  # 500 expected, standard deviation 19


def test_only_posts_in_the_running_are_tokenised(monkeypatch):
    monkeypatch.setattr(posts.batches, "__defaults__", (10,))
    measured = []
    posts.draw(fake_posts([2] * 1000), measured.extend, 10, 0, Counts())
    assert 10 <= len(measured) < 200
