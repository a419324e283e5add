"""Samples of a local model, appended to a JSONL file as they come; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..settings import CourseError, progress_bar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_samples", "sample_stories"]

# The paper's decoding (arXiv 2503.17126, section 4): temperature 1.0, top-p 0.95, top-k 50, repetition penalty 1.1.
DECODING = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}


def _fingerprint(model: Any, plan: list[Any]) -> str:
    """Short hash of the weights that matter and of everything the samples depend on.

    Weights are summed as the integers that their bits are: exact, so neither device nor thread count moves it.
    """
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    digest = hashlib.sha256(json.dumps(plan, ensure_ascii=False, sort_keys=True).encode())
    digest.update(
        str(getattr(model, "name_or_path", "")).rsplit("/", 1)[-1].encode()
        + str(model.dtype).encode()
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            total = parameter.detach().view(kinds[parameter.element_size()]).sum(dtype=torch.int64)
            digest.update(f"{name} {total.item()}".encode())
    return digest.hexdigest()[:16]


def _whole_batches(path: Path, run: str, batches: list[list[Any]]) -> dict[int, bytes]:
    """The lines of each whole batch of this run that `path` holds, by the batch's number, in the order of the file.

    What a killed run left of its last batch is passed over; anything else in the file is refused, since it may be
    someone's work.
    """
    starts = {batch[0]: number for number, batch in enumerate(batches)}
    found: dict[int, bytes] = {}
    lines: list[bytes] = []
    number = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return found
    with file:
        for line in file:
            if not line.endswith(b"\n") and line.startswith(b'{"prompt_id"'[: len(line)]):
                break  # a run was killed, or is just now at work, in the middle of this line
            try:
                record = json.loads(line)
                what = record["prompt_id"], record["prompt"], record["sample"]
                number = number if lines else starts[what]
                foreign = record["run"] != run or what != batches[number][len(lines)]
            except (ValueError, LookupError, TypeError):
                foreign = True
            if foreign:
                raise CourseError(
                    f"{path} holds something else than samples of this model with these settings: delete it, or sample "
                    "into another file."
                )
            lines.append(line)
            if len(lines) == len(batches[number]):
                found[number], lines = b"".join(lines), []
    return found


def _gather(path: Path, run: str, batches: list[list[Any]], rank: int) -> dict[int, bytes]:
    """The whole batches in `path` and in other processes' files beside it; once all are there, they become one file
    in order. Whichever process comes last does this, and two that come at once write the same."""
    parts = sorted(path.parent.glob(f"{escape(path.name)}.[0-9]*"))
    found: dict[int, bytes] = {}
    for file in (path, *parts):
        found |= _whole_batches(file, run, batches)
    if len(found) == len(batches) and (parts or list(found) != list(range(len(batches)))):
        scratch = path.with_name(f"{path.name}.part{rank}")
        scratch.write_bytes(b"".join(found[number] for number in range(len(batches))))
        os.replace(scratch, path)
        for part in parts:
            part.unlink(missing_ok=True)
    return found


def complete(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, **settings: Any
) -> list[tuple[str, int, bool]]:
    """The model's answer to each prompt, all in one batch with left padding, through the chat template.

    Args:
        model, tokenizer: of `policy.load_policy`.
        max_new_tokens: longest answer in tokens.
        settings: of the model's `generate`.

    Returns:
        Of each prompt the text, its tokens, and whether the model ended it itself.
    """
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    with torch.no_grad():
        out = model.generate(
            **inputs.to(next(model.parameters()).device),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        )
    new = out[:, inputs["input_ids"].shape[1] :]
    stops = model.generation_config.eos_token_id
    ended = torch.isin(
        new, torch.tensor(stops if isinstance(stops, list) else [stops], device=new.device)
    )
    lengths = torch.where(ended.any(1), ended.float().argmax(1), new.shape[1]).tolist()
    return [
        (tokenizer.decode(tokens[:length], skip_special_tokens=True).strip(), length, finished)
        for tokens, length, finished in zip(new, lengths, ended.any(1).tolist(), strict=True)
    ]


def sample_stories(
    model: Any,
    tokenizer: Any,
    prompts: pd.DataFrame,
    path: str | Path,
    samples: int = 4,
    max_new_tokens: int = 2048,
    batch_size: int = 24,
    seed: int = 42,
    source: str = "model",
    progress: bool = True,
    rank: int = 0,
    ranks: int = 1,
    **decoding: float,
) -> pd.DataFrame:
    """Sample `samples` responses to every prompt, in batches with left padding, and append them to `path`.

    Each batch has its own seed, made of `seed` and its number, and is written in one go: an interrupted run, called
    again, does the missing batches alone and ends with the file that an unbroken run writes. Several processes may
    share the work, and may be more or fewer when a run goes on: every batch is the same whoever does it. (The first
    appends to `path`, number 2 to `path`.2 and so on; the last to finish makes one file of them.)

    Args:
        model, tokenizer: of `policy.load_policy`; the prompt goes through the tokenizer's chat template.
        prompts: a frame with `prompt_id` (each once) and `prompt`, one prompt a row. In order of length, longest
            first, batches hold little padding, and memory runs out at once or never.
        path: JSONL file; one record a sample: prompt_id, prompt, sample, source, text, tokens, finished, run.
        samples: responses per prompt.
        max_new_tokens: longest response in tokens; a longer one is cut and has finished = false.
        batch_size: sequences decoded at once.
        seed: of the sampling.
        source: name of the model in the records.
        progress: show a progress bar.
        rank, ranks: number of this process, from 0, and how many there are.
        decoding: overrides of temperature, top_p, top_k, repetition_penalty; also min_p, which is not set otherwise.

    Returns:
        All samples that are there when this process has done its share, as a frame, in order.

    Raises:
        CourseError: the file holds samples of another model or other settings; no prompt or no sample is asked for, or
            an id occurs twice; a batch does not fit the GPU's memory.

    Source of the defaults: arXiv 2503.17126, section 4 (4 samples, 2,048 new tokens, the decoding above).
    """
    import pandas as pd
    from transformers import set_seed

    if samples < 1 or not len(prompts):
        raise CourseError("Sampling needs at least one prompt and one sample a prompt.")
    if not prompts["prompt_id"].is_unique:
        raise CourseError(
            "A prompt_id occurs twice among the prompts: give each prompt an id of its own."
        )
    settings = {**DECODING, **decoding}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = [(p.prompt_id, p.prompt, k) for p in prompts.itertuples() for k in range(samples)]
    batches = [work[i : i + batch_size] for i in range(0, len(work), batch_size)]
    run = _fingerprint(model, [work, settings, max_new_tokens, batch_size, seed])
    own = path.with_name(f"{path.name}.{rank + 1}") if rank else path
    if own.exists():  # a broken-off last batch is cut off
        whole = sum(map(len, _whole_batches(own, run, batches).values()))
        with own.open("rb+") as file:
            file.truncate(whole)
    done = _gather(path, run, batches, rank)
    missing = [number for number in range(rank, len(batches), ranks) if number not in done]
    was_training = model.training
    model.eval()
    for number in progress_bar(
        missing, shown=progress and rank == 0, desc=f"sampling {source}", leave=False
    ):
        batch = batches[number]
        set_seed(int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big"))
        try:
            answers = complete(
                model,
                tokenizer,
                [prompt for _, prompt, _ in batch],
                max_new_tokens,
                do_sample=True,
                **settings,
            )
        except torch.OutOfMemoryError:
            raise CourseError(
                f"{len(batch)} sequences of up to {max_new_tokens} new tokens do not fit the GPU's memory: lower the "
                "setting sample_batch and sample into another file."
            ) from None
        lines = []
        for (prompt_id, prompt, k), (text, tokens, finished) in zip(batch, answers, strict=True):
            record = {
                "prompt_id": prompt_id,
                "prompt": prompt,
                "sample": k,
                "source": source,
                "text": text,
                "tokens": tokens,
                "finished": finished,
                "run": run,
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        with own.open("a", encoding="utf-8", newline="") as file:
            file.write("".join(lines))
    model.train(was_training)
    found = _gather(path, run, batches, rank)
    return pd.DataFrame(
        [
            json.loads(line)
            for number in sorted(found)
            for line in found[number].split(b"\n")
            if line
        ]
    )


def read_samples(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Samples of one or more JSONL files as one frame, in order.

    Raises:
        CourseError: a file is missing, broken off, or none of JSON lines.
    """
    import pandas as pd

    frames = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if not Path(path).is_file():
            raise CourseError(
                f"There are no samples at {path}: run the sampling that writes them first."
            )
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError:
            raise CourseError(
                f"{path} is no text in UTF-8: name a file of samples (JSONL)."
            ) from None
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows += [json.loads(line)] if line else []
            except ValueError:
                if number == len(lines) and line.startswith(
                    "{"
                ):  # a run was killed in the middle of it
                    fault = "is broken off: run the sampling that writes it again"
                else:
                    fault = "is no JSON object: name a file of samples (JSONL)"
                raise CourseError(f"Line {number} of {path} {fault}.") from None
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)
