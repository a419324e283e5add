"""Make the recorded rivals: what prompting and decoding give without training.

    python data/make/rivals.py      results/rivals.jsonl, rivals.json

What is finished is kept in build/recorded/rivals: call again to go on after an interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_utils.corpus.stories import decisions, load_prompts
from ddpo_utils.models.policy import load_policy
from ddpo_utils.models.prompting import check_prompts, request, stories
from ddpo_utils.models.sampling import read_samples, sample_stories
from ddpo_utils.settings import Profile, data_dir, get_profile
from ddpo_utils.storage.files import write_json, write_jsonl, write_text
from ddpo_utils.storage.locks import locked
from ddpo_utils.training.run_folder import run_facts
from recording import SMOKE_SETTINGS, folders, parser, run

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "python data/make/rivals.py"
SAMPLES = 4
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
COLUMNS = [
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


def sample_local(
    model: Any,
    tokenizer: Any,
    prompts: pd.DataFrame,
    path: Path,
    condition: str,
    samples: int,
    max_new_tokens: int,
    **settings: Any,
) -> pd.DataFrame:
    """Stories of a local model under a condition of endpoint sampling, in the same records.

    The calls of a round go through `sample_stories`, whose files (`<name>.round1.jsonl` and so on)
    let a killed run go on. No system text is sent.

    Args:
        path: JSONL file of the stories, written when all are there.
        condition: plain (one round), iterative (`samples` rounds), verbalised (one call a prompt).
        samples: stories a prompt.
        max_new_tokens: longest story; a verbalised call may have `samples` times as many.
        settings: of `sample_stories`: source, batch_size, seed, temperature and so on.

    Raises:
        CourseError: as `sample_stories`, or there is no such condition.
    """
    check_prompts(prompts, samples, condition)
    asked = samples if condition == "verbalised" else 1  # stories a call
    each = samples if condition == "plain" else 1  # calls a prompt and round
    rounds: list[pd.DataFrame] = []
    for number in range(samples if condition == "iterative" else 1):
        calls = prompts.assign(prompt=_requests(prompts, condition, asked, rounds))
        file = path.with_name(f"{path.stem}.round{number + 1}.jsonl")
        frame = sample_stories(
            model, tokenizer, calls, file, each, max_new_tokens * asked, **settings
        )
        rounds.append(frame)
    original = dict(zip(prompts["prompt_id"], prompts["prompt"], strict=True))
    records = []
    for number, frame in enumerate(rounds):
        for call in frame.itertuples():
            answers = stories(call.text, call.finished, condition, asked)
            sent = _prompt_tokens(tokenizer, call.prompt)
            for n, story in enumerate(answers):
                first = n == 0  # the call's tokens are counted once
                record = {
                    "prompt_id": call.prompt_id,
                    "prompt": original[call.prompt_id],
                    "sample": max(number, call.sample) + n,
                    "source": call.source,
                    **story,
                    "tokens": None if condition == "verbalised" else call.tokens,
                    "calls": int(first),
                    "prompt_tokens": sent if first else 0,
                    "completion_tokens": call.tokens if first else 0,
                }
                records.append(record)
    order = {prompt_id: place for place, prompt_id in enumerate(original)}
    records.sort(key=lambda record: (order[record["prompt_id"]], record["sample"]))
    write_jsonl(path, records)
    return read_samples(path)


def _requests(
    prompts: pd.DataFrame, condition: str, asked: int, rounds: list[pd.DataFrame]
) -> list[str]:
    """The texts of one round of calls; an iterative call has the earlier rounds' stories in it."""
    earlier = [frame.set_index("prompt_id")["text"] for frame in rounds]
    texts = []
    for row in prompts.itertuples():
        told = [stories[row.prompt_id] for stories in earlier if stories[row.prompt_id]]
        texts.append(request(row.prompt, condition, asked, told))
    return texts


def _prompt_tokens(tokenizer: Any, prompt: str) -> int:
    messages = [{"role": "user", "content": prompt}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(chat, add_special_tokens=False)["input_ids"])


def record_rivals(
    profile: Profile,
    prompts: pd.DataFrame,
    work: Path,
    data: Path,
    samples: int = SAMPLES,
    rivals: Mapping[str, Mapping[str, Any]] = RIVALS,
) -> None:
    """Sample every rival and store data/results/rivals.jsonl and rivals.json."""
    lines = []
    for name, rival in rivals.items():
        decoding = {k: v for k, v in rival.items() if k not in ("adapter", "condition")}
        adapter = data_dir() / "adapters" / rival["adapter"] if "adapter" in rival else None
        frame = sample_local(
            *load_policy(profile, adapter),
            prompts,
            work / f"{name.replace(' ', '-').replace(',', '')}.jsonl",
            rival.get("condition", "plain"),
            samples,
            profile.max_new_tokens,
            source=name,
            batch_size=profile.sample_batch,
            seed=profile.seed,
            **decoding,
        )
        frame = frame.reindex(columns=COLUMNS)
        lines.append(frame.to_json(orient="records", lines=True, force_ascii=False))
    facts = run_facts(profile, command=COMMAND, samples_per_prompt=samples)
    write_text(data / "results" / "rivals.jsonl", "".join(lines))
    write_json(data / "results" / "rivals.json", {**facts, "rivals": rivals})


def main() -> None:
    args = parser(__doc__).parse_args()
    work, data = folders(args, "recorded")
    settings, prompts, samples = decisions()["settings"], load_prompts(), SAMPLES
    if args.smoke:
        settings, prompts, samples = settings | SMOKE_SETTINGS, prompts.head(3), 2
    profile = get_profile("laptop", **settings)
    with locked(data / "results" / "rivals.json"):
        record_rivals(profile, prompts, work / "rivals", data, samples)


if __name__ == "__main__":
    run(main)
