"""What calls to an endpoint can cost before they are made, and what they did use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Estimate", "cost", "count_tokens", "used"]


@dataclass(frozen=True)
class Estimate:
    """What the calls that are still to be made use if each answer is as long as is allowed."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None  # in the currency of the prices; None without prices

    def __str__(self) -> str:
        price = (
            ""
            if self.cost is None
            else f", together up to about {self.cost:,.4f} at the prices given"
        )
        return (
            f"{self.calls} calls to make; estimate: about {self.prompt_tokens:,} prompt tokens and at most "
            f"{self.completion_tokens:,} completion tokens{price}; repeats after errors may come on top"
        )


def cost(
    prompt_tokens: float, completion_tokens: float, prices: Sequence[float] | None
) -> float | None:
    """Cost in the currency of `prices`: of a million prompt tokens, of a million completion tokens."""
    return (
        None
        if prices is None
        else (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6
    )


def count_tokens(messages: Iterable[Mapping[str, str]], tokenizer: Any = None) -> int:
    """Tokens of a chat, about: without a tokenizer 4 characters count as one, which is near for English, and chat
    templates put some 4 tokens around each message."""
    texts = [message["content"] for message in messages]
    return sum(
        4 + (len(tokenizer(text)["input_ids"]) if tokenizer else -(-len(text) // 4))
        for text in texts
    )


def used(records: Iterable[Mapping[str, Any]], prices: Sequence[float] | None = None) -> str:
    """One sentence: what the calls of these records used, by the endpoint's own count."""
    calls = [
        record for record in records if record["calls"]
    ]  # a call's first story carries its figures
    counted = [record for record in calls if record["prompt_tokens"] is not None]
    sent, received = (
        sum(record[name] for record in counted) for name in ("prompt_tokens", "completion_tokens")
    )
    said = f"{len(calls)} calls used {sent:,} prompt tokens and {received:,} completion tokens"
    if prices is not None:
        said += f", which cost {cost(sent, received, prices):,.4f} at the prices given"
    if len(counted) < len(calls):
        said += f"; {len(calls) - len(counted)} calls came without a count"
    if repeats := sum(record["repeats"] for record in calls):
        said += f"; calls were sent again {repeats} times after errors, which the endpoint may charge for"
    return said
