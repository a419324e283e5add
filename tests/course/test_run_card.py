"""The run card, and the form of the claim on it."""

from __future__ import annotations

import pytest

from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.course.run_card import MOST, RUBRIC, Claim, claim_form, run_card
from ddpo_utils.settings import data_dir
from ddpo_utils.storage.files import read_json

GOOD = (
    "On six prompts with four samples each DDPO's responses lay 0.02 [-0.05, 0.09] further apart "
    "than those of the same training with shuffled weights, so that no effect of deviation is "
    "shown here; this is said of one short run on 22 pairs."
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GOOD, []),
        (GOOD.replace("[-0.05, 0.09]", "±0.07"), []),
        (GOOD.replace("[-0.05, 0.09]", "(from −0.05 to 0.09)"), []),
        (GOOD.replace("[-0.05, 0.09]", "clearly"), ["interval"]),
        (GOOD.replace("shuffled weights", "other weights"), ["control"]),
        (GOOD + " word" * MOST, [f"to {MOST}"]),
        (GOOD.replace("; this", ".\n\nThis"), ["paragraph"]),
        ("DDPO is better.", ["3 words", "interval", "control"]),
    ],
)
def test_the_form_of_a_claim(text, parts):
    lacks = claim_form(text)
    assert len(lacks) == len(parts)
    assert all(part in sentence for part, sentence in zip(parts, lacks, strict=True))


def test_the_run_card_holds_the_records_and_no_path(tmp_path):
    example = data_dir() / "your_own" / "example.jsonl"
    stories = load_stories(example)
    file = tmp_path / "mine.jsonl"
    file.write_bytes(example.read_bytes())
    adapters = data_dir() / "adapters"
    records = {arm: read_json(adapters / arm / "run.json") for arm in ("sft", "dpo", "ddpo")}
    shares, results = {"both: writer": (0.35, 0.25)}, {"quality": "quality not measured"}
    claim = Claim(GOOD, dict.fromkeys(RUBRIC, 1) | {"limit": None})
    left_out = {10: "repeating"}
    card = run_card(file, stories, left_out, shares, records, results, "| a | b |", claim)
    assert str(tmp_path) not in card
    effective = f"{records['ddpo']['effective_pairs']:.2f}"
    for part in (
        "mine.jsonl, SHA-256 ",
        "| train | 6 | 48 |",
        "Left out of training: 1\n\n- row 10 (o2): repeating",
        "| both: writer | 35% | 25% |",
        f"| ddpo | {records['ddpo']['pairs']} | {effective} |",
        "- quality not measured",
        "| a | b |",
        f"> {GOOD}",
        f"| {RUBRIC['limit']} | not scored |",
        f"| {RUBRIC['evidence']} | 1 |",
    ):
        assert part in card
    evil = "<img src=x onerror=alert(1)>"
    stories = stories.assign(prompt_id=evil, split=evil)
    (tmp_path / evil[:9]).write_bytes(b"")
    hostile = Claim(evil)
    card = run_card(
        tmp_path / evil[:9], stories, {10: evil}, {evil: (0, 0)}, records, results, "", hostile
    )
    assert "<img" not in card and card.count("&#60;img") == 6 and "&lt;img" in card
    bare = run_card(file, load_stories(example), {}, shares, records, results)
    for part in ("Left out of training: 0\n", "None yet.", "## Measured\n\nNothing."):
        assert part in bare
