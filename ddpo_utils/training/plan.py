"""What a training run needs, by formulas: parameters, memory, work. Nothing is fetched.

Parameters are exact, the rest is estimated. Measured peaks stand in data/results/memory.json (on a
CPU) and training.json (an 8B model on an H200: the plan was 2 to 8% above them).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from ..settings import CourseError, Profile
from .arms import data_size

__all__ = [
    "HEAP",
    "KNOWN",
    "architecture",
    "flops",
    "memory",
    "peak",
    "show_plan",
    "split_batch",
    "trained_parameters",
]

_GB = 1e9
HEAD_TILE = (4096, 32768)  # tokens by words of the vocabulary in a tile of TRL's fused head
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a number: 4 bits, a scale for 64, a scale's scale
OVERHEAD = {"cuda": 1.0 * _GB, "cpu": 0.05 * _GB}  # CUDA's context; a trainer's workspaces
# On a CPU with glibc's allocator a process held 1.24 to 1.56 times what its tensors took.
HEAP = 1.4
MARGIN = 1.15  # assumed error of the formulas on a GPU, larger than what was measured on one
METHODS = {"sft": "SFT", "ddpo": "DPO arms", "orpo": "ORPO arms"}
# GB of memory: a card and its peak of dense bf16 (T4: fp16) FLOP/s, by NVIDIA's data sheets.
CARDS = {
    16: ("T4", 65e12),
    24: ("RTX 4090", 165e12),
    40: ("A100 40 GB", 312e12),
    80: ("H100 SXM", 989e12),
    141: ("H200 SXM", 989e12),
}
UTILISATION = 0.30, 0.45  # assumed share of the peak; full sequences had 0.47 on an H200


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder like Llama: grouped attention, a gated MLP, RMS norms."""

    layers: int
    width: int
    inner: int  # of the MLP
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool  # the output head is the embedding

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear map of a layer, by the name that LoRA gives it."""
        queries = self.heads * self.head_dim
        keys = self.kv_heads * self.head_dim
        return {
            "q_proj": (self.width, queries),
            "k_proj": (self.width, keys),
            "v_proj": (self.width, keys),
            "o_proj": (queries, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def linear(self) -> int:
        """Parameters of all layers' linear maps."""
        sizes = [math.prod(shape) for shape in self.linears.values()]
        return self.layers * sum(sizes)

    @property
    def multiplied(self) -> int:
        """N: the parameters that a token is multiplied with, the output head among them."""
        return self.linear + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All parameters, without biases."""
        ends = (1 if self.tied else 2) * self.vocabulary
        norms = 2 * self.layers + 1
        return self.linear + (ends + norms) * self.width


# By the models' config.json on the Hub; Granite's vocabulary by the instruct model's parameters.
KNOWN = {
    "Llama-3.1-8B": Architecture(32, 4096, 14336, 32, 8, 128, 128256, False),
    "Mistral-7B-v0.3": Architecture(32, 4096, 14336, 32, 8, 128, 32768, False),
    "granite-3.1-8b-base": Architecture(40, 4096, 12800, 32, 8, 128, 49155, True),
    "SmolLM2-135M": Architecture(30, 576, 1536, 9, 3, 64, 49152, True),
    "SmolLM2-360M": Architecture(32, 960, 2560, 15, 5, 64, 49152, True),
    "SmolLM2-1.7B": Architecture(24, 2048, 8192, 32, 32, 64, 49152, True),
}


def architecture(profile: Profile) -> Architecture:
    """The sizes of the profile's model: from the table, or from a local config.json."""
    name = os.environ.get("DDPO_MODEL") or profile.model
    base = name.rsplit("/", 1)[-1].removesuffix("-Instruct")
    if name == "smollm2-wheel":
        base = "SmolLM2-135M"
    path = Path(name)
    if not path.exists() and base in KNOWN:
        return KNOWN[base]
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if config["model_type"] not in ("llama", "mistral", "granite"):
            raise ValueError("other layers")
        heads = config["num_attention_heads"]
        return Architecture(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or config["hidden_size"] // heads,
            config["vocab_size"],
            config.get("tie_word_embeddings", False),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CourseError(
            f"The sizes of {name!r} are not known: name a folder with the config.json of a Llama, "
            f"Mistral or Granite, or one of {', '.join(KNOWN)}."
        ) from None


def _adapted(model: Architecture, profile: Profile) -> list[str]:
    """Names of the linear maps of each layer that get an adapter."""
    known = list(model.linears)
    if profile.lora_targets == "all-linear":
        return known
    names = list(profile.lora_targets)
    if not set(names) <= set(known):
        raise CourseError(f"lora_targets is all-linear or of {', '.join(known)}; got {names}.")
    return names


def trained_parameters(model: Architecture, profile: Profile) -> int:
    """The adapter's parameters: r (in + out) for each adapted linear map of each layer."""
    sizes = [sum(model.linears[name]) for name in _adapted(model, profile)]
    return model.layers * profile.lora_r * sum(sizes)


def split_batch(profile: Profile, sft: bool, processes: int) -> tuple[int, int]:
    """(stories or pairs at once on each process, parts whose gradients are accumulated)."""
    batch = profile.sft_batch_size if sft else profile.batch_size
    if processes < 1 or batch % processes:
        raise CourseError(f"A batch of {batch} cannot be shared by {processes} processes equally.")
    share = batch // processes
    part = min(share, 2 * profile.micro_batch if sft else profile.micro_batch)
    while share % part:
        part -= 1
    return part, share // part


def memory(
    profile: Profile,
    method: str = "ddpo",
    device: str = "cuda",
    gpus: int = 1,
    sharded: bool = False,
) -> dict[str, float]:
    """Bytes at the peak of a training step on each device, by part; sequences fill max_length.

    `sharded` is FSDP: a share of weights and adapters; embedding, head and two layers gathered.
    """
    if profile.attention == "eager":
        raise CourseError("What eager attention needs is not estimated: plan with sdpa.")
    model = architecture(profile)
    trained = trained_parameters(model, profile)
    float32 = profile.dtype == "float32" or (device == "cpu" and profile.dtype == "auto")
    size = 4 if float32 else 2  # bytes a number
    autocast = not float32 and device == "cuda" and not profile.quantize
    part, _ = split_batch(profile, method == "sft", gpus)
    tokens = part * profile.max_length * (1 if method == "sft" else 2)
    per_token = _kept_per_token(model, profile, size, autocast)

    # 1. weights, and the embedding, head and norms among them
    linear = model.linear * (NF4 if profile.quantize else size)
    ends = size * (model.parameters - model.linear)
    share = gpus if sharded else 1
    # FSDP's gathered weights, or DDP's gradient buckets
    several = ends + 2 * linear / model.layers if sharded else 4 * trained
    # 2. the adapter: float32 weights, gradients, Adam's two moments; in bf16 under TRL's QLoRA
    training_bytes = 8 if profile.quantize else 16
    # 3. what is kept for backward, and the larger of the head's tile and one layer's backward
    kept = model.layers * tokens * per_token + 2 * trained * autocast
    layer = tokens * size * (3 * model.inner + 2 * model.width)
    if profile.gradient_checkpointing:  # the layers' inputs alone are kept, the rest computed anew
        kept = model.layers * tokens * size * model.width
        layer += tokens * per_token
    if profile.quantize:
        layer += size * model.width * model.inner
    tile = min(tokens, HEAD_TILE[0]) * min(model.vocabulary, HEAD_TILE[1])
    tile *= size if device == "cuda" else 8 * 4 + 2  # a CPU's: 8 in float32 and 2 in bool
    head = tile + tokens * (4 + size) * model.width
    return {
        "frozen weights": (linear + ends) / share,
        "adapter, gradients, Adam": training_bytes * trained / share,
        "reference adapter": 4 * trained / share if method == "ddpo" else 0.0,
        "for several GPUs": several if gpus > 1 else 0.0,
        "kept for backward": kept,
        "working space": max(head, layer),
        "overhead": OVERHEAD[device],
    }


def _kept_per_token(model: Architecture, profile: Profile, size: int, autocast: bool) -> int:
    """Bytes a token that autograd keeps of one layer's forward pass."""
    targets = set(_adapted(model, profile))
    # the adapted maps' inputs; without autocast, maps that share an input keep it once
    if autocast:
        inputs = sum(model.linears[name][0] for name in targets)
    else:
        shared = [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]
        inputs = model.width * sum(not targets.isdisjoint(names) for names in shared)
        inputs += model.inner * ("down_proj" in targets)
    # queries, keys, values, attention's output; the MLP's gate, activation and other factor
    states = 4 * model.heads * model.head_dim + 3 * model.inner
    norms = 8 * model.width + 4 * model.heads  # with the scores' normaliser
    mask, adapters = profile.max_length, profile.lora_r * len(targets)
    return norms + size * (mask + states + inputs + adapters)


def peak(profile: Profile, device: str = "cuda", gpus: int = 1, sharded: bool = False) -> float:
    """Bytes on each device that suffice for SFT and for the preference arms."""
    needs = [memory(profile, method, device, gpus, sharded) for method in METHODS]
    return max(sum(need.values()) for need in needs)


def flops(profile: Profile, method: str = "ddpo") -> tuple[float, float]:
    """FLOPs a token: in each epoch, and once for a precomputed reference.

    2 N for each of: forward, gradients of the activations, forward again with checkpointing, the
    reference's forward. LoRA's gradients and attention's products (a few per cent) are left out.
    """
    forward = 2 * architecture(profile).multiplied
    step = (3 if profile.gradient_checkpointing else 2) * forward
    if method in ("sft", "orpo"):
        return step, 0
    if profile.precompute_reference:
        return step, forward
    return step + forward, 0


def show_plan(profile: Profile, gpu_memory: float = 80.0, gpus: int = 1) -> None:
    """Print parameters, memory on each of `gpus` cards of `gpu_memory` GB, and work."""
    import pandas as pd

    if not gpu_memory > 0:
        raise CourseError(f"--gpu-memory is a number of GB above 0; got {gpu_memory:g}.")
    model = architecture(profile)
    parts = [
        f"Profile {profile.name}, {profile.model}, on {gpus} x {gpu_memory:g} GB, whatever this "
        "machine has: estimates by the formulas in ddpo_utils/training/plan.py.\n"
        f"Parameters: {model.parameters:,}; trained: {trained_parameters(model, profile):,} "
        f"(LoRA r {profile.lora_r} on {', '.join(_adapted(model, profile))})"
    ]
    ways = {"": False} if gpus == 1 else {", DDP": False}
    if gpus > 1 and not profile.quantize:
        ways[", FSDP"] = True
    for way, sharded in ways.items():
        table = pd.DataFrame()
        for method, name in METHODS.items():
            need = memory(profile, method, gpus=gpus, sharded=sharded)
            table[name] = pd.Series(need) / _GB
        table.loc["together"] = table.sum()
        most = table.loc["together"].max()
        verdict = f"It needs {most:.1f} GB and fits in {gpu_memory:g} GB."
        if most * MARGIN > gpu_memory:
            verdict = (
                f"It needs {most:.1f} GB, known to {MARGIN - 1:.0%}, and may not fit in "
                f"{gpu_memory:g} GB. What saves memory, the mildest first: gradient_checkpointing, "
                "a micro_batch of 1, quantize, a smaller max_length; or FSDP."
            )
        parts.append(f"GB at the peak, each GPU{way}\n{table.round(1).to_string()}\n{verdict}")
    parts.append(_work(profile, gpu_memory, gpus))
    print(*parts, sep="\n\n")


def _work(profile: Profile, gpu_memory: float, gpus: int) -> str:
    """Tokens, FLOPs and hours of SFT and of each arm, as a table with its assumptions."""
    import pandas as pd

    responses, pairs, tokens, source = data_size(profile)
    sft_passes, passes, orpo_passes = profile.sft_epochs, profile.epochs, profile.orpo_epochs
    if profile.sft_steps:
        sft_passes = profile.sft_steps * profile.sft_batch_size / responses
    if profile.steps:
        asked = profile.steps * profile.batch_size
        pairs = min(pairs, asked)  # the reference scores no others
        passes = orpo_passes = asked / pairs
    step, once = flops(profile, "ddpo")
    alone, _ = flops(profile, "sft")  # ORPO has no reference either
    epoch = 2 * pairs * tokens
    rows = {
        f"SFT, {sft_passes:.3g} epochs": (responses * sft_passes * tokens, alone),
        f"DPO arm and reference, {passes:.3g} x {pairs:,} pairs": (
            epoch * passes,
            step + once / passes,
        ),
        "  of which the reference, once": (epoch, once),
        f"ORPO arm, {orpo_passes:.3g} x {pairs:,} pairs": (epoch * orpo_passes, alone),
    }
    table = pd.DataFrame(rows, index=["tokens", "FLOPs"]).T
    table["FLOPs"] *= table["tokens"]
    size = max((size for size in CARDS if size <= gpu_memory), default=min(CARDS))
    card, rate = CARDS[size]
    for share in UTILISATION:
        table[f"hours at {share:.0%}"] = table["FLOPs"] / (3600 * gpus * rate * share)
    return (
        f"{table.to_string(float_format='{:.3g}'.format)}\n"
        f"Hours on {gpus} x {card} ({size} GB) at these shares (assumed) of its "
        f"{rate / 1e12:.0f} TFLOP/s, without padding.\nData: {source}."
    )
