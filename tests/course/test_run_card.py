"""The run card of your own data, and the form of a claim."""

from __future__ import annotations

import json

import pytest

from ddpo_utils import load_stories
from ddpo_utils.course.run_card import FEWEST, MOST, RUBRIC, claim_form, run_card
from ddpo_utils.settings import data_dir

OWN = data_dir() / "your_own"
GOOD = (
    "On six prompts with four samples each DDPO's responses lay 0.02 [-0.05, 0.09] further apart than those of the "
    "same training with shuffled weights, so that no effect of deviation is shown here; this is said of one short "
    "run on 22 pairs."
)


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


def test_the_run_card_says_what_was_done_and_no_path(tmp_path):
    example = load_stories(OWN / "example.jsonl")
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
    assert file.name in bare
