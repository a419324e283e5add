"""The audit of your own data, and the bundled example with its planted faults."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ddpo_utils import load_stories, make_pairs
from ddpo_utils.corpus.audit import audit_prompts, copies, explained, most_pairs
from ddpo_utils.corpus.text import repeat_share
from ddpo_utils.settings import data_dir


def test_the_example_is_what_its_card_says():
    example = load_stories(data_dir() / "your_own" / "example.jsonl")
    train, test = (example[example["split"] == part] for part in ("train", "test"))
    assert train.groupby("prompt_id").size().tolist() == [8] * 6
    assert test.groupby("prompt_id").size().tolist() == [2] * 6
    assert example["text"].str.split().str.len().between(40, 70).all()
    assert train["writer"].nunique() == 8 and example["score"].between(1, 10).all()
    planted = train[copies(train) | train["text"].map(repeat_share).gt(0.2)]
    assert planted[["prompt_id", "writer"]].values.tolist() == [["o2", "w3"], ["o4", "w8"]]
    jam = example[example["text"].str.contains("jam")][["prompt_id", "writer"]].values.tolist()
    assert ["o6", "w5"] in jam


def test_audit_counts_what_a_prompt_brings():
    rows = [
        ("q2", "b", "One two three.", 5),
        ("q1", "a", "Four five six seven!", 2),
        ("q2", "b", " one, TWO three", 5),
        ("q2", "c", "Eight.", None),
        ("q1", "a", "One two three.", 4),
        ("q2", "c", "Nine ten.", 3),
    ]
    named = pd.DataFrame(rows, columns=["prompt_id", "writer", "text", "score"])
    frame = named.assign(prompt=named["prompt_id"] + "?")
    table = audit_prompts(frame)
    columns = ["responses", "writers", "copies", "shortest", "longest", "tied", "unscored", "pairs"]
    assert table.columns.tolist() == columns and table.index.tolist() == ["q2", "q1"]
    assert table.values.tolist() == [[4, 2, 1, 1, 3, 2, 1, 1], [2, 1, 0, 3, 4, 0, 0, 1]]
    assert copies(frame).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("seed", range(6))
def test_most_pairs_is_never_less_than_what_is_drawn_and_is_reached(seed):
    scores = np.random.default_rng(seed).integers(1, 5, 9)
    texts = [f"t{i}" for i in range(9)]
    frame = load_stories(pd.DataFrame({"prompt": "p", "text": texts, "score": scores}))
    assert max(len(make_pairs(frame, seed=draw)) for draw in range(30)) == most_pairs(scores)
    assert most_pairs([]) == most_pairs([5]) == most_pairs([5, 5]) == 0


def test_explained_tells_the_writer_from_chance_and_deals_within_prompts():
    groups, writer = np.repeat(np.arange(6), 8), np.tile(list("abcdefgh"), 6)
    noise = np.random.default_rng(0).uniform(0, 2, 48)
    share, chance = explained(np.tile(np.arange(8.0), 6), writer, groups)
    assert share == pytest.approx(1) and chance < 0.5
    share, chance = explained(noise, writer, groups)
    assert share < chance < 1
    length = 30 + 10 * noise
    assert explained(noise, length, groups)[0] == pytest.approx(1)
    assert explained(noise, np.full(48, 60), groups) == (0, 0)
    assert explained(np.ones(48), length, groups)[0] == 0

    weight = np.array([1.0, 2.0, np.nan, 5.0, 6.0, np.nan, 9.0, 10.0])  # NaN: left out
    named = np.array(["p", "p", "x", "q", "q", "y", "r", "r"])
    share, chance = explained(weight, named, named)
    assert share == pytest.approx(128 / 131)
    assert chance == pytest.approx(share)  # a deal within prompts moves no mean
    with pytest.raises(ValueError, match="2 weights, 3 values and 2 groups"):
        explained([1, 2], [1, 2, 3], [1, 1])
