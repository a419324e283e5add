"""Words of a text, and a text as a chat message."""

from __future__ import annotations

import re

__all__ = ["as_messages", "first_words", "prompt_overlap", "repeat_share", "words"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The text's words in lower case."""
    return _WORD.findall(text.lower())


def first_words(text: str, n: int = 25) -> str:
    """The text up to its n-th word, to compare texts at a common length."""
    ends = [match.end() for match in _WORD.finditer(text)]
    return text if len(ends) <= n else text[: ends[n - 1]]


def repeat_share(text: str, n: int = 4) -> float:
    """Share of the n-word sequences that occurred before in the text; 0 below n words."""
    tokens = words(text)
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
