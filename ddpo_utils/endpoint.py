"""Samples of a model behind an OpenAI-compatible endpoint; each answer is stored as it comes and never paid for again.

Whether an endpoint charges for an answer that was lost on its way is its own affair; a record's `repeats` says how
often its call was sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from .calls import ask, find_key, of_openai, side_by_side
from .journal import Journal
from .profiles import CourseError
from .progress import progress_bar
from .prompting import WORDING, chat, check_condition, request, stories
from .spending import Estimate, cost, count_tokens, used

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OPENAI", "sample_endpoint"]

OPENAI = "https://api.openai.com/v1"


def _records(
    call: tuple[Any, int], prompt: str, source: str, answer: dict[str, Any], condition: str, k: int
) -> list[dict[str, Any]]:
    """The records of one call's stories; what it used, and the whole of a verbalised answer, stand on the first."""
    records = []
    for n, story in enumerate(stories(answer["text"], answer["finished"], condition, k)):
        paid = (0, 0) if n else answer["paid"]
        records.append(
            {
                "prompt_id": call[0], "prompt": prompt, "sample": call[1] + n, "source": source, **story,
                "tokens": paid[1] if condition != "verbalised" else None, "calls": int(not n), "prompt_tokens": paid[0],
                "completion_tokens": paid[1], "repeats": 0 if n else answer["repeats"],
            }
        )  # fmt: skip
    if condition == "verbalised":
        records[0]["raw"] = answer["text"]
    return records


def _make_calls(
    chains: Sequence[Sequence[Any]], make: Callable[[Any, Any], Awaitable[None]], options: dict[str, Any], limit: int
) -> list[Exception]:
    """Make all calls with one client of the library and return the faults. The thread is one of its own: a notebook's
    has an event loop already, and Ctrl-C must not cancel calls that are paid for."""
    from openai import AsyncOpenAI

    stop, faults = Event(), []

    async def work() -> None:
        async with AsyncOpenAI(**options) as client:
            await side_by_side(chains, partial(make, client), limit, stop, faults)

    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(asyncio.run, work()).result()
        finally:
            stop.set()
    return faults


def sample_endpoint(
    prompts: pd.DataFrame,
    path: str | Path,
    model: str,
    base_url: str = OPENAI,
    condition: str = "plain",
    samples: int = 4,
    *,
    temperature: float | None = 1.0,
    top_p: float | None = 0.95,
    max_tokens: int = 2048,
    source: str = "",
    key_variable: str | None = None,
    concurrency: int = 8,
    timeout: float = 600.0,
    retries: int = 10,
    prices: Sequence[float] | None = None,
    tokenizer: Any = None,
    confirm: Callable[[Estimate], bool] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Sample `samples` stories to every prompt from an endpoint, and append them to `path` as the answers come.

    An estimate is printed before the first call, and what was used after the last. A run that was stopped or failed,
    called again, makes the missing calls alone; more prompts or more samples may be asked for, save that a verbalised
    call's number is its own. When a call fails for good, or Ctrl-C is pressed, no new call is made, those under way
    are waited for and stored, and then the fault is raised.

    Args:
        prompts: a frame with `prompt_id` (each once) and `prompt`.
        path: JSONL file, read by `sampling.read_samples`. A record has sample_stories' columns (`tokens` is None where
            several stories share a call), calls (1 on a call's first record, else 0, as are the following), and
            prompt_tokens, completion_tokens (what the call used by the endpoint's own count, None where it does not
            count), repeats (times that it was sent again); of verbalised calls also what `prompting.stories` adds, and
            on the first record the whole answer as `raw`.
        model: the endpoint's name of the model.
        base_url: address of the endpoint, by default OpenAI's; other servers' usually ends in /v1.
        condition: plain, iterative (a prompt's stories one after the other) or verbalised (one call for all of them).
        samples: stories per prompt.
        temperature, top_p: of the sampling; None sends none, for models that refuse them (o1).
        max_tokens: longest story in tokens; a verbalised call may have `samples` times as many.
        source: name of the model in the records, by default `model` (of a folder its last part) and the condition.
        key_variable: name of the environment variable with the key. Without it, OpenAI's addresses get that of
            OPENAI_API_KEY and all others none.
        concurrency: calls under way at once.
        timeout: seconds without a byte from the endpoint after which a call counts as failed.
        retries: how often a call is repeated before it counts as failed for good.
        prices: of a million prompt tokens and a million completion tokens, in any currency.
        tokenizer: counts tokens for the estimate; without one, 4 characters are a token.
        confirm: asked with the estimate before the first call; False makes no call.
        progress: show a progress bar.

    Returns:
        All samples asked for, as a frame, in order of prompts and samples.

    Raises:
        CourseError: bad arguments; the key is missing; `path` holds something else, or another process writes to it;
            a call failed for good; `confirm` said no.

    Source of the defaults: arXiv 2503.17126, section 4 (temperature 1.0, top-p 0.95, not sent to o1, 2,048 tokens).
    """
    import pandas as pd

    check_condition(condition, samples)
    if not len(prompts) or not prompts["prompt_id"].is_unique:
        raise CourseError("Sampling needs at least one prompt, each with a prompt_id of its own.")
    if concurrency < 1 or retries < 0 or timeout <= 0 or max_tokens < 1:
        raise CourseError("concurrency, timeout and max_tokens must be above 0, and retries not below.")
    if not base_url.startswith(("http://", "https://")):
        raise CourseError("The endpoint's address must begin with http:// or https://, and usually ends in /v1.")
    k = samples if condition == "verbalised" else 1  # stories of one call
    source = source or f"{Path(model).name if Path(model).exists() else model} {condition}"
    key = find_key(base_url, key_variable)
    # OpenAI's reasoning models know the newer name alone, most other servers the older one
    limit = "max_completion_tokens" if of_openai(base_url) else "max_tokens"
    decoding = {"temperature": temperature, "top_p": top_p, limit: max_tokens * k}
    decoding = {name: value for name, value in decoding.items() if value is not None}
    texts = dict(zip(prompts["prompt_id"].tolist(), prompts["prompt"].tolist(), strict=True))
    settings = [model, source, condition, k, max_tokens, temperature, top_p, WORDING]
    with Journal(path, settings, texts, k) as journal:
        chains = [[(p, n) for n in range(0, samples, k) if (p, n) not in journal] for p in texts]
        calls = [call for chain in chains for call in chain]

        def messages(prompt_id: Any, number: int, unwritten: str = "") -> list[dict[str, str]]:
            known = [journal[prompt_id, n]["text"] if (prompt_id, n) in journal else unwritten for n in range(number)]
            return chat(request(texts[prompt_id], condition, k, [text for text in known if text]), condition)

        faults: list[Exception] = []
        if calls:
            tokens = sum(count_tokens(messages(*call, unwritten="?"), tokenizer) for call in calls)
            if condition == "iterative":  # what later requests carry, and nobody has written yet
                tokens += sum((p, n) not in journal for p, number in calls for n in range(number)) * max_tokens
            answers = len(calls) * k * max_tokens
            expected = Estimate(len(calls), tokens, answers, cost(tokens, answers, prices))
            print(f"{source}: {expected}.", flush=True)
            if confirm is not None and not confirm(expected):
                raise CourseError("Nothing was sent: the estimate was not agreed to.")

            async def make(client: Any, call: tuple[Any, int]) -> None:
                answer = await ask(client, model, messages(*call), decoding)
                journal.add(_records(call, texts[call[0]], source, answer, condition, k))
                bar.update()

            # only an iterative call has to wait for the one before
            lines = chains if condition == "iterative" else [[call] for call in calls]
            options = {"api_key": key, "base_url": base_url, "timeout": timeout, "max_retries": retries}
            with progress_bar(shown=progress, total=len(calls), desc=f"sampling {source}", leave=False) as bar:
                faults = _make_calls(lines, make, options, concurrency)
            made = [journal[call] for call in calls if call in journal]
            print(f"{source}: {used(made, prices)}.", flush=True)
        if faults and isinstance(faults[0], CourseError):
            raise CourseError(f"{faults[0]} What was received is stored; the same call again makes the missing ones.")
        if faults:
            raise faults[0]
        return pd.DataFrame([journal[p, n] for p in texts for n in range(samples)])
