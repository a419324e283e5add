"""Rivals at inference time: local conditions in the endpoint's records, min-p, and one table for all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from teller import completion

from ddpo_utils import CourseError
from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.evaluation.rivals import rival_table, sample_local
from ddpo_utils.evaluation.usability import check_stories, prompt_table
from ddpo_utils.models.endpoint import sample_endpoint
from ddpo_utils.models.prompting import request
from ddpo_utils.models.sampling import read_samples, sample_stories

PROMPTS = pd.DataFrame(
    {"prompt_id": ["b", "a", "c"], "prompt": ["Sea.", "A clock 🙂 stops", "Nobody knows"]}
)
FAST = {"samples": 3, "max_new_tokens": 8, "batch_size": 4, "progress": False}


def local(tiny: tuple[Any, Any], path: Path, condition: str, **changes: Any) -> pd.DataFrame:
    return sample_local(*tiny, PROMPTS, path, condition, **{**FAST, **changes})


@pytest.mark.parametrize("condition", ["plain", "iterative", "verbalised"])
def test_local_records_are_those_of_an_endpoint(tiny, teller, tmp_path, condition):
    frame = local(tiny, tmp_path / "s.jsonl", condition, source="tiny")
    sample_endpoint(PROMPTS, tmp_path / "e.jsonl", "m", teller.url, condition, 3, progress=False)
    assert set(frame) == set(read_samples(tmp_path / "e.jsonl"))
    assert frame["prompt_id"].tolist() == ["b"] * 3 + ["a"] * 3 + ["c"] * 3
    assert frame["sample"].tolist() == [0, 1, 2] * 3 and (frame["source"] == "tiny").all()
    assert dict(zip(frame["prompt_id"], frame["prompt"], strict=True)) == dict(
        PROMPTS.itertuples(index=False)
    )
    pd.testing.assert_frame_equal(frame, read_samples(tmp_path / "s.jsonl"))


def test_plain_stories_are_those_of_sample_stories(tiny, tmp_path):
    frame = local(tiny, tmp_path / "s.jsonl", "plain")
    expected = sample_stories(*tiny, PROMPTS, tmp_path / "e.jsonl", **FAST)
    pd.testing.assert_frame_equal(frame[list(expected)], expected)
    texts = [
        tiny[1].apply_chat_template(
            [{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True
        )
        for p in PROMPTS["prompt"]
        for _ in range(3)
    ]
    assert frame["prompt_tokens"].tolist() == [
        len(tiny[1](t, add_special_tokens=False)["input_ids"]) for t in texts
    ]
    assert (
        frame["completion_tokens"].tolist() == expected["tokens"].tolist()
        and (frame["calls"] == 1).all()
    )


def test_each_local_round_carries_the_earlier_stories(tiny, tmp_path):
    frame = local(tiny, tmp_path / "s.jsonl", "iterative", samples=2, max_new_tokens=20)
    second = read_samples(tmp_path / "s.round2.jsonl").set_index("prompt_id")
    for prompt_id, prompt in PROMPTS.itertuples(index=False):
        first, other = frame.loc[frame["prompt_id"] == prompt_id, "text"]
        assert second["prompt"][prompt_id] == request(
            prompt, "iterative", earlier=[first] if first else []
        )
        assert second["text"][prompt_id] == other


def test_a_killed_local_run_goes_on_and_ends_with_the_same_file(tiny, tmp_path, monkeypatch):
    whole = local(tiny, tmp_path / "whole.jsonl", "iterative")
    generate, calls = tiny[0].generate, []

    def failing(**inputs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(**inputs)

    monkeypatch.setattr(tiny[0], "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        local(tiny, tmp_path / "s.jsonl", "iterative")
    assert not (tmp_path / "s.jsonl").exists()
    pd.testing.assert_frame_equal(local(tiny, tmp_path / "s.jsonl", "iterative"), whole)
    assert len(calls) == 4  # three rounds, one of them begun twice


def test_a_verbalised_answer_may_be_as_long_as_its_stories_together(tiny, tmp_path):
    frame = local(tiny, tmp_path / "s.jsonl", "verbalised")
    assert frame["completion_tokens"].max() > 8 and frame["completion_tokens"].max() <= 24
    assert (
        frame["unreadable"].mean() == 1.0 and frame["raw"].notna().sum() == 3
    )  # a random model keeps to no form
    assert frame["calls"].sum() == 3


def test_temperature_and_min_p_reach_the_model(tiny, tmp_path):
    """min-p 1 leaves the likeliest token alone, and so does a temperature near 0: every sample is the same."""
    for number, change in enumerate(({"min_p": 1.0}, {"temperature": 1e-4}, {})):
        frame = local(tiny, tmp_path / f"{number}.jsonl", "plain", **change)
        assert frame.groupby("prompt_id")["text"].nunique().max() == (3 if not change else 1)


@pytest.fixture(scope="module")
def written() -> pd.DataFrame:
    """Four authors' stories to six prompts as one source, and the same without the last one's text as another."""
    stories = load_stories()
    stories = stories[stories["source"] == "authors"].groupby("prompt_id").head(4)
    stories = stories[stories["prompt_id"].isin(stories["prompt_id"].unique()[:6])]
    frame = stories[["prompt_id", "prompt", "text"]].assign(
        sample=[0, 1, 2, 3] * 6, source="A", tokens=100, finished=True, run="x"
    )
    paid = {
        "calls": [1, 0, 0, 0] * 6,
        "prompt_tokens": [50, 0, 0, 0] * 6,
        "completion_tokens": [400, 0, 0, 0] * 6,
    }
    other = frame.assign(source="B", unreadable=frame["sample"] == 3, tokens=None, **paid)
    other.loc[other["unreadable"], "text"] = ""
    return pd.concat([frame, other], ignore_index=True)


def test_the_table_is_made_of_the_course_s_measures(written):
    table = rival_table(written)
    own = written[written["source"] == "A"]
    checks = check_stories(own)
    expected = prompt_table(own, checks, {"semantic": "minilm", "style": "stylometric"}).mean()
    for name in ("semantic", "style", "semantic (usable)", "style (usable)", "usable"):
        assert table.loc["A", name] == pytest.approx(expected[name])
    assert table.index.tolist() == ["A", "B"] and (table["stories"] == 24).all()
    assert table["unreadable"].tolist() == [0, 0.25] and table.loc["B", "short"] == pytest.approx(
        0.25, abs=0.05
    )
    assert table["calls"].tolist() == [24, 6]
    usable = table["usable"] * 24
    assert table.loc["A", "completion tokens per usable"] == pytest.approx(2400 / usable["A"])
    assert table.loc["B", "completion tokens per usable"] == pytest.approx(2400 / usable["B"])
    assert table.loc["B", "prompt tokens per usable"] == pytest.approx(300 / usable["B"])
    assert math.isnan(
        table.loc["A", "prompt tokens per usable"]
    )  # sample_stories does not record them


def test_without_a_usable_story_none_has_a_price(written):
    table = rival_table(written[written["source"] == "B"].assign(text=""))
    assert (
        table.loc["B", "usable"] == 0 and table.loc["B", "completion tokens per usable"] == math.inf
    )


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 1)])
def test_too_few_stories_are_refused(written, rows):
    with pytest.raises(CourseError, match="two stories"):
        rival_table(written[rows])


def test_endpoint_samples_go_straight_into_the_table(teller, tmp_path, written):
    texts = written.loc[written["source"] == "A", "text"].tolist()
    teller.answer = lambda body, number: (200, completion(texts[number]))
    prompts = written[["prompt_id", "prompt"]].drop_duplicates()
    for condition in ("plain", "iterative"):
        sample_endpoint(
            prompts,
            tmp_path / f"{condition}.jsonl",
            "m",
            teller.url,
            condition,
            concurrency=1,
            progress=False,
        )
        teller.requests.clear()
    table = rival_table(read_samples([tmp_path / "plain.jsonl", tmp_path / "iterative.jsonl"]))
    assert (
        table.index.tolist() == ["m plain", "m iterative"] and table.loc["m plain", "usable"] > 0.5
    )
