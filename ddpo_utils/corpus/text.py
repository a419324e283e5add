"""Words of a text in any script, and a text as a chat message."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

__all__ = [
    "as_messages",
    "first_words",
    "plain_text",
    "prompt_overlap",
    "repeat_share",
    "same_text",
    "words",
]

# Scripts that write no spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED_START = re.compile(f"[{_UNSPACED}]")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_FORMAT = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # direction, joiners
_BLANK = re.compile(rf"(?:&#x200b;|&nbsp;|[\s{_INVISIBLE}])*", re.IGNORECASE)


# Where none of these occurs, as in nearly every English text, a short pattern finds the same words.
_MARKED = re.compile("[\u00ad\u0300-\u036f\u0483-\u1fff\u200c\u200d\u20d0-\u20ff\u2c00-\U0010ffff]")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@cache
def _marked_word() -> re.Pattern[str]:
    """A word in any script: letters, digits and the marks on them; or one unspaced character.

    `re` counts marks (vowel signs, decomposed accents) to no word, so they are listed here.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    marks = "".join(filter(lambda c: unicodedata.category(c).startswith("M"), characters))
    letters = f"(?:[^\\W_{_UNSPACED}][{marks}\u200c\u200d\u00ad]*)+"
    return re.compile(f"[{_UNSPACED}][{marks}]*|{letters}(?:['’]{letters})*")


def _word_pattern(text: str) -> re.Pattern[str]:
    return _marked_word() if _MARKED.search(text) else _WORD


def words(text: str) -> list[str]:
    """The text's words in lower case; in scripts without spaces, its characters."""
    text = unicodedata.normalize("NFC", text).lower()
    return _word_pattern(text).findall(text)


def first_words(text: str, n: int = 25) -> str:
    """The text up to its n-th word, to compare texts at a common length."""
    ends = [match.end() for match in _word_pattern(text).finditer(text)]
    return text if len(ends) <= n else text[: ends[n - 1]]


def plain_text(text: str | None) -> str:
    """The text with Unix line ends and no space at its ends; empty where nothing is visible."""
    text = (text or "").replace("\r\n", "\n").replace("\r", "\n").strip()
    return "" if _BLANK.fullmatch(text) else text


def same_text(text: str) -> str:
    """What texts have in common that differ by Unicode form or spacing alone."""
    folded = unicodedata.normalize("NFKC", text)
    return " ".join(_FORMAT.sub("", folded).split())


def repeat_share(text: str, n: int = 4) -> float:
    """Share of the n-word sequences that occurred before in the text; 0 below n words.

    A word of a script without spaces counts as 2.5 characters (Han 1.5, kana 2.6, Thai 3.6): four
    characters recur in any Thai text.
    """
    tokens = words(text)
    unspaced = sum(_UNSPACED_START.match(token) is not None for token in tokens)
    if unspaced > len(tokens) / 2:
        n = round(2.5 * n)
    count = len(tokens) - n + 1
    if count < 1:
        return 0.0
    shifted = [tokens[i:] for i in range(n)]
    different = set(zip(*shifted, strict=False))
    return 1 - len(different) / count


def prompt_overlap(text: str, prompt: str) -> float:
    """Share of the text's words that occur in its prompt; high where a text repeats its prompt."""
    tokens = words(text)
    if not tokens:
        return 0.0
    prompt_words = set(words(prompt))
    return sum(token in prompt_words for token in tokens) / len(tokens)


def as_messages(role: str, text: str) -> list[dict[str, str]]:
    """One message in the conversational form that chat templates and TRL read."""
    return [{"role": role, "content": text}]
