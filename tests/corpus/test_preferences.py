"""Weights for a preference dataset: by prompt, over every distinct response, in any form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from ddpo_utils import CourseError, deviation_weights
from ddpo_utils.corpus import preferences
from ddpo_utils.corpus.preferences import add_weights


class Letters:
    """Rows that count letters in the first `limit` characters of a text."""

    def __init__(self, limit: int = 10_000, power: float = 1.0):
        self.limit, self.power, self.encoded = limit, power, 0

    def encode(self, sentences: list[str], normalize_embeddings: bool = True) -> np.ndarray:
        self.encoded += len(sentences)
        rows = [np.bincount([ord(c) % 31 for c in text[: self.limit]]) for text in sentences]
        padded = [np.pad(row, (0, 31 - len(row))) for row in rows]
        return (np.array(padded, dtype=float) + 0.01) ** self.power


STORIES = ["a wolf ran", "the ice held", "nobody came home", "a wolf ran on", "zoo"]
PAIRS = [("p", 0, 1), ("q", 2, 3), ("p", 2, 3), ("p", 1, 4), ("q", 0, 2)]


def message(role: str, text: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}]


def as_texts(prompt: str, chosen: str, rejected: str) -> tuple[Any, ...]:
    return prompt, chosen, rejected


def as_chats(prompt: str, chosen: str, rejected: str) -> tuple[Any, ...]:
    turns = message("system", "Write.") + message("user", prompt)
    return turns, message("assistant", chosen), message("assistant", rejected)


def as_parts(prompt: str, chosen: str, rejected: str) -> tuple[Any, ...]:
    texts = [[{"type": "text", "text": text}] for text in (prompt, chosen, rejected)]
    return tuple(message("assistant", text) for text in texts)


def dataset(form: Any = as_texts, pairs: list[tuple[str, int, int]] = PAIRS) -> Dataset:
    rows = [form(prompt, STORIES[w], STORIES[r]) for prompt, w, r in pairs]
    return Dataset.from_list([dict(zip(preferences.COLUMNS, row, strict=True)) for row in rows])


def expected(*encoders: Letters, floor: float = 0.0) -> list[float]:
    """The weights of PAIRS by the definition: the prompts' sets of texts by hand."""
    weights = {}
    for prompt, numbers in (("p", [0, 1, 2, 3, 4]), ("q", [2, 3, 0])):
        rows = [encoder.encode([STORIES[i] for i in numbers]) for encoder in encoders]
        for i, weight in zip(numbers, deviation_weights(*rows, floor=floor), strict=True):
            weights[prompt, i] = weight
    return [weights[prompt, chosen] for prompt, chosen, _ in PAIRS]


@pytest.mark.parametrize("form", [as_texts, as_chats, as_parts])
@pytest.mark.parametrize("block", [1, 10_000])
def test_a_weight_is_the_chosen_text_s_deviation_among_all_of_its_prompt(
    form: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "BLOCK", block)
    weighted = add_weights(dataset(form), Letters())
    np.testing.assert_allclose(weighted["weight"][:], expected(Letters()))
    assert weighted.remove_columns("weight").to_list() == dataset(form).to_list()


def test_several_encoders_a_floor_and_a_mean_of_one() -> None:
    encoders = Letters(), Letters(power=0.2)
    weights = np.array(expected(*encoders, floor=0.3))
    np.testing.assert_allclose(add_weights(dataset(), *encoders, floor=0.3)["weight"][:], weights)
    scaled = add_weights(dataset(), *encoders, floor=0.3, mean_one=True)["weight"][:]
    np.testing.assert_allclose(scaled, weights / weights.mean())


def test_texts_that_differ_in_spaces_or_unicode_form_are_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("p\u00e9", "one", "two"), ("pe\u0301 ", "three", " two\n"), ("p\u00e9", "four", "one")]
    data = Dataset.from_list([dict(zip(preferences.COLUMNS, row, strict=True)) for row in rows])
    add_weights(data, Letters())
    assert "1 prompts, 4 distinct responses" in capsys.readouterr().out


def test_each_text_is_encoded_once_beside_the_search_for_the_limit() -> None:
    encoder = Letters()
    add_weights(dataset(pairs=PAIRS * 20), encoder)
    assert encoder.encoded == 8 + preferences.TRIED_LENGTHS


@pytest.mark.parametrize(("limit", "cut"), [(8, "4 of 5"), (10_000, None)])
def test_an_encoder_that_cuts_is_named(
    limit: int, cut: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    add_weights(dataset(pairs=[("p", 0, 1), ("p", 2, 3), ("p", 3, 4)]), Letters(limit))
    said = capsys.readouterr().out
    assert (cut in said) if cut else ("cuts" not in said)


def test_two_responses_a_prompt_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="DDPO is DPO"):
        weighted = add_weights(dataset(pairs=[("p", 0, 1), ("q", 2, 3)]), Letters())
    assert weighted["weight"][:] == [1, 1]
    with pytest.warns(UserWarning, match="1 pairs"):
        add_weights(dataset(pairs=[("p", 0, 0), ("p", 2, 3)]), Letters())


FAULTS = {
    "no embedder": (dataset(), (), "embedder"),
    "a name": (dataset(), ("all-MiniLM-L6-v2",), "such as SentenceTransformer"),
    "a floor": (dataset(), (Letters(), 0.1), "by name"),
    "two kinds": (
        Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "p"}], "chosen": "a", "rejected": "b"}]
        ),
        (Letters(),),
        "a text and messages",
    ),
    "a stream": (dataset().to_iterable_dataset(), (Letters(),), "stream"),
    "no prompt": (dataset().remove_columns("prompt"), (Letters(),), "'prompt'"),
    "weights": (dataset().add_column("weight", [1.0] * 5), (Letters(),), "'weight'"),
    "no row": (dataset().select([]), (Letters(),), "no row"),
    "a blank": (
        Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": " "}]),
        (Letters(),),
        "rejected of row 0",
    ),
    "a number": (
        Dataset.from_list([{"prompt": "p", "chosen": 3, "rejected": 4}]),
        (Letters(),),
        "chosen of row 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str) -> None:
    data, embedders, named = FAULTS[fault]
    with pytest.raises(CourseError, match=named):
        add_weights(data, *embedders)
