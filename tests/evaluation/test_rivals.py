"""Rivals at inference time: local conditions in the endpoint's records, min-p, and one table for all."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from teller import completion

from ddpo_utils import CourseError
from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.evaluation.rivals import rival_table
from ddpo_utils.evaluation.usability import check_stories, prompt_table
from ddpo_utils.models.endpoint import Endpoint, sample_endpoint
from ddpo_utils.models.sampling import read_samples


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
            Endpoint("m", teller.url, concurrency=1),
            condition,
            progress=False,
        )
        teller.requests.clear()
    table = rival_table(read_samples([tmp_path / "plain.jsonl", tmp_path / "iterative.jsonl"]))
    assert (
        table.index.tolist() == ["m plain", "m iterative"] and table.loc["m plain", "usable"] > 0.5
    )
