"""The sizes of a model, known without its weights, and the exact count of a LoRA adapter's parameters."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..settings import CourseError, Profile

__all__ = ["Architecture", "adapted", "architecture", "trained_parameters"]


@dataclass(frozen=True)
class Architecture:
    """A decoder of Llama's kind: attention with shared keys and values, a gated MLP, RMS norms; sizes in numbers."""

    layers: int
    width: int
    inner: int  # of the MLP
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool  # the output head is the embedding
    norms: int = 2  # a layer; Gemma 2 has 4

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear map of one layer, by the name that LoRA knows it by."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.width, q),
            "k_proj": (self.width, kv),
            "v_proj": (self.width, kv),
            "o_proj": (q, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def layer(self) -> int:
        """Parameters of one layer's linear maps."""
        return sum(n_in * n_out for n_in, n_out in self.linears.values())

    @property
    def ends(self) -> int:
        """Parameters of the embedding and, where it is not the same, the output head."""
        return (1 if self.tied else 2) * self.vocabulary * self.width

    @property
    def multiplied(self) -> int:
        """N: the parameters that a token is multiplied with. An embedding is looked up and counts as the head alone."""
        return self.layers * self.layer + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All parameters (models whose linear maps have biases have a few more)."""
        return self.layers * (self.layer + self.norms * self.width) + self.ends + self.width


# Facts of the models' public config.json files on the Hub.
KNOWN = {
    "Llama-3.1-8B": Architecture(32, 4096, 14336, 32, 8, 128, 128256, False),
    "Mistral-7B-v0.3": Architecture(32, 4096, 14336, 32, 8, 128, 32768, False),
    # Its vocabulary is not confirmed: the base's own config.json was not at hand. With 49,155 these sizes give the
    # 8,170,848,256 parameters of the instruct model (its safetensors, by a generated card of September 2026), and
    # IBM's foundation-model-stack has the same for Granite 8B (fms/models/granite.py).
    "granite-3.1-8b-base": Architecture(40, 4096, 12800, 32, 8, 128, 49155, True),
    "SmolLM2-135M": Architecture(30, 576, 1536, 9, 3, 64, 49152, True),
    "SmolLM2-360M": Architecture(32, 960, 2560, 15, 5, 64, 49152, True),
    "SmolLM2-1.7B": Architecture(24, 2048, 8192, 32, 32, 64, 49152, True),
}
KINDS = {
    "llama": 2,
    "mistral": 2,
    "granite": 2,
    "gemma2": 4,
}  # norms a layer, by config.json's model_type


def architecture(profile: Profile) -> Architecture:
    """The architecture of the profile's model: from the table above, or from the config.json of a local folder.

    Raises:
        CourseError: the model is neither, or of another kind than these formulas know.
    """
    name = os.environ.get("DDPO_MODEL") or profile.model
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    if path.is_file():
        return _read(path)
    base = (
        "SmolLM2-135M"
        if name == "smollm2-wheel"
        else name.rsplit("/", 1)[-1].removesuffix("-Instruct")
    )
    if base not in KNOWN:
        raise CourseError(
            f"The sizes of {name!r} are not known offline: give --model a folder with its config.json, or one of "
            f"{', '.join(KNOWN)}."
        )
    return KNOWN[base]


def _read(path: Path) -> Architecture:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, heads = config["model_type"], config["num_attention_heads"]
        if kind not in KINDS:
            raise CourseError(
                f"{path.name} is of a model {kind!r}; the plan's formulas know {', '.join(KINDS)}."
            )
        return Architecture(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or config["hidden_size"] // heads,
            config["vocab_size"],
            config.get("tie_word_embeddings", kind == "gemma2"),
            KINDS[kind],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(
            f"{path.name} is no model's config.json ({type(error).__name__} {error})."
        ) from None


def trained_parameters(model: Architecture, profile: Profile) -> int:
    """The adapter's parameters, exactly: r * (in + out) for each adapted linear map, in every layer.

    Raises:
        CourseError: a target is no linear map of the model's layers.
    """
    return (
        model.layers
        * profile.lora_r
        * sum(sum(model.linears[name]) for name in adapted(model, profile))
    )


def adapted(model: Architecture, profile: Profile) -> list[str]:
    """Names of the linear maps of each layer that get an adapter."""
    if profile.lora_targets == "all-linear":
        return list(model.linears)
    names = (
        [profile.lora_targets]
        if isinstance(profile.lora_targets, str)
        else list(profile.lora_targets)
    )
    if unknown := set(names) - set(model.linears):
        raise CourseError(
            f"LoRA's targets are all-linear or some of {', '.join(model.linears)}; got {unknown}."
        )
    return names
