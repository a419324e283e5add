"""One call to an OpenAI-compatible endpoint, and many side by side: keys, faults in plain words, a limit, a stop.

Repeats after errors are the client library's: 408, 409, 429, 5xx, broken connections and time-outs, with exponential
back-off, jitter and the server's Retry-After (up to two minutes; a longer one ends the run).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from .profiles import CourseError

__all__ = ["ask", "find_key", "of_openai", "side_by_side"]


def of_openai(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def find_key(base_url: str, key_variable: str | None) -> str:
    """The key for this address. OPENAI_API_KEY goes to OpenAI alone, unless it is named: no other server gets to see
    it. What the caller named is never repeated in a message, since it might be the key itself."""
    name = key_variable or ("OPENAI_API_KEY" if of_openai(base_url) else "")
    if not name:
        return "none"  # a server of one's own asks for none, but the client library sends one
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        which = "that key_variable names" if key_variable else "OPENAI_API_KEY"
        raise CourseError(
            f"The environment variable {which} holds no usable key: set it in the shell that starts this, and give its "
            "name, never the key."
        )
    return key


def _fault(error: Exception, model: str, key: str) -> CourseError:
    """One sentence for a call that failed for good. A server's words may repeat the key, which is taken out."""
    status = getattr(error, "status_code", None)
    said = " ".join(str(error).split()).replace(key if key != "none" else "\0", "[key]")
    said = f"{type(error).__name__}: {said[:200]}"
    if status == 401:  # the server's words are left out: some repeat parts of the key
        why = "401: the key was refused. Name the environment variable that holds this endpoint's key (key_variable)"
    elif status == 403:
        why = f"403: this key may not use {model!r} here. Ask for access, or name another model"
    elif status == 404:
        why = f"404: no model {model!r} at this address. Check both; an address usually ends in /v1"
    elif status in (None, 408, 409, 429) or status >= 500:
        why = f"{said}, also after the retries. Call again later"
    else:
        why = (
            f"{said}. Change what it refuses; a model that takes no sampling settings needs temperature and top_p None"
        )
    return CourseError(f"The endpoint does not answer as asked ({why}).")


async def ask(client: Any, model: str, messages: list[dict[str, str]], decoding: dict[str, Any]) -> dict[str, Any]:
    """One call, repeated by the library where that helps: text, finished, and the figures of the record."""
    from openai import OpenAIError

    try:
        answer = await client.chat.completions.with_raw_response.create(model=model, messages=messages, **decoding)
        reply = answer.parse()
        choice, usage = reply.choices[0], reply.usage
        text, finished = choice.message.content or "", choice.finish_reason == "stop"
    except OpenAIError as error:
        if getattr(error, "code", None) == "content_filter":  # a prompt that is refused, as some servers say it
            return {"text": "", "finished": False, "paid": (0, 0), "repeats": 0}  # is a failure like any other
        raise _fault(error, model, client.api_key) from None
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CourseError(
            "The endpoint answers with something else than a chat completion: check its address, which usually ends "
            "in /v1."
        ) from None
    paid = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
    return {"text": text, "finished": finished, "paid": paid, "repeats": answer.retries_taken}


async def side_by_side(
    chains: Iterable[Sequence[Any]],
    make: Callable[[Any], Awaitable[None]],
    limit: int,
    stop: Event,
    faults: list[Exception],
) -> None:
    """Make the calls of each chain one after the other and the chains side by side, at most `limit` calls at once.

    After a fault, or once `stop` is set, calls under way are waited for (they are paid for) and no other is begun.
    """
    gate = asyncio.Semaphore(limit)

    async def follow(chain: Sequence[Any]) -> None:
        for call in chain:
            async with gate:
                if faults or stop.is_set():
                    return
                try:
                    await make(call)
                except Exception as fault:
                    faults.append(fault)

    await asyncio.gather(*map(follow, chains))
