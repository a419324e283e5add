"""Which encoders read English alone, and whether texts are English."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence

__all__ = ["reads_english_alone", "seem_english", "warn_if_not_english"]

ENGLISH_NAMES = re.compile(
    r"minilm|wordllama|stylometric|delta|.*[-_]en([-_].*)?|.*/all-(?!.*multiling).*|"
    r".*/Style-Embedding",
    re.IGNORECASE,
)
# Frequent in English, rare elsewhere: about a quarter of the words of English prose.
ENGLISH_WORDS = (
    "the and of that with his she he you they not from this were are it my "
    "about would could when there which their what your"
)
SHARE = 0.06
FEWEST_WORDS = 50  # fewer say nothing
READ = 500  # texts


def reads_english_alone(encoder: str) -> bool:
    """Whether the encoder of this name was trained on English; False for one that is not known."""
    return bool(ENGLISH_NAMES.fullmatch(encoder))


def seem_english(texts: Sequence[str]) -> bool:
    """Whether the texts, read together, are English; True for too few words to tell.

    A sign or letter of a script without spaces counts as a word.
    """
    step = max(1, len(texts) // READ)
    words = re.findall(r"[a-z]+|[^\W\d_a-z]", " ".join(texts[::step]).lower())
    english = set(ENGLISH_WORDS.split())
    known = sum(word in english for word in words)
    return len(words) < FEWEST_WORDS or known / len(words) >= SHARE


def warn_if_not_english(texts: Sequence[str], *encoders: str) -> None:
    """Returns None; warns where texts are not English and some of the encoders read English alone.

    Of several processes the first warns.
    """
    english = [name for name in dict.fromkeys(encoders) if reads_english_alone(name)]
    if english and os.environ.get("RANK", "0") == "0" and not seem_english(texts):
        warnings.warn(
            f"The texts do not seem to be English, which {' and '.join(english)} were made for: "
            "take a multilingual encoder (settings: semantic, weights=semantic), or trust weights "
            "and distances less.",
            stacklevel=2,
        )
