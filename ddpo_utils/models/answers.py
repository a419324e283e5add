"""Short answers of a language model, an endpoint's or a local one: each is stored as it comes and asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..embeddings.shards import text_key
from ..settings import CourseError, progress_bar
from ..storage.journal import Journal
from .calls import Endpoint, ask
from .prompting import stories
from .sampling import _fingerprint, complete
from .spending import count_tokens

__all__ = ["LocalModel", "get_answers"]


@dataclass(frozen=True)
class LocalModel:
    """A local model that answers greedily, in batches. (Rounding depends on the batch, and may turn a near tie.)

    Attributes:
        model, tokenizer: of `policy.load_policy`.
        name: of the model, for records.
        batch_size: requests answered at once.
    """

    model: Any
    tokenizer: Any
    name: str
    batch_size: int = 8


def _record(
    key: str, text: str, who: str, answer: str, finished: bool, **figures: Any
) -> dict[str, Any]:
    (plain,) = stories(
        answer, finished, "plain"
    )  # without the reasoning that some servers leave in
    return {
        "prompt_id": key,
        "prompt": text,
        "sample": 0,
        "source": who,
        **plain,
        "calls": 1,
        **figures,
    }


def _ask_endpoint(
    endpoint: Endpoint, asked: dict[str, str], max_tokens: int, journal: Journal, progress: bool
) -> None:
    chats = {key: [{"role": "user", "content": text}] for key, text in asked.items()}

    async def make(client: Any, key: str) -> list[dict[str, Any]]:
        answer = await ask(client, endpoint.model, chats[key], endpoint.decoding(max_tokens))
        figures = dict(zip(("prompt_tokens", "completion_tokens"), answer["paid"], strict=True))
        record = _record(
            key,
            asked[key],
            endpoint.name,
            answer["text"],
            answer["finished"],
            **figures,
            repeats=answer["repeats"],
        )
        journal.add([record])
        return [record]

    tokens = sum(count_tokens(chat, endpoint.tokenizer) for chat in chats.values())
    endpoint.call_all(
        endpoint.name, [[key] for key in chats], (tokens, len(chats) * max_tokens), make, progress
    )


def _ask_local(
    local: LocalModel, asked: dict[str, str], max_tokens: int, journal: Journal, progress: bool
) -> None:
    chats = [[{"role": "user", "content": text}] for text in asked.values()]
    texts = local.tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    rows = local.tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = {key: len(row) for key, row in zip(asked, rows, strict=True)}
    longest, room = (
        max(lengths.values()),
        getattr(local.model.config, "max_position_embeddings", None),
    )
    if room is not None and longest + max_tokens > room:
        raise CourseError(
            f"A request has {longest} tokens, and with an answer of {max_tokens} that is more than the {room} that "
            f"{local.name} reads: take shorter stories or their summaries, or another model."
        )
    order = sorted(
        asked, key=lengths.__getitem__, reverse=True
    )  # little padding; memory runs out at once or never
    # greedy, whatever the model's own settings for sampling are
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    with progress_bar(shown=progress, total=len(order), desc=local.name, leave=False) as bar:
        for start in range(0, len(order), local.batch_size):
            keys = order[start : start + local.batch_size]
            try:
                answers = complete(
                    local.model, local.tokenizer, [asked[key] for key in keys], max_tokens, **greedy
                )
            except torch.OutOfMemoryError:
                raise CourseError(
                    f"{len(keys)} requests of up to {longest} tokens do not fit the GPU's memory: lower batch_size; "
                    "what was answered is stored."
                ) from None
            journal.add(
                [
                    _record(
                        key,
                        asked[key],
                        local.name,
                        text,
                        finished,
                        prompt_tokens=lengths[key],
                        completion_tokens=tokens,
                        repeats=0,
                    )
                    for key, (text, tokens, finished) in zip(keys, answers, strict=True)
                ]
            )
            bar.update(len(keys))


def get_answers(
    requests: Sequence[str],
    path: str | Path,
    model: Endpoint | LocalModel,
    max_tokens: int,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """The model's answer to each request, each stored in `path` as it comes.

    Called again, after a stop, a fault or with further requests, it asks for what is missing alone. Requests that are
    equal share one answer. An endpoint's calls are made as those of `endpoint.sample_endpoint`: an estimate comes
    first, a key comes from the environment alone, and after a fault what is under way is waited for and stored.

    Args:
        requests: the user's text of each chat; no system text is sent, which some models' templates refuse.
        path: JSONL file of the answers.
        model: who answers.
        max_tokens: longest answer in tokens, a reasoning model's reasoning included.
        progress: show a progress bar.

    Returns:
        A record for each request, in order: prompt (the request), text (the answer, "" where there is none), finished
        (False where a limit cut it or it was withheld), source (the model), prompt_tokens, completion_tokens (None
        where an endpoint does not count), repeats, and what the file's records have besides.

    Raises:
        CourseError: `path` holds something else, or answers of another model or under other settings; a local model
            cannot read so long a request; as `Endpoint.call_all`.
    """
    if isinstance(model, Endpoint):
        settings: list[Any] = ["answers", model.model, model.decoding(max_tokens)]
    else:
        settings = ["answers", model.name, _fingerprint(model.model, [max_tokens])]
    keys = [text_key(text) for text in requests]
    texts = dict(zip(keys, requests, strict=True))
    with Journal(path, settings, texts, 1) as journal:
        if asked := {key: text for key, text in texts.items() if (key, 0) not in journal}:
            fill = _ask_endpoint if isinstance(model, Endpoint) else _ask_local
            fill(model, asked, max_tokens, journal, progress)
        return [journal[key, 0] for key in keys]
