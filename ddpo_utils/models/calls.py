"""Calls to an OpenAI-compatible endpoint, one and many side by side: keys, faults in plain words, a limit, a stop.

Repeats after errors are the client library's: 408, 409, 429, 5xx, broken connections and time-outs, with exponential
back-off, jitter and the server's Retry-After (up to two minutes; a longer one ends the run). Where nothing takes the
very first connection there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ..settings import CourseError, progress_bar
from .address import OPENAI, check_address, knock, of_openai, site
from .spending import Estimate, cost, used

__all__ = ["OPENAI", "Endpoint", "ask", "find_key"]


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


def _fault(error: Exception, model: str, key: str, address: str) -> CourseError:
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
    elif status is None:
        why = f"{said.rstrip('.')}, at {address}, also after the retries. See whether the server runs, and call again"
    elif status in (408, 409, 429) or status >= 500:
        why = f"{said}, also after the retries. Call again later"
    else:
        why = f"{said}. Change what it refuses; a model that takes no sampling settings needs temperature and top_p None"
    return CourseError(f"The endpoint does not answer as asked ({why}).")


async def ask(
    client: Any, model: str, messages: list[dict[str, str]], decoding: dict[str, Any]
) -> dict[str, Any]:
    """One call, repeated by the library where that helps: text, finished, and the figures of the record."""
    from openai import OpenAIError

    try:
        answer = await client.chat.completions.with_raw_response.create(
            model=model, messages=messages, **decoding
        )
        reply = answer.parse()
        choice, usage = reply.choices[0], reply.usage
        text, finished = choice.message.content or "", choice.finish_reason == "stop"
    except OpenAIError as error:
        if (
            getattr(error, "code", None) == "content_filter"
        ):  # a prompt that is refused, as some servers say it
            return {
                "text": "",
                "finished": False,
                "paid": (0, 0),
                "repeats": 0,
            }  # is a failure like any other
        raise _fault(error, model, client.api_key, site(str(client.base_url))) from None
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


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint, and how it is called.

    Attributes:
        model: the endpoint's name of the model.
        base_url: address of the endpoint, by default OpenAI's; other servers' usually ends in /v1.
        temperature, top_p: of the sampling; None sends none, for models that refuse them (o1).
        key_variable: name of the environment variable with the key. Without it, OpenAI's addresses get that of
            OPENAI_API_KEY and all others none.
        concurrency: calls under way at once.
        timeout: seconds without a byte from the endpoint after which a call counts as failed.
        retries: how often a call is repeated before it counts as failed for good.
        prices: of a million prompt tokens and a million completion tokens, in any currency.
        tokenizer: counts tokens for the estimate; without one, 4 characters are a token.
        confirm: asked with the estimate before the first call; False makes no call.

    Raises:
        CourseError: bad arguments.
    """

    model: str
    base_url: str = OPENAI
    temperature: float | None = 0.0
    top_p: float | None = None
    key_variable: str | None = None
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 10
    prices: Sequence[float] | None = None
    tokenizer: Any = None
    confirm: Callable[[Estimate], bool] | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise CourseError("The model has no name: give the one that the endpoint knows it by.")
        if self.concurrency < 1 or self.retries < 0 or not self.timeout > 0:
            raise CourseError("concurrency and timeout must be above 0, and retries not below.")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise CourseError(f"temperature is 0 at least, or none; got {self.temperature:g}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise CourseError(f"top_p is above 0 and 1 at most, or none; got {self.top_p:g}.")
        if self.prices is not None and not (
            len(self.prices) == 2 and all(0 <= p < math.inf for p in self.prices)
        ):
            raise CourseError(
                "prices are two numbers, 0 at least: of a million prompt tokens, of a million written."
            )
        check_address(self.base_url)

    @property
    def name(self) -> str:
        """The model's name for records: of a folder its last part."""
        return Path(self.model).name if Path(self.model).exists() else self.model

    def decoding(self, max_tokens: int) -> dict[str, Any]:
        """What a request says of its answer's sampling and length; CourseError without room for a token."""
        if max_tokens < 1:
            raise CourseError("max_tokens must be above 0.")
        # OpenAI's reasoning models know the newer name alone, most other servers the older one
        limit = "max_completion_tokens" if of_openai(self.base_url) else "max_tokens"
        settings = {"temperature": self.temperature, "top_p": self.top_p, limit: max_tokens}
        return {name: value for name, value in settings.items() if value is not None}

    def call_all(
        self,
        who: str,
        chains: Sequence[Sequence[Any]],
        tokens: tuple[int, int],
        make: Callable[[Any, Any], Awaitable[list[dict[str, Any]]]],
        progress: bool = True,
    ) -> None:
        """Make the calls of all chains (see `side_by_side`) once the estimate was shown and agreed to.

        Args:
            who: what the lines about estimate and use begin with.
            chains: at least one call in all.
            tokens: what the prompts hold, and the most that the answers may hold.
            make: makes one call with the library's client, stores the answer, returns its records.
            progress: show a progress bar.

        Raises:
            CourseError: the key is missing, `confirm` said no, nothing is at the address, or a call failed for good.
        """
        from openai import AsyncOpenAI

        key, count = find_key(self.base_url, self.key_variable), sum(map(len, chains))
        expected = Estimate(count, *tokens, cost(*tokens, self.prices))
        print(f"{who}: {expected}.", flush=True)
        if self.confirm is not None and not self.confirm(expected):
            raise CourseError("Nothing was sent: the estimate was not agreed to.")
        knock(self.base_url)
        stop, faults, made = Event(), [], []

        async def work() -> None:
            async with AsyncOpenAI(
                api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=self.retries
            ) as client:
                if not of_openai(
                    self.base_url
                ):  # the library takes both from the environment, for any address
                    client.organization = client.project = None

                async def one(call: Any) -> None:
                    made.extend(await make(client, call))
                    bar.update()

                await side_by_side(chains, one, self.concurrency, stop, faults)

        # the thread is one of its own: a notebook's has an event loop already, and Ctrl-C must not cancel paid calls
        with (
            progress_bar(shown=progress, total=count, desc=who, leave=False) as bar,
            ThreadPoolExecutor(1) as pool,
        ):
            try:
                pool.submit(asyncio.run, work()).result()
            finally:
                stop.set()
        print(f"{who}: {used(made, self.prices)}.", flush=True)
        if faults and isinstance(faults[0], CourseError):
            raise CourseError(
                f"{faults[0]} What was received is stored; the same call again makes the missing ones."
            )
        if faults:
            raise faults[0]
