"""The measures of wording equal slow references written from their definitions, and sacrebleu, on random texts."""

from __future__ import annotations

import gzip
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpo_utils import CourseError, load_stories
from ddpo_utils.corpus.text import words
from ddpo_utils.evaluation.lexical import (
    compression_ratio,
    ngram_diversity,
    rouge_homogenisation,
    self_bleu,
)

MEASURES = [compression_ratio, rouge_homogenisation, self_bleu, ngram_diversity]
# few words, so that they repeat within texts and between them; texts shorter than four words among them
TEXT = st.lists(
    st.sampled_from(["sea", "Light", "don't", "the", "a", "é", "7"]), min_size=1, max_size=12
).map(" ".join)
SETS = st.lists(TEXT, min_size=2, max_size=6)
SEA = ["The light of the sea.", "The sea, the light!", "A storm takes the light of the sea away"]


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by the table of its definition."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, j in np.ndindex(len(a), len(b)):
        same = a[i] == b[j]
        table[i + 1, j + 1] = table[i, j] + 1 if same else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def slow_rouge(texts: list[str]) -> float:
    scores = []
    for one, other in permutations([words(text) for text in texts], 2):
        precision, recall = common(one, other) / len(one), common(one, other) / len(other)
        scores.append(2 * precision * recall / (precision + recall) if precision else 0)
    return float(np.mean(scores))


def slow_bleu(texts: list[str]) -> float:
    scores = []
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        factors, halved = [], 1.0
        for n in range(1, 5):
            own = Counter(grams(text, n))
            if not own:
                break
            matched = sum(
                min(count, max(Counter(grams(o, n))[gram] for o in others))
                for gram, count in own.items()
            )
            if n == 1 and not matched:
                factors = [0.0]
                break
            if not matched:
                halved /= 2
            factors.append((matched or halved) / own.total())
        own_length = len(words(text))
        closest = min((abs(len(words(o)) - own_length), len(words(o))) for o in others)[1]
        brevity = min(1.0, np.exp(1 - closest / own_length))
        scores.append(brevity * float(np.prod(factors)) ** (1 / len(factors)))
    return float(np.mean(scores))


def slow_ngrams(texts: list[str]) -> float:
    value = 0.0
    for n in range(1, 5):
        every = [gram for text in texts for gram in grams(text, n)]
        value += len(set(every)) / len(every) if every else 0
    return value


def library_bleu(texts: list[str]) -> float:
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)  # its smoothing is "exp" unless told
    plain = [" ".join(words(text)) for text in texts]
    scores = [
        bleu.sentence_score(text, plain[:i] + plain[i + 1 :]).score for i, text in enumerate(plain)
    ]
    return float(np.mean(scores)) / 100


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (rouge_homogenisation, slow_rouge),
        (self_bleu, slow_bleu),
        (self_bleu, library_bleu),
        (ngram_diversity, slow_ngrams),
    ],
)
def test_equals_the_definition(fast, slow):
    @settings(max_examples=80, deadline=None)
    @given(SETS)
    def equal(texts):
        assert fast(texts) == pytest.approx(slow(texts), abs=1e-12)

    equal()
    stories = load_stories()["text"].tolist()[:5]
    assert fast(stories) == pytest.approx(slow(stories), abs=1e-12)


def test_values_by_hand():
    # words: the light of the sea | the sea the light | a storm takes the light of the sea away
    pairs = [2 * 2 / (5 + 4), 2 * 5 / (5 + 9), 2 * 2 / (4 + 9)]
    assert rouge_homogenisation(SEA) == pytest.approx(np.mean(pairs))
    assert ngram_diversity(SEA[:1] * 2) == pytest.approx((4 / 5 + 1 + 1 + 1) / 2)
    assert self_bleu(["a b", "a c"]) == pytest.approx(
        np.sqrt(1 / 2 * 1 / 2)
    )  # no pair in common: half a match of one


@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(2, 6))
def test_identical_texts_give_the_extremes(text, size):
    assert rouge_homogenisation([text] * size) == 1
    assert self_bleu([text] * size) == pytest.approx(1)
    assert ngram_diversity([text] * size) == pytest.approx(slow_ngrams([text]) / size)


def test_disjoint_texts_give_the_other_extremes():
    texts = ["a b c d", "e f g h", "i j k l m"]
    assert rouge_homogenisation(texts) == self_bleu(texts) == 0
    assert ngram_diversity(texts) == 4


def test_one_copy_of_each_is_enough_for_self_bleu():
    assert self_bleu(["a b c d", "e f g h"] * 2) == pytest.approx(1)


def test_copies_compress_and_stories_less():
    stories = load_stories()["text"].tolist()[:6]
    raw = "\n".join(stories).encode()
    assert compression_ratio(stories) == len(raw) / len(gzip.compress(raw, 9))  # gzip once
    assert compression_ratio(stories[:1] * 6) > 2 * compression_ratio(stories)
    assert compression_ratio(["broken \ud83d half", "whole"]) > 0


@settings(max_examples=40, deadline=None)
@given(SETS, st.randoms(use_true_random=False))
def test_order_of_the_texts_does_not_matter(texts, random):
    shuffled = random.sample(texts, len(texts))
    for measure in MEASURES[1:]:
        assert measure(shuffled) == pytest.approx(measure(texts), abs=1e-12)


def test_case_and_punctuation_do_not_matter():
    plain = ["the light the sea", "the sea don't sleep"]
    loud = ["The LIGHT: the sea!", "(The sea) don't -- sleep..."]
    for measure in MEASURES[1:]:
        assert measure(plain) == measure(loud)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("texts", [[], ["one text"], "a bare string", ("one text",)])
def test_less_than_a_set_is_refused(measure, texts):
    with pytest.raises(CourseError, match="two texts or more"):
        measure(texts)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("empty", ["", " \n", "... !"])
def test_a_text_without_a_word_is_refused_by_its_number(measure, empty):
    with pytest.raises(CourseError, match="Text 1 holds no word"):
        measure(["the sea", empty, "the light"])


def test_pairs_are_unordered_and_none_is_with_itself():
    texts = ["a b c", "a b d", "x y z"]
    expected = np.mean([slow_rouge([a, b]) for a, b in combinations(texts, 2)])
    assert rouge_homogenisation(texts) == pytest.approx(expected) == pytest.approx((2 / 3) / 3)
