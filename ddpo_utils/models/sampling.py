"""Samples of a model, local or served, in a JSONL file; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from ..extras import needs
from ..settings import CourseError, progress_bar
from ..storage.answer_store import AnswerStore, Record
from ..storage.files import check_as, read_jsonl, short_digest
from .calls import SERVE, Calls
from .endpoint import Endpoint
from .prompting import Asked, answer_end, check_prompts, render, stop_tokens

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DECODING", "complete", "fingerprint", "read_samples", "sample_served", "sample_stories"]

WHICH = ("sample", "source", "seed", "run")  # tell the samples of a prompt apart
BATCHING = {"batch_size": 24, "seed": 42, "rank": 0, "ranks": 1}
# Source: arXiv 2503.17126, section 4
DECODING = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}


class _Sample(BaseModel, strict=True):
    """What is read of a sample's record."""

    prompt_id: str | int
    text: str
    prompt: str = ""
    sample: int = 0
    source: str = ""
    finished: bool = True


def fingerprint(model: Any, plan: list[Any]) -> str:
    """Short digest of a model's weights and of everything else that its answers depend on.

    Weights are summed as the integers that their bits are: exact on every device. Frozen weights
    of a model with adapters are left out: its name identifies them.
    """
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    facts = json.dumps(plan, ensure_ascii=False, sort_keys=True)
    model_name = str(getattr(model, "name_or_path", "")).rsplit("/", 1)[-1]
    facts += f"{model_name}{model.dtype}"
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            bits = parameter.detach().view(integers[parameter.element_size()])
            total = bits.sum(dtype=torch.int64).item()
            facts += f"{name} {total}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def complete(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, **settings: Any
) -> list[Record]:
    """The model's answer to each prompt: text, tokens (number), finished (by the model itself).

    All prompts are one batch with left padding and go through the chat template; `settings` are
    those of `generate`. CourseError: the batch does not fit the GPU's memory.
    """
    texts = render(tokenizer, prompts)
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(next(model.parameters()).device)
    stops = stop_tokens(model.generation_config, tokenizer)
    settings |= {"pad_token_id": tokenizer.pad_token_id, "max_new_tokens": max_new_tokens}
    settings["eos_token_id"] = stops
    try:
        with torch.no_grad():
            out = model.generate(**inputs, **settings)
    except torch.OutOfMemoryError:
        raise CourseError(
            f"{len(texts)} sequences of up to {max_new_tokens} new tokens do not fit the GPU's "
            "memory: lower the batch (sample_batch, for new samples in a new file)."
        ) from None
    prompt_length = inputs["input_ids"].shape[1]
    answers = []
    for tokens in out[:, prompt_length:].tolist():
        ends = [position for position, token in enumerate(tokens) if token in stops]
        length = ends[0] if ends else len(tokens)
        text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
        answers.append({"text": text.strip(), "tokens": length, "finished": bool(ends)})
    return answers


@needs("train")
def sample_stories(
    model: Any,
    tokenizer: Any,
    prompts: pd.DataFrame,
    path: str | Path,
    samples: int = 4,
    max_new_tokens: int = 2048,
    source: str = "model",
    **settings: float,
) -> pd.DataFrame:
    """Sample `samples` responses to every prompt, and append them to `path` batch by batch.

    Each batch has its own seed, so an interrupted run, called again, ends with the file of an
    uninterrupted one. Several processes share the batches; the last to finish joins their files.

    Args:
        model, tokenizer: of `policy.load_policy`.
        prompts: a frame with `prompt_id` (each once) and `prompt`. Sorted by length, longest
            first, they need little padding, and a batch that does not fit fails first.
        path: JSONL file; `finished` is False in a record that was cut at the limit.
        max_new_tokens: longest response in tokens.
        source: name of the model in the records.
        settings: batch_size (sequences decoded at once), seed, rank and ranks (number of this
            process and of all), and those of `generate` (temperature, min_p, ...).

    Returns:
        All samples that are stored when this process has done its share, as a frame, in order.

    Raises:
        CourseError: bad prompts; the file holds samples of another model or other settings, or
            another process uses it; a batch does not fit the GPU's memory.
    """
    import pandas as pd
    from transformers import set_seed

    texts = check_prompts(prompts, samples)
    settings = {**BATCHING, **DECODING, **settings}
    size, seed, rank, ranks = (settings.pop(name) for name in BATCHING)
    keys = [(prompt_id, number) for prompt_id in texts for number in range(samples)]
    batches, batch_of = [], {}
    for start in range(0, len(keys), size):
        batch = keys[start : start + size]
        batches.append(batch)
        batch_of |= dict.fromkeys(batch, batch)
    work = [(prompt_id, texts[prompt_id], number) for prompt_id, number in keys]
    run = fingerprint(model, [work, settings, max_new_tokens, size, seed])
    was_training = model.training
    model.eval()
    with AnswerStore(Path(path), run, texts, batch_of.__getitem__, source, rank) as store:
        share = range(rank, len(batches), ranks)
        missing = [number for number in share if batches[number][0] not in store.records]
        for number in progress_bar(missing, rank == 0, desc=f"sampling {source}", leave=False):
            batch = batches[number]
            batch_prompts = [texts[prompt_id] for prompt_id, _ in batch]
            digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
            set_seed(int.from_bytes(digest[:4], "big"))
            answers = complete(
                model, tokenizer, batch_prompts, max_new_tokens, do_sample=True, **settings
            )
            store.add(batch[0], answers)
        found = store.join(keys)
    model.train(was_training)
    return pd.DataFrame(found)


def sample_served(
    endpoint: Endpoint,
    engine: str,
    tokenizer: Any,
    stops: Sequence[int],
    prompts: pd.DataFrame,
    path: str | Path,
    samples: int = 4,
    max_new_tokens: int = 2048,
    **settings: Any,
) -> None:
    """Sample as `sample_stories` does, from the engine of a server: see `served_models`.

    Prompts are rendered here, since a server's chat template need not be that of training. A
    record's `source` names model, host and engine, and its `tokens` count the answer's end.

    Args:
        tokenizer, stops: of `policy.load_stops`.
        settings: those of `generate`.

    Raises:
        CourseError: bad prompts, another process uses the file, or as `calls.Calls.make`.
    """
    texts = check_prompts(prompts, samples)
    settings = {**DECODING, **settings}
    run = short_digest(engine, settings, stops, max_new_tokens, length=16)
    body = {**settings, "stop_token_ids": stops, "max_tokens": max_new_tokens}
    if engine == SERVE:
        settings |= {"do_sample": True, "pad_token_id": tokenizer.pad_token_id}
        settings |= {"eos_token_id": stops, "max_new_tokens": max_new_tokens}
        body = {"generation_config": json.dumps(settings)}
    keys = [(prompt_id, number) for prompt_id in texts for number in range(samples)]
    asked: dict[Any, Asked] = {}
    for prompt_id, text in zip(texts, render(tokenizer, texts.values()), strict=True):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if engine == SERVE and tokenizer(text)["input_ids"] != tokens:
            text = text.removeprefix(tokenizer.bos_token or "")  # the server's tokenizer adds it
        asked[prompt_id] = {"prompt": text if engine == SERVE else tokens}
    source = f"{endpoint.model} at {endpoint.host} ({engine})"
    with AnswerStore(Path(path), run, texts, lambda key: [key], source) as store:
        chains = [[key] for key in keys if key not in store.records]
        if chains:
            _, end = answer_end(tokenizer)  # engines leave it in unless it is a special token
            calls = Calls(endpoint, store, body, lambda call, _: asked[call[0]], end=end)
            calls.make(chains, max_new_tokens)
        store.join(keys)


def read_samples(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Samples of one or more JSONL files as one frame, in order; a repeated record counts once.

    Raises:
        CourseError: a file is missing, cut off, or not of JSON lines; a record has no prompt_id or
            text or a field of another type; a sample has two texts, or a prompt_id two prompts.
    """
    import pandas as pd

    if isinstance(paths, (str, Path)):
        paths = [paths]
    prompts: dict[Any, Any] = {}
    records = []
    for path in paths:
        samples: dict[Any, Record] = {}
        for number, record in enumerate(read_jsonl(path), 1):
            check_as(_Sample, record, f"Record {number} of {path}", "Correct or delete that line.")
            prompt_id, prompt = record["prompt_id"], record.get("prompt")
            key = (prompt_id, *(record.get(name) for name in WHICH))
            known = samples.setdefault(key, record) if "sample" in record else record
            if known["text"] != record["text"] or prompts.setdefault(prompt_id, prompt) != prompt:
                raise CourseError(
                    f"Record {number} of {path} gives the prompt_id {prompt_id!r} another prompt, "
                    "or its sample another text, than a record before: delete one of them."
                )
            if known is record:
                records.append(record)
    return pd.DataFrame(records)
