"""Compression ratio and self-BLEU equal gzip and sacrebleu."""

from __future__ import annotations

import gzip
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpo_utils import CourseError, load_stories
from ddpo_utils.corpus.text import words
from wording import compression_ratio, self_bleu

# few words, so that they repeat; some texts are shorter than four words
TEXT = st.lists(
    st.sampled_from(["sea", "Light", "don't", "the", "a", "é", "7"]), min_size=1, max_size=12
).map(" ".join)


def library_bleu(texts: list[str]) -> float:
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    plain = [" ".join(words(text)) for text in texts]
    scores = []
    for i, text in enumerate(plain):
        scores.append(bleu.sentence_score(text, plain[:i] + plain[i + 1 :]).score)
    return float(np.mean(scores)) / 100


@given(st.lists(TEXT, min_size=2, max_size=6))
def test_self_bleu_is_sacrebleus(texts):
    assert self_bleu(texts) == pytest.approx(library_bleu(texts), abs=1e-12)


def test_wording_of_known_sets():
    stories = load_stories()["text"].tolist()[:6]
    raw = "\n".join(stories).encode()
    assert compression_ratio(stories) == len(raw) / len(gzip.compress(raw, 9))
    assert compression_ratio(["broken \ud83d half", "whole"]) > 0
    assert self_bleu(["The sea, the sea"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h", "i j k l m"]) == 0
    assert self_bleu(["(The sea) don't -- sleep...", "The LIGHT!"]) == self_bleu(
        ["the sea don't sleep", "the light"]
    )
    nfc = ["Café fermé!"] * 2
    assert compression_ratio(nfc) == compression_ratio(
        [unicodedata.normalize("NFD", nfc[0]), nfc[1]]
    )


@pytest.mark.parametrize("measure", [compression_ratio, self_bleu])
@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ([], ""),
        (["one text"], ""),
        ("a bare string", ""),
        (["the sea", " \n", "light"], "1"),
        (["the sea", None], "1"),
        ([b"the sea", "light"], "0"),
        (["the sea", "🙂 …"], "1"),
    ],
)
def test_less_than_a_set_of_texts_with_words_is_refused(measure, texts, named):
    with pytest.raises(CourseError, match=named or None):
        measure(texts)
