"""A training run's folder: its settings before it starts, its adapter, record and model card when it ends.

<folder>/config.yaml      the command's settings; `python -m ddpo_utils train --config config.yaml` repeats the run
<folder>/checkpoints/     where a killed run goes on
<folder>/adapter_*        the PEFT adapter, run.json its record, README.md its model card
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..models.policy import public_name
from ..settings import METHODS, PROFILES, CourseError, Profile, get_profile
from ..storage.files import file_digest, short_digest, write_json, write_text
from .model_card import model_card

__all__ = [
    "adapter_digest",
    "divide",
    "is_plain_adapter",
    "last_checkpoint",
    "open_run",
    "process",
    "read_config",
    "run_facts",
    "save_run",
    "short_digest",
    "write_json",
    "write_text",
]

# Settings that change nothing about a training run but rounding: it goes on, or stands, whatever they are.
_FREE = {
    "name",
    "judge_semantic",
    "judge_style",
    "reward",
    "report_to",
    "checkpoint_every",
    "attention",
    "micro_batch",
    "gradient_checkpointing",
    "precompute_reference",
    "sample_prompts",
    "samples",
    "max_new_tokens",
    "sample_batch",
}
_WEIGHTS = {"weights", "floor", "semantic", "style"}
_DPO, _ORPO = (
    {"beta", "learning_rate", "epochs", "nll_weight"},
    {"orpo_beta", "orpo_learning_rate", "orpo_epochs"},
)
# What is nothing to a method; to those that begin from SFT, ORPO's settings.
_NOTHING = {
    "sft": _WEIGHTS | _DPO | _ORPO | {"min_gap", "batch_size", "steps"},
    "dpo": _WEIGHTS | _ORPO,
    "orpo": _WEIGHTS | _DPO,
    "dorpo": _DPO,
    "divpo": _ORPO | {"floor", "min_gap"},
}


def process() -> Any:
    """accelerate's state of this process, alone or one of several; barriers wait for a day, since data preparation on
    the first process takes its time."""
    from accelerate import PartialState

    if PartialState._shared_state:
        return PartialState()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def divide(share: int, most: int) -> int:
    """The largest equal part, at most `most`, of one process's share of a batch; the rest is accumulation."""
    return max(part for part in range(1, min(share, most) + 1) if share % part == 0)


def adapter_digest(adapter: Path | None) -> str:
    """Sixteen hexadecimal digits of an adapter's content, wherever it lies; "none" for the starting model."""
    if adapter is None:
        return "none"
    return file_digest(adapter / "adapter_config.json", adapter / "adapter_model.safetensors")


def run_facts(profile: Profile, **more: Any) -> dict[str, Any]:
    """What a record must name: settings, code and stack versions, hardware. No path, no key, no host name."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("torch", "transformers", "trl", "peft", "accelerate", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    git = (
        subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
        if (Path(__file__).parents[2] / ".git").exists()
        else None
    )
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {os.cpu_count()} cores"
    )
    settings = asdict(profile)
    for name in (
        "model",
        "tokenizer",
        "semantic",
        "style",
        "judge_semantic",
        "judge_style",
        "reward",
        "data",
    ):
        if Path(settings[name]).is_absolute():
            settings[name] = Path(settings[name]).name
    return {
        "model": public_name(profile),
        "code": git.stdout.strip() if git and git.returncode == 0 else "unknown",
        "versions": versions,
        "python": platform.python_version(),
        "hardware": f"{device}, {platform.system()} {platform.machine()}",
        "settings": settings,
        **more,
    }


def read_config(path: Path) -> tuple[Profile, str]:
    """The profile with its settings, and the arm, of a config.yaml.

    Raises:
        CourseError: no such file, or not what `open_run` writes.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        profile, arm = (
            get_profile(given["profile"], **given["settings"]),
            str(given.get("arm", "ddpo")),
        )
    except OSError as error:
        raise CourseError(
            f"There is no configuration at {path} ({error.strerror}): give the config.yaml of a run."
        ) from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CourseError(
            f"{path} is no configuration of a run ({type(error).__name__}): it needs `profile` and `settings`, as in "
            "the config.yaml that a run saves."
        ) from None
    if arm.partition("-")[0] not in METHODS:
        raise CourseError(f"{path} names the arm {arm!r}: arms are of {', '.join(METHODS)}.")
    return profile, arm


def is_plain_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter that no run of this package made: it is used as it is, never trained over."""
    runs_own = ("config.yaml", "checkpoints", "run.json")
    return (folder / "adapter_config.json").is_file() and not any(
        (folder / name).exists() for name in runs_own
    )


def open_run(folder: Path, profile: Profile, arm: str, sft: Path | None = None) -> bool:
    """Write folder/config.yaml, or check that the run begun there has the same settings; True if it is finished.

    Args:
        sft: folder of the adapter that a preference arm begins from; the run is another one if its content is.

    Raises:
        CourseError: the folder holds a run with other settings, or from another SFT adapter.
    """
    import yaml

    path, finished = folder / "config.yaml", (folder / "run.json").is_file()
    free = _FREE | _NOTHING.get(arm.partition("-")[0], _ORPO)
    if profile.nll_weight and "nll_weight" not in free:
        free = free - {
            "micro_batch"
        }  # the NLL is a mean over the tokens of a part, so the parts count
    origin = adapter_digest(sft) if sft else ""
    if path.is_file() and (
        finished or any(folder.glob("checkpoints/*-*"))
    ):  # something has been done by it
        before, _ = read_config(path)
        for field in fields(Profile):
            was, now = getattr(before, field.name), getattr(profile, field.name)
            own = field.name not in free and (arm == "sft" or not field.name.startswith("sft_"))
            if own and was != now:
                raise CourseError(
                    f"{folder} holds a run with {field.name} {was!r}, and {now!r} is asked for: name another folder "
                    "(--output) or delete it."
                )
        if yaml.safe_load(path.read_text(encoding="utf-8")).get("sft", origin) != origin:
            raise CourseError(
                f"{folder} holds a run from another SFT adapter than {sft}: name another folder (--output) or "
                "delete it."
            )
    elif process().is_main_process and not finished:
        settings = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(profile).items()
            if k != "name"
        }
        begun = {"profile": profile.name if profile.name in PROFILES else "laptop", "arm": arm}
        text = yaml.safe_dump(
            begun | ({"sft": origin} if sft else {}) | {"settings": settings}, sort_keys=False
        )
        write_text(
            path,
            f"# Repeat this run: python -m ddpo_utils train --config {path.name} --output FOLDER\n{text}",
        )
    process().wait_for_everyone()  # none may start writing before every process has looked
    return finished


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in folder/checkpoints; half-written ones, left by a kill, are taken away."""
    steps = {}
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # written last
            steps[int(path.name.rsplit("-", 1)[1])] = path
        except (OSError, ValueError):
            if process().is_main_process:
                shutil.rmtree(path, ignore_errors=True)
    process().wait_for_everyone()
    return steps[max(steps)] if steps else None


def save_run(trainer: Any, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Save the adapter "default" with its record and model card; the record is returned by every process."""
    import psutil

    state = trainer.accelerator.get_state_dict(
        trainer.model_wrapped
    )  # collective: FSDP gathers its shards
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()
    record["number_type"] = str(model.dtype)
    if torch.cuda.is_available():
        record["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    record["process_bytes"] = psutil.Process().memory_info().rss
    record["processes"] = process().num_processes
    record["log"] = [entry for entry in trainer.state.log_history if "loss" in entry]
    if process().is_main_process:
        model.save_pretrained(
            folder, state_dict=state, selected_adapters=["default"], save_embedding_layers=False
        )
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = record[
            "model"
        ]  # a name that means something on other machines
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        write_text(folder / "README.md", model_card(record))
        write_json(folder / "run.json", record)  # last: it marks the run as finished
    process().wait_for_everyone()
    return json.loads(json.dumps(record))  # as a later call reads it
