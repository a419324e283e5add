"""The folder of a training run: its settings before it starts, its adapter and record at the end.

<folder>/config.yaml      settings; `python -m ddpo_utils train --config` repeats the run
<folder>/checkpoints/     where a killed run goes on
<folder>/adapter_*        the PEFT adapter; run.json: its record; README.md: its model card
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, fields
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..models.policy import public_name
from ..settings import PROFILES, CourseError, Profile, get_profile
from ..storage.adapters import adapter_digest
from ..storage.files import SEAL, check_seal, read_json, write_json, write_text
from ..storage.markdown import markdown_table, markdown_text
from .arms import Arm

__all__ = [
    "adapter_digest",
    "is_plain_adapter",
    "last_checkpoint",
    "model_card",
    "open_run",
    "process",
    "read_config",
    "read_record",
    "run_facts",
    "save_run",
]

STACK = ("torch", "transformers", "trl", "peft", "accelerate", "numpy")

# Settings that change nothing about a training run but rounding.
_SAMPLING = {"sample_prompts", "samples", "max_new_tokens", "sample_batch"}
_JUDGING = {"judge_semantic", "judge_style", "reward"}
_JUDGING |= {"min_words", "repeat_share", "on_topic_rank"}
_MACHINE = {"attention", "micro_batch", "gradient_checkpointing", "precompute_reference"}
_NO_EFFECT = {"name", "report_to", "checkpoint_every"} | _SAMPLING | _JUDGING | _MACHINE
# Settings that a method does not read.
_SFT = {field.name for field in fields(Profile) if field.name.startswith("sft_")}
_DPO = {"beta", "learning_rate", "epochs", "nll_weight"}
_ORPO = {"orpo_beta", "orpo_learning_rate", "orpo_epochs"}
_WEIGHTS = {"weights", "floor", "semantic", "style"}
_UNUSED = {
    "sft": _WEIGHTS | _DPO | _ORPO | {"min_gap", "batch_size", "steps"},
    "dpo": _SFT | _ORPO | _WEIGHTS,
    "ddpo": _SFT | _ORPO,
    "divpo": _SFT | _ORPO | {"floor", "min_gap"},
    "orpo": _SFT | _DPO | _WEIGHTS,
    "dorpo": _SFT | _DPO,
}

# Of the model card.
LAST_STEPS = 8  # logged steps whose mean the card gives
FIGURES = {
    "loss": "loss",
    "rewards/margins": "reward margin (nats)",
    "rewards/chosen": "reward of the chosen (nats)",
    "rewards/accuracies": "reward accuracy",
    "log_odds_chosen": "log odds ratio (nats)",
    "mean_token_accuracy": "token accuracy",
}
DESCRIPTIONS = {
    "sft": "supervised fine-tuning",
    "dpo": "DPO (every weight 1)",
    "orpo": "ORPO (every weight 1)",
    "shuffled": "DPO with shuffled deviation weights (a control)",
    "ddpo": "Diversified DPO (deviation weights: {weights})",
    "dorpo": "Diversified ORPO (deviation weights: {weights})",
    "dorpo-shuffled": "ORPO with shuffled deviation weights (a control)",
    "divpo": "DPO on DivPO's pairs (chosen by deviation: {weights})",
}


def process() -> Any:
    """accelerate's state of this process, alone or one of several."""
    from accelerate import PartialState

    if PartialState._shared_state:
        return PartialState()
    # barriers wait while the first process prepares the data, which may take hours
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def run_facts(profile: Profile, **more: Any) -> dict[str, Any]:
    """What a record names: model, settings, code and stack versions, hardware; no path, no key."""
    device = f"CPU, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    settings = asdict(profile)
    for name, value in settings.items():
        if isinstance(value, str) and Path(value).is_absolute():
            settings[name] = Path(value).name
    return {
        "model": public_name(profile),
        "code": _commit(),
        "versions": {name: version(name) for name in STACK},
        "python": platform.python_version(),
        "hardware": f"{device}, {platform.system()} {platform.machine()}",
        "settings": settings,
        **more,
    }


def _commit() -> str:
    """The clone's short commit; "unknown" for an installed wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def is_plain_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter that no run of this package made."""
    made_here = [(folder / name).exists() for name in ("config.yaml", "checkpoints", "run.json")]
    return (folder / "adapter_config.json").is_file() and not any(made_here)


def read_config(path: Path) -> tuple[Profile, Arm, dict[str, Any]]:
    """(profile with its settings, arm, all entries) of a config.yaml that `open_run` wrote."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("an alias")  # a few of them can name billions of values
        given = yaml.safe_load(text)
        profile = get_profile(given["profile"], **given["settings"])
        return profile, Arm.parse(str(given.get("arm", "ddpo")), profile.weights), given
    except (
        OSError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
    ) as error:
        raise CourseError(
            f"{path} is no configuration of a run ({type(error).__name__}): name the config.yaml "
            "in a run's folder, or delete the folder of a damaged run."
        ) from None


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the finished run in the folder.

    CourseError where it is damaged, or the adapter beside it is not the one that was trained.
    """
    path = folder / "run.json"
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("log"), list):
        raise CourseError(
            f"{path} is damaged: delete it, and `train` ends the run again from its checkpoints."
        )
    digest = adapter_digest(folder)
    if record.get("adapter", digest) != digest:
        raise CourseError(
            f"The adapter in {folder} is not the one that its run.json records: delete run.json, "
            "and `train` ends the run again from its checkpoints."
        )
    return record


def open_run(
    folder: Path, profile: Profile, arm: Arm, sft: Path | None = None
) -> dict[str, Any] | None:
    """The record if the folder holds this run, finished; else config.yaml is written or compared.

    CourseError where it holds a run with other settings, or from another SFT adapter.
    """
    import yaml

    path = folder / "config.yaml"
    finished = (folder / "run.json").is_file()
    begun = finished or any(folder.glob("checkpoints/*-*"))
    origin = {"sft": adapter_digest(sft)} if sft else {}
    if begun and path.is_file():
        stored, _, given = read_config(path)
        before = origin | given | asdict(stored)
        for name, value in (_decisive(profile, arm) | origin).items():
            if before[name] != value:
                raise CourseError(
                    f"{folder} holds a run with {name} {before[name]!r}, and {value!r} is asked "
                    "for: name another folder (--output) or delete it."
                )
    elif process().is_main_process and not finished:
        settings = json.loads(json.dumps(asdict(profile)))  # YAML has lists and no tuples
        name = settings.pop("name")
        config = {"profile": name if name in PROFILES else "laptop", "arm": arm.name}
        text = yaml.safe_dump(config | origin | {"settings": settings}, sort_keys=False)
        command = f"python -m ddpo_utils train --config {path.name} --output FOLDER"
        write_text(path, f"# Repeat this run: {command}\n{text}")
    record = read_record(folder) if finished else None
    process().wait_for_everyone()  # no process may write before all have looked
    return record


def _decisive(profile: Profile, arm: Arm) -> dict[str, Any]:
    """The settings that decide what a run of the arm gives."""
    free = _NO_EFFECT | _UNUSED[arm.method]
    if profile.nll_weight and arm.starts_from_sft:
        free = free - {"micro_batch"}  # the NLL is a mean over the tokens of a micro-batch
    return {name: value for name, value in asdict(profile).items() if name not in free}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in folder/checkpoints; the others are deleted."""
    steps = {}
    for path in (folder / "checkpoints").glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            step = int(path.name.rsplit("-", 1)[1])
            if (path / SEAL).exists():
                check_seal(path)
            if state["global_step"] != step:  # of a file that transformers writes last
                raise ValueError
            steps[step] = path
        except (OSError, ValueError, KeyError, TypeError, CourseError):
            if process().is_main_process:
                shutil.rmtree(path, ignore_errors=True)
    process().wait_for_everyone()
    return steps[max(steps)] if steps else None


def save_run(trainer: Any, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record, as every process and a later call read it; adapter, card and run.json saved."""
    import psutil

    # collective: FSDP gathers its shards
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
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
        config = read_json(folder / "adapter_config.json")
        config["base_model_name_or_path"] = record["model"]  # in place of this machine's path
        if isinstance(config["target_modules"], list):  # PEFT has a set: equal runs, equal files
            config["target_modules"].sort()
        write_json(folder / "adapter_config.json", config)
        record["adapter"] = adapter_digest(folder)
        write_text(folder / "README.md", model_card(record))
        write_json(folder / "run.json", record)  # last: it marks the run as finished
    process().wait_for_everyone()
    return read_record(folder)


def model_card(record: dict[str, Any], results: str = "") -> str:
    """The card of a run's record (run.json) in Markdown, with the front matter that the Hub reads.

    `results` is the table of an evaluation in Markdown, where there is one.
    """
    settings, versions, model = record["settings"], record["versions"], record["model"]
    names = ("torch", "transformers", "trl", "peft")
    stack = ", ".join(f"{name} {versions[name]}" for name in names)
    # the older records of data/adapters do not name weights and processes
    arm = Arm.parse(record["arm"], settings.get("weights", "both"))
    processes = record.get("processes", 1)
    description = DESCRIPTIONS[arm.command].format(weights=arm.weights)
    if arm.method == "sft":
        examples = f"{record['stories']} stories"
    else:
        examples = f"{record['pairs']} preference pairs"
    return f"""---
base_model: {json.dumps(model)}
library_name: peft
tags: [creative-writing, {record["arm"]}]
---

# {markdown_text(model.rsplit("/", 1)[-1])}, {record["arm"]}

A LoRA adapter made by {description}, with `ddpo_utils` (arXiv 2503.17126). Load it with plain PEFT:

```python
base = AutoModelForCausalLM.from_pretrained({json.dumps(model)})
model = PeftModel.from_pretrained(base, "this folder")
```

## Data

{examples}; data set: {markdown_text(settings["data"])}.
A model trained on them may repeat what they contain.

## Measured

| in training | |
| --- | --- |
{_measured(record)}

{results or "It has not been evaluated: figures of training do not measure diversity."}

Trained in {record["seconds"] / 60:.0f} minutes on {markdown_text(record["hardware"])}, {processes}
process(es), by code {markdown_text(record["code"])}; {markdown_text(stack)}. The KL is that of the
next-token distributions.

## Settings

{markdown_table(["setting", "value"], settings.items())}
"""


def _measured(record: dict[str, Any]) -> str:
    """Rows of the table of training figures."""
    rows = []
    last = record["log"][-LAST_STEPS:]
    for key, name in FIGURES.items():
        values = [entry[key] for entry in last if key in entry]
        if values:
            mean = sum(values) / len(values)
            rows.append(f"| {name}, mean of the last {len(values)} logged steps | {mean:.3f} |")
    for step, kl in record.get("kl", {}).items():
        watched = f"KL from the SFT model at step {step}, along its own stories (nats a story)"
        rows.append(f"| {watched} | {kl:.2f} |")
    return "\n".join(rows)
