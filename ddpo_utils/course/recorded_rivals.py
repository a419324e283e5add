"""Recorded rivals at inference time: what prompting and decoding give without training, beside the recorded adapters.

python -m ddpo_utils record --rivals     data/results/rivals.jsonl and rivals.json; what is finished is kept
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..corpus.stories import decisions, load_prompts
from ..evaluation.rivals import sample_local
from ..models.policy import load_policy
from ..models.sampling import read_samples
from ..settings import data_dir, get_profile, work_dir
from ..training.runs import run_facts, write_json, write_text
from .recorded_runs import load_results

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RIVALS", "load_rivals", "record_rivals"]

RIVALS: dict[str, dict[str, Any]] = {  # adapter (none: the starting model), condition, decoding
    "SFT, temperature 1.3": {"adapter": "sft", "temperature": 1.3},
    "SFT, temperature 1.5, min-p 0.1": {
        "adapter": "sft",
        "temperature": 1.5,
        "min_p": 0.1,
        "top_p": 1.0,
        "top_k": 0,
    },
    "starting model, iterative": {"condition": "iterative"},
    "starting model, verbalised": {"condition": "verbalised"},
}


def record_rivals(samples: int = 4) -> None:
    """Samples of every rival on the 40 test prompts, by the lengths and the seed of the recorded runs."""
    profile, folder, frames = (
        get_profile("laptop", **decisions()["settings"]),
        work_dir("recorded") / "rivals",
        [],
    )
    for name, how in RIVALS.items():
        decoding = {k: v for k, v in how.items() if k not in ("adapter", "condition")}
        model, tokenizer = load_policy(
            profile, data_dir() / "adapters" / how["adapter"] if "adapter" in how else None
        )
        path = folder / f"{name.replace(' ', '-').replace(',', '')}.jsonl"
        frame = sample_local(
            model,
            tokenizer,
            load_prompts(),
            path,
            how.get("condition", "plain"),
            samples,
            profile.max_new_tokens,
            name,
            batch_size=profile.sample_batch,
            seed=profile.seed,
            **decoding,
        )
        frames.append(frame)
    kept = [
        "prompt_id",
        "sample",
        "source",
        "text",
        "tokens",
        "finished",
        "calls",
        "prompt_tokens",
        "completion_tokens",
        "unreadable",
        "probability",
    ]
    lines = "".join(
        frame.reindex(columns=kept).to_json(orient="records", lines=True, force_ascii=False)
        for frame in frames
    )
    facts = run_facts(
        profile, command="python -m ddpo_utils record --rivals", samples_per_prompt=samples
    )
    write_text(data_dir() / "results" / "rivals.jsonl", lines)
    write_json(data_dir() / "results" / "rivals.json", {**facts, "rivals": RIVALS})


def load_rivals() -> tuple[dict[str, Any], pd.DataFrame]:
    """rivals.json, and the stories of all rivals beside those of the recorded models at their last step (source)."""
    import pandas as pd

    results = data_dir() / "results"
    _, trained = load_results()
    trained = trained[trained["last"]].assign(source=trained["arm"])
    rivals = read_samples(results / "rivals.jsonl").merge(
        load_prompts()[["prompt_id", "prompt"]], on="prompt_id"
    )
    frame = pd.concat([trained, rivals], ignore_index=True)
    return json.loads((results / "rivals.json").read_text(encoding="utf-8")), frame
