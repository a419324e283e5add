"""LoRA adapters in folders: read and judged before PEFT sees them.

A configuration of somebody else may name a module to import, a model to fetch, or a regular
expression that never ends; PEFT follows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ..settings import CourseError
from .files import check_as, file_digest, read_as, read_json, short_digest

__all__ = ["adapter_digest", "check_adapter"]

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
WITHOUT_EFFECT = ("peft_version", "base_model_name_or_path", "inference_mode", "revision")

# PEFT takes layers' names as regular expressions: these characters cannot make one that hangs
Name = Annotated[str, Field(pattern=r"^\^?[\w.-]{1,200}\$?$")]
LocalOrHub = Annotated[str, Field(pattern=r"^([A-Za-z]:)?([/\\]?[^/\\:][^:]*)?$")]  # no address
Rank = Annotated[int, Field(ge=1, le=8192)]
Token = Annotated[int, Field(ge=0)]


class _Lora(BaseModel, extra="forbid", strict=True):
    """Fields of PEFT's LoraConfig that are run; another one must be absent or empty."""

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM"
    base_model_name_or_path: LocalOrHub = ""
    revision: str = ""
    peft_version: str = ""
    inference_mode: bool = False
    r: Rank = 8
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    target_modules: list[Name] | Literal["all-linear"] = []
    exclude_modules: list[Name] = []
    modules_to_save: list[Name] = []
    target_parameters: list[Name] = []
    layers_to_transform: list[Token] | Token = []
    layers_pattern: list[Name] | Name = []
    rank_pattern: dict[Name, Rank] = {}
    alpha_pattern: dict[Name, float] = {}
    trainable_token_indices: list[Token] | dict[Name, list[Token]] = []
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    use_dora: bool = False
    use_rslora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    ensure_weight_tying: bool = False
    megatron_core: Literal["megatron.core"] = "megatron.core"  # unused without megatron_config
    qalora_group_size: int = 16  # unused without use_qalora


def check_adapter(folder: str | Path) -> list[str]:
    """Names of the tensors of the LoRA adapter in a folder.

    Raises:
        CourseError: a file is missing or damaged, or the configuration names what is not run here.
    """
    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise CourseError(
                f"There is no adapter in {folder}, which lacks {name}: run notebook 04 first, name "
                "another folder, or use data/adapters."
            )
    config = read_as(dict, folder / CONFIG, "Name the folder of an adapter.")
    given = {name: value for name, value in config.items() if not _is_absent(value)}
    advice = "Plain LoRA is loaded, with layers by name, without code or models of other places."
    check_as(_Lora, given, folder / CONFIG, advice)
    return _tensor_names(folder / TENSORS)


def _is_absent(value: Any) -> bool:
    return value is None or value is False or value == {} or value == []


def _tensor_names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CourseError(
            f"{path} is damaged ({error}): copy it again, or train the adapter again."
        ) from None
    if not names:
        raise CourseError(f"{path} holds no tensors: train the adapter again.")
    return names


def adapter_digest(adapter: Path | None) -> str:
    """16 hexadecimal digits of what an adapter does; "none" for the starting model.

    Two equal runs have equal digests: the order of `target_modules` and the versions and paths in
    the configuration do not count.
    """
    if adapter is None:
        return "none"
    check_adapter(adapter)
    config = read_json(adapter / CONFIG)
    for name in WITHOUT_EFFECT:
        config.pop(name, None)
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    tensors = file_digest(adapter / TENSORS, length=64)
    return short_digest(sorted(config.items()), tensors, length=16)
