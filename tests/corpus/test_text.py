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
        ("那扇门 opens门。", ["那", "扇", "门", "opens", "门"]),
        ("ドアが", ["ド", "ア", "が"]),
        ("ที่นี่", ["ที่", "นี่"]),
    ],
)
def test_words_are_words_and_characters_where_no_spaces_are_written(text, expected):
    expected = [unicodedata.normalize("NFC", word) for word in expected]
    assert words(text) == expected
    assert len(words(first_words(text, 2))) == min(2, len(expected))


def test_texts_are_the_same_whatever_their_spacing_and_unicode_form():
    for one, other in (("caf\u00e9 noir", " cafe\u0301\u00a0 noir\n"), ("a\u200bb\u200f", "ab")):
        assert same_text(one) == same_text(other)
    assert same_text("ｆｕｌｌ") == "full"
    assert len({same_text(text) for text in ("A door", "a door", "adoor")}) == 3


def test_texts_are_cut_after_whole_words():
    assert first_words("One, two; three. Four!", 3) == "One, two; three"
    assert first_words("One, two!", 2) == first_words("One, two!", 9) == "One, two!"
    assert first_words("", 3) == ""
    assert len(words(first_words(load_stories()["text"].iloc[0]))) == 25


def test_repetition_and_overlap_with_the_prompt_by_hand():
    assert repeat_share("a b c d e") == repeat_share("too short") == repeat_share("") == 0
    # five 4-word runs, one seen before; case and points do not matter
    for text in ("a b c d a b c d", "A b, c. D a B c d"):
        assert repeat_share(text) == pytest.approx(1 / 5)
    assert prompt_overlap("The light of the sea", "the sea") == pytest.approx(3 / 5)
    assert prompt_overlap("", "the sea") == 0 and prompt_overlap("the sea", "The sea!") == 1
