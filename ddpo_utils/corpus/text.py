"""Words of a text in any script, and a text as a chat message."""

from __future__ import annotations

import unicodedata
from typing import Any

import regex  # like `re`, with classes of letters and marks

from ..storage.files import whole_text

# Scripts that write no spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
# Letters and digits with the marks on them (vowel signs, accents), also inside don't; or one
# character of an unspaced script.
_LETTERS = rf"(?:[\p{{L}}\p{{N}}--[{_UNSPACED}]][\p{{M}}\u200c\u200d\u00ad]*)+"
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|{_LETTERS}(?:['’]{_LETTERS})*", regex.V1)
_UNSPACED_START = regex.compile(f"[{_UNSPACED}]")
_FORMAT = regex.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # joiners and such
_BLANK = regex.compile(r"(?:&#x200b;|&nbsp;|[\s\u200b-\u200d\u2060\ufeff])*", regex.IGNORECASE)
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}


def words(text: str) -> list[str]:
    """The text's words in lower case; in scripts without spaces, its characters."""
    text = unicodedata.normalize("NFC", text).lower()
    return _WORD.findall(text)


def first_words(text: str, n: int = 25) -> str:
    """The text up to its n-th word, to compare texts at a common length."""
    ends = [match.end() for match in _WORD.finditer(text)]
    return text if len(ends) <= n else text[: ends[n - 1]]


def plain_text(text: str | None) -> str:
    """The text with Unix line ends and no space at its ends; empty where nothing is visible."""
    text = (text or "").replace("\r\n", "\n").replace("\r", "\n").strip()
    return "" if _BLANK.fullmatch(text) else text


def same_text(text: str) -> str:
    """What texts have in common that differ by Unicode form or spacing alone."""
    folded = unicodedata.normalize("NFKC", text)
    return " ".join(_FORMAT.sub("", folded).split())


def ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """The sequences of n tokens of one text."""
    shifted = [tokens[start:] for start in range(n)]
    return list(zip(*shifted, strict=False))


def repeat_share(text: str, n: int = 4) -> float:
    """Share of the n-word sequences that occurred before in the text; 0 below n words.

    A word of a script without spaces counts as 2.5 characters (Han 1.5, kana 2.6, Thai 3.6): four
    characters recur in any Thai text.
    """
    tokens = words(text)
    unspaced = sum(_UNSPACED_START.match(token) is not None for token in tokens)
    if unspaced > len(tokens) / 2:
        n = round(2.5 * n)
    found = ngrams(tokens, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


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


def read_messages(value: Any) -> list[tuple[str, str]]:
    """(role, text) of each message of a chat; a text is one message without a role.

    Raises ValueError for what is neither, and for a message with a part that is no text.
    """
    if isinstance(value, str):
        return [("", value)]
    found = []
    try:
        for message in value:
            role = str(message.get("role", message.get("from", "")))
            content = message.get("content", message.get("value"))
            if not isinstance(content, str):
                content = "".join([part["text"] for part in content])
            found.append((ROLES.get(role, role), whole_text(content)))
    except (AttributeError, KeyError, TypeError):
        raise ValueError("neither a text nor a list of messages with texts") from None
    return found
