"""The audit of one's own data, the bundled example with its planted faults, and the run card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ddpo_utils import CourseError, load_stories, make_pairs
from ddpo_utils.corpus.audit import audit_prompts, copies, explained, most_pairs
from ddpo_utils.corpus.text import repeat_share
from ddpo_utils.course.run_card import FEWEST, MOST, RUBRIC, claim_form, run_card
from ddpo_utils.settings import data_dir

OWN = data_dir() / "your_own"
GOOD = (
    "On six prompts with four samples each DDPO's responses lay 0.02 [-0.05, 0.09] further apart than those of the "
    "same training with shuffled weights, so that no effect of deviation is shown here; this is said of one short "
    "run on 22 pairs."
)


@pytest.fixture(scope="module")
def example() -> pd.DataFrame:
    return load_stories(OWN / "example.jsonl")


def test_the_example_is_what_its_card_says(example):
    train, test = (example[example["split"] == part] for part in ("train", "test"))
    assert train.groupby("prompt_id").size().tolist() == [8] * 6
    assert test.groupby("prompt_id").size().tolist() == [2] * 6
    assert example["text"].str.split().str.len().between(40, 70).all()
    assert train["writer"].nunique() == 8 and example["score"].between(1, 10).all()
    planted = train[copies(train) | train["text"].map(repeat_share).gt(0.2)]
    assert planted[["prompt_id", "writer"]].to_numpy().tolist() == [["o2", "w3"], ["o4", "w8"]]
    assert (
        "jam"
        in example[(example["prompt_id"] == "o6") & (example["writer"] == "w5")]["text"].iloc[0]
    )


def test_the_template_is_read_and_asks_for_its_scores():
    template = load_stories(OWN / "template.jsonl")
    assert template.groupby("split").size().to_dict() == {"test": 2, "train": 8}
    with pytest.raises(CourseError, match="has no score"):
        make_pairs(template[template["split"] == "train"])


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
    frame = load_stories(named.assign(prompt=named["prompt_id"] + "?"))
    table = audit_prompts(frame)
    assert table.index.tolist() == ["q2", "q1"]
    assert table.loc["q2"].to_dict() == {
        "responses": 4,
        "writers": 2,
        "copies": 1,
        "shortest": 1,
        "longest": 3,
        "tied": 2,
        "unscored": 1,
        "pairs": 1,
    }
    assert table.loc["q1", ["copies", "longest", "tied", "pairs"]].tolist() == [0, 4, 0, 1]
    assert copies(frame).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("seed", range(6))
def test_most_pairs_is_never_less_than_what_is_drawn_and_is_reached(seed):
    scores = np.random.default_rng(seed).integers(1, 5, 9)
    frame = load_stories(
        pd.DataFrame({"prompt": "p", "text": [f"t{i}" for i in range(9)], "score": scores})
    )
    drawn = [len(make_pairs(frame, seed=again)) for again in range(30)]
    assert max(drawn) == most_pairs(scores)


@pytest.mark.parametrize(
    ("scores", "pairs"),
    [([], 0), ([5], 0), ([5, 5], 0), ([5, 6], 1), ([5, 5, 5, 6, 7, 5, 5, 8], 3)],
)
def test_most_pairs_of_the_smallest_sets(scores, pairs):
    assert most_pairs(scores) == pairs


def test_explained_tells_the_writer_from_chance():
    rng = np.random.default_rng(0)
    groups, writer = np.repeat(np.arange(6), 8), np.tile(list("abcdefgh"), 6)
    noise = rng.uniform(0, 2, 48)
    share, chance = explained(np.tile(np.arange(8.0), 6), writer, groups)
    assert share == pytest.approx(1) and chance < 0.5
    share, chance = explained(noise, writer, groups)
    assert share < chance < 1
    length = 30 + 10 * noise
    assert explained(noise, length, groups)[0] == pytest.approx(1)
    assert (
        explained(noise, np.full(48, 60), groups) == (0, 0)
        and explained(np.ones(48), length, groups)[0] == 0
    )


def test_explained_leaves_out_what_has_no_weight_and_deals_within_prompts():
    weight = np.array([1.0, 2.0, np.nan, 5.0, 6.0, np.nan, 9.0, 10.0])
    named = np.array(["p", "p", "x", "q", "q", "y", "r", "r"])
    share, chance = explained(weight, named, named)
    assert share == pytest.approx(128 / 131) and chance == pytest.approx(
        share
    )  # a deal within prompts moves no mean
    with pytest.raises(ValueError, match="There are 2 weights, 3 values and 2 groups"):
        explained([1, 2], [1, 2, 3], [1, 1])


@pytest.mark.parametrize(
    ("claim", "lacks"),
    [
        (GOOD, []),
        (GOOD.replace("[-0.05, 0.09]", "±0.07"), []),
        (GOOD.replace("[-0.05, 0.09]", "(from −0.05 to 0.09)"), []),
        (GOOD.replace("[-0.05, 0.09]", "clearly"), ["no interval"]),
        (GOOD.replace("shuffled weights", "other weights"), ["names no control"]),
        (GOOD + " word" * MOST, [f"{FEWEST} to {MOST}"]),
        (GOOD.replace("; this", ".\n\nThis"), ["more than one paragraph"]),
        ("DDPO is better.", [r"has 3 words", "no interval", "names no control"]),
    ],
)
def test_the_form_of_a_claim(claim, lacks):
    said = claim_form(claim)
    assert len(said) == len(lacks) and all(
        part in sentence for part, sentence in zip(lacks, said, strict=True)
    )


def test_the_run_card_says_what_was_done_and_no_path(example, tmp_path):
    runs = json.loads((data_dir() / "results" / "runs.json").read_text(encoding="utf-8"))
    records = {
        arm: json.loads((data_dir() / "adapters" / arm / "run.json").read_text(encoding="utf-8"))
        for arm in ("sft", "dpo", "ddpo")
    }
    assert runs["arms"].keys() >= records.keys()
    file = tmp_path / "mine.jsonl"
    file.write_bytes((OWN / "example.jsonl").read_bytes())
    points = dict.fromkeys(RUBRIC, 1) | {"limit": None}
    given = (
        file,
        example,
        {10: "repeating"},
        {"both: writer": (0.35, 0.25)},
        records,
        {"quality": "quality not measured"},
    )
    card = run_card(*given, table="| a | b |", claim=GOOD, points=points)
    assert str(tmp_path) not in card and "SHA-256" in card and "| train | 6 | 48 |" in card
    assert (
        "Left out of training: 1\n\n- row 10 (o2): repeating" in card
        and "| both: writer | 35% | 25% |" in card
    )
    effective = f"{records['ddpo']['effective_pairs']:.2f}"
    assert f"| ddpo | {records['ddpo']['pairs']} | {effective} |" in card
    assert "- quality not measured" in card and "| a | b |" in card and f"> {GOOD}" in card
    assert card.count("| 1 |") >= 3 and f"| {RUBRIC['limit']} | not scored |" in card
    bare = run_card(*given[:2], {}, *given[3:])
    assert (
        "Left out of training: 0\n" in bare
        and "None yet." in bare
        and "## Measured\n\nNothing." in bare
    )
    assert Path(file).name in bare
