"""Why not just prompt? A local model's iterative and verbalised stories, and the table of all rivals at inference time.

Temperature and min-p (arXiv 2407.01082) need nothing here: both are settings of `sampling.sample_stories`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.prompting import check_condition, request, stories
from ..models.sampling import read_samples, sample_stories
from ..settings import CourseError
from .usability import check_stories, prompt_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["rival_table", "sample_local"]

ENCODERS = {"semantic": "minilm", "style": "stylometric"}


def _asked(
    prompts: pd.DataFrame, condition: str, k: int, rounds: list[pd.DataFrame]
) -> pd.DataFrame:
    """The prompts with what one round of calls asks for; an iterative one carries the earlier rounds' stories."""
    earlier = [frame.set_index("prompt_id")["text"] for frame in rounds]
    texts = [
        request(
            p.prompt, condition, k, [texts[p.prompt_id] for texts in earlier if texts[p.prompt_id]]
        )
        for p in prompts.itertuples()
    ]
    return prompts.assign(prompt=texts)


def sample_local(
    model: Any,
    tokenizer: Any,
    prompts: pd.DataFrame,
    path: str | Path,
    condition: str = "plain",
    samples: int = 4,
    max_new_tokens: int = 2048,
    source: str = "model",
    **settings: Any,
) -> pd.DataFrame:
    """The conditions of `endpoint.sample_endpoint` with a local model, in the same records, so that both compare.

    The calls of a round go through `sample_stories`, whose files lie beside `path` (`<name>.round1.jsonl` and so on):
    a killed run goes on where it stopped. The user's text is that of an endpoint's calls; a system text is not sent,
    since local models are sampled without one throughout.

    Args:
        model, tokenizer, prompts: as for `sample_stories`.
        path: JSONL file of the stories, written when all are there.
        condition: plain (one round), iterative (`samples` rounds) or verbalised (one round, one call a prompt).
        samples: stories per prompt.
        max_new_tokens: longest story in tokens; a verbalised call may have `samples` times as many.
        source: name in the records.
        settings: of `sample_stories`: batch_size, seed, temperature, min_p and so on.

    Returns:
        The stories as a frame, in order of prompts and samples.

    Raises:
        CourseError: as `sample_stories`.
    """
    check_condition(condition, samples)
    k, path = samples if condition == "verbalised" else 1, Path(path)
    rounds: list[pd.DataFrame] = []
    for number in range(samples if condition == "iterative" else 1):
        asked = _asked(prompts, condition, k, rounds)
        file = path.with_name(f"{path.stem}.round{number + 1}.jsonl")
        each = samples if condition == "plain" else 1
        rounds.append(
            sample_stories(
                model, tokenizer, asked, file, each, max_new_tokens * k, source=source, **settings
            )
        )
    original, records = dict(zip(prompts["prompt_id"], prompts["prompt"], strict=True)), []
    for number, frame in enumerate(rounds):
        for call in frame.itertuples():
            chat = tokenizer.apply_chat_template(
                [{"role": "user", "content": call.prompt}],
                add_generation_prompt=True,
                tokenize=False,
            )
            sent = len(tokenizer(chat, add_special_tokens=False)["input_ids"])
            for n, story in enumerate(stories(call.text, call.finished, condition, k)):
                records.append(
                    {
                        "prompt_id": call.prompt_id,
                        "prompt": original[call.prompt_id],
                        "sample": max(number, call.sample) + n,
                        "source": source,
                        **story,
                        "tokens": call.tokens if condition != "verbalised" else None,
                        "calls": int(not n),
                        "prompt_tokens": 0 if n else sent,
                        "completion_tokens": 0 if n else call.tokens,
                        "repeats": 0,
                        "run": call.run,
                    }
                    | ({"raw": call.text} if condition == "verbalised" and not n else {})
                )
    order = {prompt_id: place for place, prompt_id in enumerate(original)}
    records.sort(key=lambda record: (order[record["prompt_id"]], record["sample"]))
    part = path.with_name(f"{path.name}.part")
    part.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records),
        encoding="utf-8",
        newline="",
    )
    os.replace(part, path)
    return read_samples(path)


def rival_table(
    samples: pd.DataFrame,
    encoders: Mapping[str, str] = ENCODERS,
    logprob_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """One row a source: diversity, quality's proxy, failures, and tokens paid per usable story.

    Args:
        samples: stories of any number of sources, of `read_samples`; each prompt of a source needs two stories.
        encoders: measure name -> encoder name.
        logprob_range: for `check_stories`, where the samples have a column `logp`.

    Returns:
        A frame indexed by source, in the order of the samples: stories; of each measure the mean over prompts, over
        all stories (empty ones are alike) and "(usable)" ones; usable (the share: the course's proxy of quality); the
        failures of `check_stories` as shares, and unreadable (share of stories that a verbalised answer did not hold
        in the form asked for; these are short as well); calls; prompt tokens and completion tokens per usable story
        (inf without one; prompt tokens NaN for samples of `sample_stories`, which does not record them).

    Raises:
        CourseError: a prompt of a source has fewer than two stories.
    """
    import pandas as pd

    sizes = samples.groupby(["source", "prompt_id"]).size()
    if not len(samples) or sizes.min() < 2:
        raise CourseError(
            "Diversity needs at least two stories of each source to every prompt: sample more."
        )
    checks = check_stories(samples, logprob_range=logprob_range)
    known = samples.reindex(columns=["calls", "prompt_tokens", "completion_tokens", "tokens"])
    completion = known["completion_tokens"].fillna(
        known["tokens"]
    )  # what sample_stories itself records
    rows = {}
    for source, frame in samples.groupby("source", sort=False):
        own = checks.loc[frame.index]
        table = prompt_table(frame, own, encoders)
        usable, index = int(own["usable"].sum()), frame.index
        faults = own[["short", "cut", "repeating", "off_topic", "implausible"]].mean()
        unreadable = (
            frame["unreadable"].fillna(False).astype(bool).mean() if "unreadable" in frame else 0.0
        )
        paid = {
            "prompt tokens": known["prompt_tokens"][index],
            "completion tokens": completion[index],
        }
        rows[source] = {
            "stories": len(frame),
            **table[[c for name in encoders for c in (name, f"{name} (usable)")]].mean(),
            "usable": own["usable"].mean(),
            **faults,
            "unreadable": unreadable,
            "calls": int(known["calls"][index].fillna(1).sum()),
            **{
                f"{name} per usable": float(v.sum(min_count=len(v))) / usable
                if usable
                else float("inf")
                for name, v in paid.items()
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source")
