"""Embeddings of a whole corpus: each distinct text once, by length, in shards on disk, on whatever devices there are.

A killed run, called again, does the missing shards alone; a text that is added later is embedded alone. Whoever embeds
takes the next shard that is neither there nor claimed, so worker processes, the ranks of `accelerate launch` and
separate runs on one folder share the work, and a dead one's share falls to the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..settings import CourseError, cache_dir, progress_bar
from .encoders import SentenceModel, load_encoder, shared_model
from .shards import claim, contents, gather, shard_path, text_key, write_shard

__all__ = ["embed_corpus"]

SHARD = 256  # texts in a shard, which is what a kill can cost each process
# Tokens in a batch times bytes of a number: a CPU is fastest while a batch stays in its cache
# (tests/benchmarks/embedding.py), a GPU with many tokens at once.
BATCH_BYTES = {"cpu": 2**13, "cuda": 2**17}


def _number_type(half: bool) -> torch.dtype:
    """By what the processor says it has, not by a timing: every process of a run must choose the same."""
    if not half:
        return torch.float32
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _encode(name: str, half: bool, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows (n, d) in float32, and the tokens at which the encoder cut each text (n,), 0 for a whole one."""
    encoder = load_encoder(name).encoder
    if not isinstance(encoder, SentenceModel):
        return encoder.encode(texts), np.zeros(len(texts), dtype=int)
    model = shared_model(encoder.name, encoder.content, _number_type(half))
    tokens, limit = model.token_counts(texts), model.limit
    read = np.maximum(1, np.minimum(tokens, limit))
    budget = BATCH_BYTES.get(model.device, BATCH_BYTES["cpu"]) // model.dtype.itemsize
    # by tokens: of batches made by characters a seventh would be padding
    order, rows, start = np.argsort(-tokens, kind="stable"), [], 0
    while start < len(order):
        size = max(1, int(budget // read[order[start]]))
        rows.append(model.rows([texts[i] for i in order[start : start + size]], size))
        start += size
    return np.concatenate(rows)[np.argsort(order)], np.where(tokens > limit, limit, 0).astype(int)


def _do(name: str, half: bool, store: Path, texts: list[str]) -> bool:
    """Embed one shard, unless it is there; False where another process is at it."""
    path = shard_path(store, texts)
    with claim(path) as mine:
        if mine and not path.exists():
            rows, cut = _encode(name, half, texts)
            write_shard(path, texts, rows.astype(np.float16 if half else np.float32), cut)
    return path.exists()


def _start_worker(numbers: multiprocessing.Queue, threads: int) -> None:
    # sentence-transformers takes the GPU of this number, as under torchrun, whatever torch's current device is
    os.environ["LOCAL_RANK"] = str(numbers.get() % max(1, torch.cuda.device_count()))
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    # a worker whose parent was killed would wait for work for ever
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _do_all(
    do: Callable[[list[str]], bool], shards: list[list[str]], processes: int, bar: Any
) -> None:
    """Return when every shard is there, whoever embedded it."""
    pool = None
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        numbers = context.Queue()
        for i in range(processes):
            numbers.put(i)
        threads = max(1, torch.get_num_threads() // processes)
        pool = ProcessPoolExecutor(processes, context, _start_worker, (numbers, threads))
    run = pool.map if pool else map
    try:
        while shards:
            left = []
            for shard, there in zip(shards, run(do, shards), strict=True):
                if there:
                    bar.update(sum(map(len, shard)))
                else:
                    left.append(shard)
            if len(left) == len(shards):
                time.sleep(0.5)  # others are at all that is left
            shards = left
    except BrokenProcessPool:
        raise CourseError(
            "A process that embedded was ended, mostly for want of memory: call again with fewer processes (and in a "
            "script below `if __name__ == '__main__':`); the finished shards are kept."
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def embed_corpus(
    texts: Sequence[str],
    encoder: str,
    folder: Path | None = None,
    half: bool = True,
    processes: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Unit rows of N texts; each distinct text is embedded once and kept in `folder`.

    Under `accelerate launch` (or torchrun) every rank calls it with the same texts, on a folder that all ranks see;
    each takes shards while there are any, and all return the same rows.

    Args:
        texts: N texts; order and repetition do not matter.
        encoder: a name that `encoders.load_encoder` takes.
        folder: where shards and rows lie; None: `embeddings` in the cache. They are known by the encoder's content
            and the texts' hashes, so corpora and encoders may share a folder.
        half: compute in bfloat16 or float16 where the processor has such arithmetic, and keep float16 rows: with
            MiniLM in bfloat16 cosines move by up to 0.006 and weights by up to 0.04 (tests/benchmarks/embedding.py).
            A batch that overflows float16 is computed in float32. Without `half` all is float32.
        processes: worker processes, which share this process's threads; None: one for each GPU, or none on CPU.
        progress: show the remaining time.

    Returns:
        (N, d) unit rows, float16 or (without `half`) float32, mapped from a file that is not to be written. A warning
        says how many texts the encoder cut, if any.

    Raises:
        CourseError: a text that is none, an encoder that cannot be loaded, a folder that is full or cannot be
            written, a damaged shard, a worker that was ended. What was finished is kept.
    """
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise CourseError(f"Text {i} is {text!r}, not a text: leave it out of the corpus.")
    loaded, rows_type = load_encoder(encoder), np.float16 if half else np.float32
    if not texts:
        return loaded.encode([]).astype(rows_type)
    rank = int(os.environ.get("RANK", 0))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # the other devices are the other ranks'
        processes = 1
    processes = processes or max(1, torch.cuda.device_count())

    number_type = str(_number_type(half)).removeprefix("torch.")
    store = (
        folder or cache_dir() / "embeddings"
    ) / f"{loaded.key}-{number_type}-{np.dtype(rows_type)}"
    keys = [text_key(text) for text in texts]
    held = contents(store)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in held}
    # Longest first: memory runs out at once or never. Cut by position, so that what a broken-off run has left, which
    # is whole shards, falls into the same shards again.
    order = sorted(missing, key=lambda key: (-len(missing[key]), key))
    shards = [[missing[key] for key in order[i : i + SHARD]] for i in range(0, len(order), SHARD)]
    with progress_bar(
        shown=progress and rank == 0 and bool(missing),
        total=sum(map(len, missing.values())),
        desc=f"embedding, {encoder}",
        unit="char",
        unit_scale=True,
        leave=False,
    ) as bar:
        _do_all(partial(_do, encoder, half, store), shards, min(processes, len(shards)), bar)

    if missing:
        held = contents(store)
        if torch.cuda.is_available():  # the training that follows needs the memory
            del loaded
            shared_model.cache_clear()
            torch.cuda.empty_cache()

    limits = [held[key].cut for key in set(keys) if held[key].cut]
    if limits and rank == 0:
        said = f"{encoder} reads {max(limits)} tokens: {len(limits)} of {len(set(keys))} texts are cut."
        warnings.warn(said, stacklevel=2)
    return gather(store, keys, held)
