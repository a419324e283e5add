"""Words, cuts, repetition and overlap by hand."""

from __future__ import annotations

import pytest

from ddpo_utils import load_stories
from ddpo_utils.corpus.text import first_words, prompt_overlap, repeat_share, words


def test_words_are_words():
    told = ["don't", "stop", "the", "light", "3", "times", "it’s", "over", "there"]
    assert words("Don't stop—the LIGHT, 3 times. It’s over_there!") == told
    assert words("🙂 ...") == []


def test_texts_are_cut_after_whole_words():
    assert first_words("One, two; three. Four!", 3) == "One, two; three"
    assert first_words("One, two!", 2) == first_words("One, two!", 9) == "One, two!"
    assert first_words("", 3) == ""
    assert len(words(first_words(load_stories()["text"].iloc[0]))) == 25


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b c d e", 0),
        ("a b c d a b c d", 1 / 5),  # five 4-word runs, one seen before
        ("A b, c. D a B c d", 1 / 5),  # case and points do not matter
        ("too short", 0),
        ("", 0),
    ],
)
def test_repetition_by_hand(text, share):
    assert repeat_share(text) == pytest.approx(share)


def test_overlap_with_the_prompt_by_hand():
    assert prompt_overlap("The light of the sea", "the sea") == pytest.approx(3 / 5)
    assert prompt_overlap("", "the sea") == 0 and prompt_overlap("the sea", "The sea!") == 1
