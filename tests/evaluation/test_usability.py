"""Failures of stories, relevance, and tables by prompt and by source, with known answers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from evaluated import POOL, THRESHOLDS

from ddpo_utils import CourseError, diversity, get_profile, load_encoder, load_stories
from ddpo_utils.corpus.stories import decisions
from ddpo_utils.corpus.text import first_words
from ddpo_utils.evaluation.usability import (
    Thresholds,
    check_stories,
    prompt_table,
    rival_table,
    unfit_rules,
)

ENCODERS = {"semantic": "wordllama", "style": "delta"}


def test_each_failure_has_its_column():
    good = load_stories().query("source == 'assistant'").iloc[0]
    texts = [good["text"], "", "Too short.", "the light again and " * 20, good["text"]]
    frame = pd.DataFrame({"prompt": good["prompt"], "text": texts}, index=[9, 8, 7, 6, 5])
    finished, logp = [True, True, True, True, False], [-2.0, -2.0, -2.0, -2.0, -9.0]
    full = frame.assign(finished=finished, logp=logp)
    checks = check_stories(full, THRESHOLDS, POOL, "wordllama", (-4.0, -1.0))
    assert checks.index.tolist() == [9, 8, 7, 6, 5]
    failing = {"short": [8, 7], "repeating": [6], "cut": [5], "implausible": [5], "usable": [9]}
    for name, index in failing.items():
        assert checks.index[checks[name]].tolist() == index, name
    assert checks["n_words"].tolist()[1:3] == [0, 2]
    unknown = check_stories(frame, THRESHOLDS, POOL, "wordllama")  # no failure without a record
    assert not unknown["cut"].any() and not unknown["implausible"].any() and unknown["usable"][5]


@pytest.mark.parametrize("size", [30, 70])
def test_a_pool_of_any_size_is_as_strict_as_the_seventy(size):
    """Of P prompts the nearest 1 + 19 (P - 1) / 69 count: 20 of 70, 8 of 30."""
    stories = load_stories().query("source == 'assistant'").drop_duplicates("prompt_id")
    pool = POOL if size == 70 else stories["prompt"].tolist()
    swapped = stories.assign(text=np.roll(stories["text"], 7))
    model = load_encoder("wordllama")
    cosines = model.encode(swapped["text"].tolist()) @ model.encode(pool).T
    own = [pool.index(prompt) for prompt in stories["prompt"]]
    ranks = [1 + (row > row[place]).sum() for row, place in zip(cosines, own, strict=True)]
    checks = check_stories(swapped, THRESHOLDS, pool, "wordllama")
    assert checks["rank"].tolist() == ranks and max(ranks) <= size == len(set(pool))
    assert (checks["off_topic"] == (checks["rank"] > 1 + 19 * (size - 1) / 69)).all()
    right = check_stories(stories, THRESHOLDS, pool, "wordllama")
    assert right["off_topic"].mean() < 0.2 < 0.5 < checks["off_topic"].mean()


def test_a_rule_that_does_not_fit_the_data_is_named_with_its_setting():
    texts = [f"A comment of few words, number {i}." for i in range(8)] + ["word " * 40] * 2
    frame = pd.DataFrame({"prompt": "A prompt.", "text": texts})
    checks = check_stories(frame, THRESHOLDS, [], "wordllama")
    unfit = unfit_rules(checks, THRESHOLDS)  # two of ten repeat: a fifth, and not more
    assert list(unfit) == ["short"]
    assert all(part in unfit["short"] for part in ("'short'", "8 of 10", "min_words", "15"))
    lenient = THRESHOLDS.without(unfit)
    assert not check_stories(frame, lenient, [], "wordllama")["short"].any()
    assert lenient.without(["repeating", "off_topic"]).on_topic_rank == 70
    settings = get_profile("laptop", min_words=4)
    assert Thresholds.read(decisions(), settings).min_words == 4
    assert Thresholds.read(decisions(), get_profile("laptop")) == THRESHOLDS


@pytest.mark.parametrize("value", [None, "0.2", -1, np.nan])
def test_faulty_thresholds_are_refused_by_name(value):
    with pytest.raises(CourseError, match="min_words"):
        Thresholds.read(decisions() | {"min_words": value})


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("text", ["One.", None]),
        ("logp", [-1.0, np.nan]),
        ("prompt", None),
    ],
)
def test_stories_without_texts_or_log_probs_are_refused(column, values):
    frame = pd.DataFrame({"prompt": "p", "text": ["One.", "Two."], "logp": -2.0})
    frame[column] = values
    if values is None:
        frame = frame.drop(columns=column)
    with pytest.raises(CourseError):
        check_stories(frame, THRESHOLDS, [], "wordllama", (-4.0, -1.0))


def test_the_table_holds_diversity_over_all_and_over_usable_stories():
    stories = load_stories().query("source == 'authors' and prompt_id in ['p02', 'p01']")[::-1]
    checks = check_stories(stories, THRESHOLDS, POOL, "wordllama")
    checks["usable"] = (np.arange(len(stories)) % 12 < 5) & (stories["prompt_id"] == "p01")
    checks.loc[checks.index[0], "usable"] = True  # a single one of p02: no diversity
    table = prompt_table(stories, checks, ENCODERS)
    short = prompt_table(stories, checks.assign(usable=False), ENCODERS, cut_to=25)
    groups = stories["prompt_id"].to_numpy()
    assert table.index.tolist() == ["p01", "p02"]
    for name, encoder in ENCODERS.items():
        rows = load_encoder(encoder).encode(stories["text"].tolist())
        cut = load_encoder(encoder).encode([first_words(text) for text in stories["text"]])
        assert table[name].tolist() == pytest.approx(diversity(rows, groups).tolist())
        assert short[name].tolist() == pytest.approx(diversity(cut, groups).tolist())
        good = checks["usable"].to_numpy() & (groups == "p01")
        assert table.loc["p01", f"{name} (usable)"] == pytest.approx(diversity(rows[good]))
        assert np.isnan(table.loc["p02", f"{name} (usable)"])
        assert short[f"{name} (usable)"].isna().all()
    assert table["usable"].tolist() == pytest.approx([5 / 12, 1 / 12])
    assert table.loc["p01", "words"] == checks.loc[groups == "p01", "n_words"].mean()
    assert table.loc["p02", "top1"] == (checks.loc[groups == "p02", "rank"] == 1).mean()


@pytest.fixture(scope="module")
def written() -> pd.DataFrame:
    """Four authors' stories to six prompts as source A; as B the same without the last text."""
    stories = load_stories().query("source == 'authors'").groupby("prompt_id").head(4)
    stories = stories[stories["prompt_id"].isin(stories["prompt_id"].unique()[:6])]
    frame = stories[["prompt_id", "prompt", "text"]].assign(
        sample=[0, 1, 2, 3] * 6, source="A", tokens=100, finished=True
    )
    other = frame.assign(source="B", unreadable=frame["sample"] == 3, tokens=None)
    for name, first in (("calls", 1), ("prompt_tokens", 50), ("completion_tokens", 400)):
        other[name] = [first, 0, 0, 0] * 6
    other.loc[other["unreadable"], "text"] = ""
    return pd.concat([frame, other], ignore_index=True)


def test_sources_are_compared_at_their_price(written):
    table = rival_table(written, THRESHOLDS, POOL, ENCODERS)
    own = written[written["source"] == "A"]
    expected = prompt_table(own, check_stories(own, THRESHOLDS, POOL), ENCODERS).mean()
    names = [f"{name}{part}" for name in ENCODERS for part in ("", " (usable)")]
    for name in (*names, "usable"):
        assert table.loc["A", name] == pytest.approx(expected[name])
    assert table.index.tolist() == ["A", "B"] and (table["stories"] == 24).all()
    assert table["unreadable"].tolist() == [0, 0.25]
    assert table.loc["B", "short"] == pytest.approx(0.25, abs=0.05)
    assert table["calls"].tolist() == [24, 6]
    usable, paid = table["usable"] * 24, table["completion tokens per usable"]
    assert (paid * usable).tolist() == pytest.approx([2400, 2400])
    assert table.loc["B", "prompt tokens per usable"] == pytest.approx(300 / usable["B"])
    assert math.isnan(table.loc["A", "prompt tokens per usable"])  # not recorded
    empty = rival_table(own.assign(text=""), THRESHOLDS, POOL, ENCODERS)
    assert empty.loc["A", "completion tokens per usable"] == math.inf
    for rows in (slice(0, 0), slice(0, 1)):  # too few stories of a source
        with pytest.raises(CourseError):
            rival_table(written[rows], THRESHOLDS, POOL, ENCODERS)
