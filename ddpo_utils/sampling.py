"""Samples of a local model, appended to a JSONL file as they come; a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .profiles import CourseError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_samples", "sample_stories"]

# The paper's decoding (arXiv 2503.17126, section 4): temperature 1.0, top-p 0.95, top-k 50, repetition penalty 1.1.
DECODING = {"temperature": 1.0, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}


def _fingerprint(model: Any, plan: list[Any]) -> str:
    """Short hash of the weights that matter and of everything the samples depend on."""
    digest = hashlib.sha256(json.dumps(plan, ensure_ascii=False, sort_keys=True).encode())
    digest.update(str(getattr(model, "name_or_path", "")).rsplit("/", 1)[-1].encode() + str(model.dtype).encode())
    for name, parameter in model.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().float().sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _whole_batches(path: Path, fingerprint: str, sizes: list[int]) -> int:
    """How many whole batches `path` holds of this run; a broken-off last batch is cut from the file.

    Only what a killed run leaves is cut: anything else in the file is refused, since it may be someone's work.
    """
    if not path.exists():
        return 0
    kept, keep_bytes, done, rows = 0, 0, 0, 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") and line.startswith(b'{"prompt_id"'[: len(line)]):
                break  # a run was killed while it wrote this line
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or record.get("run") != fingerprint:
                raise CourseError(
                    f"{path} holds something else than samples of this model with these settings: delete it, or sample "
                    "into another file."
                )
            rows += 1
            keep_bytes += len(line)
            if done < len(sizes) and rows == sum(sizes[: done + 1]):
                done, kept = done + 1, keep_bytes
    with path.open("rb+") as file:
        file.truncate(kept)
    return done


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
    **decoding: float,
) -> pd.DataFrame:
    """Sample `samples` responses to every prompt, in batches with left padding, and append them to `path`.

    Each batch has its own seed, made of `seed` and its number, and is written in one go: an interrupted run, called
    again, does the missing batches alone and ends with the file that an unbroken run writes.

    Args:
        model, tokenizer: of `policy.load_policy`; the prompt goes through the tokenizer's chat template.
        prompts: a frame with `prompt_id` and `prompt`, one prompt a row.
        path: JSONL file; one record a sample: prompt_id, prompt, sample, source, text, tokens, finished, run.
        samples: responses per prompt.
        max_new_tokens: longest response in tokens; a longer one is cut and has finished = false.
        batch_size: sequences decoded at once.
        seed: of the sampling.
        source: name of the model in the records.
        progress: show a progress bar.
        decoding: overrides of temperature, top_p, top_k, repetition_penalty.

    Returns:
        All samples of the file as a frame.

    Raises:
        CourseError: the file holds samples of another model or other settings.

    Source of the defaults: arXiv 2503.17126, section 4 (4 samples, 2,048 new tokens, the decoding above).
    """
    from tqdm.auto import tqdm
    from transformers import set_seed

    if samples < 1 or not len(prompts):
        raise CourseError("Sampling needs at least one prompt and one sample a prompt.")
    settings = {**DECODING, **decoding}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = [(p.prompt_id, p.prompt, k) for p in prompts.itertuples() for k in range(samples)]
    batches = [work[i : i + batch_size] for i in range(0, len(work), batch_size)]
    run = _fingerprint(model, [work, settings, max_new_tokens, batch_size, seed])
    done = _whole_batches(path, run, [len(b) for b in batches])
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    for number in tqdm(range(done, len(batches)), desc=f"sampling {source}", disable=not progress, leave=False):
        batch = batches[number]
        chats = [[{"role": "user", "content": prompt}] for _, prompt, _ in batch]
        texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        set_seed(int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big"))
        with torch.no_grad():
            out = model.generate(
                **inputs.to(device), do_sample=True, max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id, **settings,
            )  # fmt: skip
        new = out[:, inputs["input_ids"].shape[1] :]
        stops = model.generation_config.eos_token_id
        ids = torch.tensor(stops if isinstance(stops, list) else [stops], device=new.device)
        ended = torch.isin(new, ids)
        lengths = torch.where(ended.any(1), ended.float().argmax(1), new.shape[1])
        lines = []
        for (prompt_id, prompt, k), tokens, length, finished in zip(
            batch, new, lengths.tolist(), ended.any(1).tolist(), strict=True
        ):
            record = {
                "prompt_id": prompt_id, "prompt": prompt, "sample": k, "source": source,
                "text": tokenizer.decode(tokens[:length], skip_special_tokens=True).strip(),
                "tokens": length, "finished": finished, "run": run,
            }  # fmt: skip
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write("".join(lines))
    model.train(was_training)
    return read_samples(path)


def read_samples(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Samples of one or more JSONL files as one frame, in order.

    Raises:
        CourseError: a file is missing or broken off.
    """
    import pandas as pd

    frames = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if not Path(path).is_file():
            raise CourseError(f"There are no samples at {path}: run the sampling that writes them first.")
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows += [json.loads(line)] if line else []
            except ValueError:
                raise CourseError(
                    f"Line {number} of {path} is broken off: run the sampling that writes it again."
                ) from None
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)
