"""Tiny stories: their prompts, and the formula of their quality."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ddpo_utils.small_world.tiny_stories import (
    SPLITS,
    TYPICALITY,
    story_quality,
    tiny_prompts,
    typical_quality,
)

PROMPT = "A tiny story in two short sentences: a baker, a key and a forest."
GOOD = "The baker lost her key in the forest. An owl brought it back."
KNOWN = {*GOOD.lower().replace(".", "").split(), "a", "and", "he", "went", "home"}


def parts(text: str, finished: bool = True) -> pd.Series:
    story = pd.DataFrame({"prompt": [PROMPT], "text": [text], "finished": [finished]}, index=[7])
    return story_quality(story, KNOWN).loc[7]


def test_prompts_are_fixed_and_disjoint() -> None:
    frames = {split: tiny_prompts(split) for split in SPLITS}
    everything = pd.concat(frames.values())
    assert {split: len(frame) for split, frame in frames.items()} == SPLITS
    assert everything["prompt_id"].is_unique and everything["prompt"].is_unique
    pd.testing.assert_frame_equal(tiny_prompts("test"), frames["test"])
    for name, prompt in everything.itertuples(index=False):
        who, what, where = name.split("-")
        assert prompt.endswith(f": a {who}, a {what} and a {where}.")
        assert who[0] not in "aeiou" and what[0] not in "aeiou" and where[0] not in "aeiou"


def test_a_good_story_has_all_six_points() -> None:
    assert parts(GOOD).tolist() == [1, 1, 1, 1, 6]


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("", True, [0, 0, 0, 0]),
        (GOOD, False, [1, 0, 1, 1]),  # cut by the limit
        (GOOD.rstrip("."), True, [1, 0, 1, 1]),  # no end of a sentence
        (GOOD.split(". ")[0] + ".", True, [1, 0, 1, 1]),  # one sentence
        ("He went home. " * 5, True, [0, 0, 3 / 13, 1]),  # five, and one is repeated
        ("The keys of bakeries. Baker!", True, [2 / 3, 1, 1, 2 / 5]),  # a plural counts
        ("A baker, a key and a forest. He went.", True, [1 / 3, 1, 2 / 7, 1]),  # the prompt again
        ('"The baker went home." The key went "back."', True, [2 / 3, 1, 1, 1]),
    ],
)
def test_what_a_story_loses_points_for(text: str, finished: bool, expected: list[float]) -> None:
    found = parts(text, finished)
    assert found.tolist()[:4] == pytest.approx(expected)
    assert found["quality"] == pytest.approx(sum(expected) + expected[0] + expected[1])


def test_typicality_is_in_units_of_the_references_spread() -> None:
    quality, logps = np.array([3.0, 3.0]), np.array([-2.0, -1.0])
    found = typical_quality(quality, logps, mean=-2.0, sd=0.5)
    assert found.tolist() == pytest.approx([3.0, 3.0 + 2 * TYPICALITY])
