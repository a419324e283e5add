"""Samples of a local model in a JSONL file; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..settings import CourseError, progress_bar
from ..storage.answers import AnswerStore
from ..storage.files import read_jsonl
from .prompting import check_condition, check_prompts, render

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DECODING", "complete", "fingerprint", "read_samples", "sample_stories"]


BATCHING = {"batch_size": 24, "seed": 42, "rank": 0, "ranks": 1}
# Source: arXiv 2503.17126, section 4
DECODING = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}


def fingerprint(model: Any, plan: list[Any]) -> str:
    """Short digest of a model's weights and of everything else that its answers depend on.

    Weights are summed as the integers that their bits are: exact on every device. Frozen weights
    are left out of a model with adapters, which its name stands for.
    """
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    digest = hashlib.sha256(json.dumps(plan, ensure_ascii=False, sort_keys=True).encode())
    name = str(getattr(model, "name_or_path", "")).rsplit("/", 1)[-1]
    digest.update(f"{name}{model.dtype}".encode())
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            bits = parameter.detach().view(integers[parameter.element_size()])
            digest.update(f"{name} {bits.sum(dtype=torch.int64).item()}".encode())
    return digest.hexdigest()[:16]


def complete(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, **settings: Any
) -> list[tuple[str, int, bool]]:
    """The model's answer to each prompt: text, number of tokens, whether the model ended it.

    All prompts are one batch with left padding and go through the chat template.

    Args:
        model, tokenizer: of `policy.load_policy`.
        max_new_tokens: longest answer in tokens.
        settings: of the model's `generate`.
    """
    texts = render(tokenizer, prompts)
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(next(model.parameters()).device)
    settings = {"pad_token_id": tokenizer.pad_token_id, **settings}
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, **settings)
    new = out[:, inputs["input_ids"].shape[1] :]
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    ends = torch.isin(new, torch.tensor(stops, device=new.device))
    finished = ends.any(1)
    lengths = torch.where(finished, ends.float().argmax(1), new.shape[1]).tolist()
    return [
        (tokenizer.decode(tokens[:length], skip_special_tokens=True).strip(), length, ended)
        for tokens, length, ended in zip(new, lengths, finished.tolist(), strict=True)
    ]


def sample_stories(
    model: Any,
    tokenizer: Any,
    prompts: pd.DataFrame,
    path: str | Path,
    samples: int = 4,
    max_new_tokens: int = 2048,
    source: str = "model",
    progress: bool = True,
    **settings: float,
) -> pd.DataFrame:
    """Sample `samples` responses to every prompt, and append them to `path` batch by batch.

    Each batch has its own seed, so an interrupted run, called again, ends with the file of an
    uninterrupted one. Several processes (`rank`, `ranks`) share the batches; the last one to
    finish joins their files.

    Args:
        model, tokenizer: of `policy.load_policy`; prompts go through the chat template.
        prompts: a frame with `prompt_id` (each once) and `prompt`. In order of length, longest
            first, batches hold little padding, and memory runs out at once or never.
        path: JSONL file; a record has prompt_id, prompt, sample, source, text, tokens, finished
            (False: cut at the limit), run.
        samples: responses per prompt.
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

    check_condition("plain", samples)
    check_prompts(prompts)
    settings = {**BATCHING, **DECODING, **settings}
    size, seed, rank, ranks = (settings.pop(name) for name in BATCHING)
    texts = dict(zip(prompts["prompt_id"].tolist(), prompts["prompt"].tolist(), strict=True))
    keys = [(prompt_id, number) for prompt_id in texts for number in range(samples)]
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    batch_of = {key: batch for batch in batches for key in batch}
    work = [(prompt_id, texts[prompt_id], number) for prompt_id, number in keys]
    run = fingerprint(model, [work, settings, max_new_tokens, size, seed])
    was_training = model.training
    model.eval()
    with AnswerStore(path, run, texts, batch_of.__getitem__, rank) as store:
        share = range(rank, len(batches), ranks)
        missing = [number for number in share if batches[number][0] not in store.records]
        shown = progress and rank == 0
        for number in progress_bar(missing, shown, desc=f"sampling {source}", leave=False):
            batch = batches[number]
            _seed_batch(seed, number)
            asked = [texts[prompt_id] for prompt_id, _ in batch]
            try:
                answers = complete(
                    model, tokenizer, asked, max_new_tokens, do_sample=True, **settings
                )
            except torch.OutOfMemoryError:
                raise CourseError(
                    f"{len(batch)} sequences of up to {max_new_tokens} new tokens do not fit the "
                    "GPU's memory: lower sample_batch and name another file."
                ) from None
            records = []
            for (prompt_id, sample), answer in zip(batch, answers, strict=True):
                record = {"prompt_id": prompt_id, "prompt": texts[prompt_id], "sample": sample}
                answered = dict(zip(("text", "tokens", "finished"), answer, strict=True))
                records.append({**record, "source": source, **answered})
            store.add(records)
        found = store.join(keys)
    model.train(was_training)
    return pd.DataFrame(found)


def _seed_batch(seed: int, number: int) -> None:
    from transformers import set_seed

    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    set_seed(int.from_bytes(digest[:4], "big"))


def read_samples(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Samples of one or more JSONL files as one frame, in order.

    Raises:
        CourseError: a file is missing, broken off, or not of JSON lines.
    """
    import pandas as pd

    paths = [paths] if isinstance(paths, (str, Path)) else paths
    return pd.concat([pd.DataFrame(read_jsonl(path)) for path in paths], ignore_index=True)
