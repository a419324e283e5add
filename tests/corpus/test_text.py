"""Words, cuts, repetition and overlap by hand."""

from __future__ import annotations

import unicodedata

import pytest

from ddpo_utils import load_stories
from ddpo_utils.corpus.text import (
    first_words,
    prompt_overlap,
    repeat_share,
    same_text,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Don't stop—the LIGHT, 3 times. It’s over_there!",
            ["don't", "stop", "the", "light", "3", "times", "it’s", "over", "there"],
        ),
        ("🙂 ...", []),
        ("E\u0301te\u0301, d’e\u0301te\u0301", ["été", "d’été"]),
        ("हिन्दी की कहानी।", ["हिन्दी", "की", "कहानी"]),
        ("کتاب می\u200cخواهم", ["کتاب", "می\u200cخواهم"]),
        ("הַבַּיִת שָׁם", ["הַבַּיִת", "שָׁם"]),
        ("그 문은 닫혔다.", ["그", "문은", "닫혔다"]),
        ("那扇门 opens。", ["那", "扇", "门", "opens"]),
        ("ドアが", ["ド", "ア", "が"]),
        ("ที่นี่", ["ที่", "นี่"]),
    ],
)
def test_words_are_words_and_characters_where_no_spaces_are_written(text, expected):
    expected = [unicodedata.normalize("NFC", word) for word in expected]
    assert words(text) == expected
    assert len(words(first_words(text, 2))) == min(2, len(expected))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("caf\u00e9 noir", " cafe\u0301\u00a0 noir\n", True),
        ("a\u200bb\u200f", "ab", True),
        ("ｆｕｌｌ", "full", True),
        ("A door", "a door", False),
        ("a door", "adoor", False),
    ],
)
def test_texts_are_the_same_whatever_their_spacing_and_unicode_form(one, other, same):
    assert (same_text(one) == same_text(other)) is same


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
