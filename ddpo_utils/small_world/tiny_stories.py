"""Tiny stories whose quality is known: prompts that name three things, and a formula of the text.

    quality   = 2 told + 2 form + own + readable                   0 to 6
    told      share of the prompt's three words that the story uses in words of its own
    form      1 if the model ended it itself, at a sentence's end, after two to four sentences
    own       share of its 3-word sequences that are its own: neither the prompt's nor a repetition
    readable  share of its words that a common vocabulary holds
    typical   quality + TYPICALITY * z,  z: its mean log-prob under the reference, standardised

`typical` adds that people prefer the expected (arXiv 2510.01171). Sense is not measured.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ..corpus.text import ngrams, words
from ..embeddings.encoders import load_encoder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PARTS", "SPLITS", "common_words", "story_quality", "tiny_prompts", "typical_quality"]

WHO = "baker beggar captain clown cook doctor farmer fisherman gardener ghost giant hunter judge"
WHO += " king lawyer monk nurse painter pilot queen robot sailor shepherd soldier teacher thief"
WHAT = "bell boat book bottle candle clock coin cup drum feather hat kite knife ladder lantern"
WHAT += " letter map mirror painting ring rope shoe song stone sword violin"
WHERE = "bakery bridge castle cave cellar church desert forest garden harbour hospital hotel"
WHERE += " library lighthouse market mountain museum palace prison river school station theatre"
SPLITS = {"train": 200, "development": 24, "test": 40}  # prompts; no combination is in two of them
FORM = "A tiny story in two short sentences: a {}, a {} and a {}."
PARTS = ("told", "form", "own", "readable")
TYPICALITY = 0.7
SENTENCES = range(2, 5)
SEQUENCE = 3  # words

_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
_NAMED = re.compile(r"\ba (\w+)\b")


def tiny_prompts(split: str) -> pd.DataFrame:
    """The prompts (prompt_id, prompt) of "train", "development" or "test"; the same every time."""
    import pandas as pd

    combinations = list(product(WHO.split(), WHAT.split(), WHERE.split()))
    order = np.random.default_rng(0).permutation(len(combinations))
    first = sum(list(SPLITS.values())[: list(SPLITS).index(split)])
    chosen = [combinations[i] for i in order[first : first + SPLITS[split]]]
    return pd.DataFrame(
        {
            "prompt_id": ["-".join(names) for names in chosen],
            "prompt": [FORM.format(*names) for names in chosen],
        }
    )


@cache
def common_words() -> frozenset[str]:
    """The words that the vocabulary of MiniLM holds whole, in lower case."""
    tokens = load_encoder("minilm").encoder.load().tokenizer.get_vocab()
    return frozenset(token for token in tokens if token.isalpha())


def _parts(prompt: str, text: str, finished: bool, vocabulary: Collection[str]) -> list[float]:
    tokens = words(text)
    if not tokens:
        return [0.0] * len(PARTS)
    text = text.strip()
    named = _NAMED.findall(prompt)[-3:]
    ends = [match.end() for match in _END.finditer(text)]
    whole = finished and ends[-1:] == [len(text)]
    form = whole and len(ends) in SENTENCES
    sequences = ngrams(tokens, SEQUENCE)
    of_prompt = ngrams(words(prompt), SEQUENCE)
    new = set(sequences) - set(of_prompt)
    own = len(new) / max(1, len(sequences))
    own_words = {token for sequence in new for token in sequence}
    used = [name in own_words or f"{name}s" in own_words for name in named]
    known = [token in vocabulary for token in tokens]
    return [float(np.mean(used)), float(form), own, float(np.mean(known))]


def story_quality(stories: pd.DataFrame, vocabulary: Collection[str]) -> pd.DataFrame:
    """The parts of each story's quality and `quality` itself, with the stories' index.

    Args:
        stories: prompt (of `tiny_prompts`), text, and finished: False where the limit cut it.
        vocabulary: words in lower case.
    """
    import pandas as pd

    rows = zip(stories["prompt"], stories["text"], stories["finished"], strict=True)
    parts = [_parts(*row, vocabulary) for row in rows]
    frame = pd.DataFrame(parts, index=stories.index, columns=list(PARTS))
    return frame.assign(quality=frame.sum(axis=1) + frame["told"] + frame["form"])


def typical_quality(quality: np.ndarray, logps: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """Quality with the typicality term; `logps` are mean log-probs of a token, in nats.

    `mean` and `sd` standardise them: those of the reference's own stories.
    """
    return quality + TYPICALITY * (logps - mean) / sd
