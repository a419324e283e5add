"""Samples of a model behind an OpenAI-compatible endpoint; each answer is stored as it comes and never paid for again.

Whether an endpoint charges for an answer that was lost on its way is its own affair; a record's `repeats` says how
often its call was sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import CourseError
from ..storage.journal import Journal
from .calls import OPENAI, Endpoint, ask
from .prompting import WORDING, chat, check_condition, request, stories
from .spending import Estimate, count_tokens

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["sample_endpoint"]


def _records(
    call: tuple[Any, int], prompt: str, source: str, answer: dict[str, Any], condition: str, k: int
) -> list[dict[str, Any]]:
    """The records of one call's stories; what it used, and the whole of a verbalised answer, stand on the first."""
    records = []
    for n, story in enumerate(stories(answer["text"], answer["finished"], condition, k)):
        paid = (0, 0) if n else answer["paid"]
        records.append(
            {
                "prompt_id": call[0],
                "prompt": prompt,
                "sample": call[1] + n,
                "source": source,
                **story,
                "tokens": paid[1] if condition != "verbalised" else None,
                "calls": int(not n),
                "prompt_tokens": paid[0],
                "completion_tokens": paid[1],
                "repeats": 0 if n else answer["repeats"],
            }
        )
    if condition == "verbalised":
        records[0]["raw"] = answer["text"]
    return records


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
    for prompt_id, prompt in zip(prompts["prompt_id"], prompts["prompt"], strict=True):
        if not isinstance(prompt, str) or not prompt.strip():
            raise CourseError(
                f"The prompt of the prompt_id {prompt_id!r} is no text: fill it in or leave it out."
            )
    endpoint = Endpoint(
        model,
        base_url,
        temperature,
        top_p,
        key_variable,
        concurrency,
        timeout,
        retries,
        prices,
        tokenizer,
        confirm,
    )
    k = samples if condition == "verbalised" else 1  # stories of one call
    source = source or f"{endpoint.name} {condition}"
    decoding = endpoint.decoding(max_tokens * k)
    texts = dict(zip(prompts["prompt_id"].tolist(), prompts["prompt"].tolist(), strict=True))
    settings = [model, source, condition, k, max_tokens, temperature, top_p, WORDING]
    with Journal(path, settings, texts, k) as journal:
        chains = [[(p, n) for n in range(0, samples, k) if (p, n) not in journal] for p in texts]
        calls = [call for chain in chains for call in chain]

        def messages(prompt_id: Any, number: int, unwritten: str = "") -> list[dict[str, str]]:
            known = [
                journal[prompt_id, n]["text"] if (prompt_id, n) in journal else unwritten
                for n in range(number)
            ]
            return chat(
                request(texts[prompt_id], condition, k, [text for text in known if text]), condition
            )

        async def make(client: Any, call: tuple[Any, int]) -> list[dict[str, Any]]:
            answer = await ask(client, model, messages(*call), decoding)
            records = _records(call, texts[call[0]], source, answer, condition, k)
            journal.add(records)
            return records

        if calls:
            tokens = sum(count_tokens(messages(*call, unwritten="?"), tokenizer) for call in calls)
            if condition == "iterative":  # what later requests carry, and nobody has written yet
                tokens += (
                    sum((p, n) not in journal for p, number in calls for n in range(number))
                    * max_tokens
                )
            # only an iterative call has to wait for the one before
            lines = chains if condition == "iterative" else [[call] for call in calls]
            endpoint.call_all(source, lines, (tokens, len(calls) * k * max_tokens), make, progress)
        return pd.DataFrame([journal[p, n] for p in texts for n in range(samples)])
