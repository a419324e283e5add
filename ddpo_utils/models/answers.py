"""Short answers of a model, an endpoint's or a local one; each is stored and asked for once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..corpus.text import as_messages
from ..settings import CourseError, progress_bar
from ..storage.answer_store import AnswerStore, Key, Record
from ..storage.files import short_digest, text_key
from .calls import Calls
from .endpoint import Decoding, Endpoint
from .prompting import Chat, render, with_counts
from .sampling import complete, fingerprint

__all__ = ["LocalModel", "get_answers"]


@dataclass(frozen=True)
class LocalModel:
    """A local model (of `policy.load_policy`) that answers greedily, in batches.

    Rounding depends on the batch, and may decide between two tokens that are nearly as likely.
    `name` is the model's in records.
    """

    model: Any
    tokenizer: Any
    name: str
    batch_size: int = 8


def get_answers(
    requests: Sequence[str], path: str | Path, model: Endpoint | LocalModel, max_tokens: int
) -> list[Record]:
    """The model's answer to each request, stored in the JSONL file `path` as it comes.

    The same call again asks for what is missing only; equal requests share one answer.

    Args:
        requests: the user's text of each chat; some models' chat templates refuse a system text.
        max_tokens: longest answer in tokens, a reasoning model's reasoning included.

    Returns:
        A record for each request, in order: prompt (the request), text ("" for no answer), finished
        (False where a limit or a filter cut it), source (the model), prompt_tokens,
        completion_tokens (None where an endpoint does not count), repeats, and others.

    Raises:
        CourseError: `path` holds something else, or answers of another model or other settings; a
            request is too long for a local model; as `calls.Calls.make`.
    """
    if isinstance(model, Endpoint):
        settings = model.settings(Decoding(model.temperature, None, max_tokens))
        run = short_digest("answers", model.model, settings, length=16)
    else:
        weights = fingerprint(model.model, [max_tokens])
        run = short_digest("answers", model.name, weights, length=16)
    keys = [text_key(text) for text in requests]
    texts = dict(zip(keys, requests, strict=True))

    def messages(call: Key, _: str) -> Chat:
        return as_messages("user", texts[call[0]])

    with AnswerStore(Path(path), run, texts, lambda key: [key], model.name) as store:
        missing = {key: text for key, text in texts.items() if (key, 0) not in store.records}
        if missing and isinstance(model, Endpoint):
            chains = [[(key, 0)] for key in missing]
            Calls(model, store, settings, messages).make(chains, max_tokens)
        elif missing:
            _ask_local(model, missing, max_tokens, store)
        return [store.records[key, 0] for key in keys]


def _ask_local(
    local: LocalModel, requests: Mapping[str, str], max_tokens: int, store: AnswerStore
) -> None:
    lengths = {}
    for key, text in zip(requests, render(local.tokenizer, requests.values()), strict=True):
        lengths[key] = len(local.tokenizer(text, add_special_tokens=False)["input_ids"])
    longest = max(lengths.values())
    context = getattr(local.model.config, "max_position_embeddings", math.inf)
    if longest + max_tokens > context:
        raise CourseError(
            f"A request of {longest} tokens and an answer of {max_tokens} are more than the "
            f"{context} that {local.name} reads: take shorter stories, summaries, or another model."
        )
    # longest first: little padding, and a batch that does not fit fails first
    order = sorted(requests, key=lengths.__getitem__, reverse=True)
    # greedy, whatever the model's own settings for sampling are
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    starts = range(0, len(order), local.batch_size)
    for start in progress_bar(starts, desc=local.name, leave=False):
        keys = order[start : start + local.batch_size]
        batch = [requests[key] for key in keys]
        answers = complete(local.model, local.tokenizer, batch, max_tokens, **greedy)
        for key, answer in zip(keys, answers, strict=True):
            answer |= {"prompt_tokens": lengths[key], "repeats": 0}
            store.add((key, 0), with_counts({**answer, "completion_tokens": answer["tokens"]}))
