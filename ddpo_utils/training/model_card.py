"""The model card that every adapter folder carries: data, settings and measured results of its run."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

__all__ = ["model_card"]


def model_card(record: dict[str, Any], results: str = "") -> str:
    """A model card in Markdown: data, settings and measured results of a run's record.

    Args:
        record: of run.json.
        results: an evaluation's table in Markdown, where one was made.
    """
    settings, arm = record["settings"], record["arm"]
    last = record["log"][-8:]
    names = {
        "loss": "loss",
        "rewards/margins": "reward margin (nats)",
        "rewards/chosen": "reward of the chosen (nats)",
        "rewards/accuracies": "reward accuracy",
        "log_odds_chosen": "log odds ratio (nats)",
        "mean_token_accuracy": "token accuracy",
    }
    measured = []
    for key, name in names.items():
        with suppress(ZeroDivisionError):
            values = [entry[key] for entry in last if key in entry]
            measured.append(
                f"| {name}, mean of the last {len(values)} logged steps | {sum(values) / len(values):.3f} |"
            )
    for step, kl in record.get("kl", {}).items():
        measured.append(
            f"| KL from the SFT model at step {step}, along its own stories (nats a story) | {kl:.2f} |"
        )
    count = (
        f"{record['pairs']} preference pairs"
        if "pairs" in record
        else f"{record['stories']} stories"
    )
    what = {
        "sft": "supervised fine-tuning",
        "dpo": "DPO (every weight 1)",
        "orpo": "ORPO (every weight 1)",
        "shuffled": "DPO with shuffled deviation weights (a control)",
        "dorpo": f"Diversified ORPO (deviation weights: {settings['weights']})",
        "divpo": f"DPO on DivPO's pairs (chosen by deviation: {settings['weights']})",
    }.get(arm.partition("-")[0], f"Diversified DPO (deviation weights: {settings['weights']})")
    rows = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    table = "\n".join(measured)
    return f"""---
base_model: {json.dumps(record["model"])}
library_name: peft
tags: [creative-writing, {arm}]
---

# {record["model"].rsplit("/", 1)[-1]}, {arm}

A LoRA adapter made by {what}, with `ddpo_utils` (arXiv 2503.17126). Load it with plain PEFT:

```python
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{record["model"]}"), "this folder")
```

## Data

{count}; data set: {settings["data"]}. A model trained on them may repeat what they contain.

## Measured

| in training | |
| --- | --- |
{table}

{results or "It has not been evaluated: a margin is not diversity, and a training curve is not a test."}

Trained in {record["seconds"] / 60:.0f} minutes on {record["hardware"]}, {record["processes"]} process(es), by code
{record["code"]}; torch {record["versions"]["torch"]}, transformers {record["versions"]["transformers"]}, trl
{record["versions"]["trl"]}, peft {record["versions"]["peft"]}. The KL is that of the next-token distributions.

## Settings

| setting | value |
| --- | --- |
{rows}
"""
