"""Invented answers and judgements in NoveltyBench's layout; none of its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddpo_utils.course.noveltybench import SOURCES
from ddpo_utils.storage.files import write_jsonl

PROMPTS = {
    "curated-0": "Write a poem about a kettle.",
    "curated-1": "Name a colour.",
    "curated-2": "Tell me a short STORY, please!",
    "curated-3": "Draw a sign.",
}
THINGS = ["kettle", "river", "moth", "ladder", "winter", "salt", "engine", "garden", "pen", "bell"]


def _texts(prompt_id: str, source: str) -> list[str]:
    """Eight answers by people, all different; ten of the others, which share most words."""
    if source == "humans":
        if prompt_id == "curated-3":
            return [*THINGS[:7], "!!"]  # one answer holds no word
        return [f"{thing} and {THINGS[i - 1]} {prompt_id}" for i, thing in enumerate(THINGS[:8])]
    return [f"The old {source} sang of the {thing} that night" for thing in THINGS]


def answer_records(source: str) -> list[dict[str, Any]]:
    """The records of a source's file; the models' files have another order than the people's."""
    records = []
    for prompt_id, prompt in PROMPTS.items():
        texts = _texts(prompt_id, source)
        classes = [number // 2 for number in range(len(texts))]
        if prompt_id == "curated-1":
            classes = list(range(len(texts)))
        record = {"id": prompt_id, "prompt": prompt, "generations": texts, "partition": classes}
        records.append(record | {"utility": 1.0})
    return records if source == "humans" else records[::-1]


def label_records(count: int) -> list[dict[str, Any]]:
    """Pairs to one prompt each: an alike one shares most words, a different one none."""
    records = []
    for number in range(count):
        alike = number % 3 == 0
        first = f"the {THINGS[number % 10]} {number}"
        second = f"the {THINGS[number % 10]} again" if alike else f"{THINGS[number % 7 - 1]}s fell"
        pair = {"generation_0": first, "generation_1": second, "similar": int(alike)}
        records.append({"id": f"wild-{number}", "prompt": f"Question {number}", **pair})
    return records


def write_noveltybench(folder: Path, inside: str = "sample_data") -> Path:
    """The folder, with all seven files in its folder `inside`."""
    for source in SOURCES:
        write_jsonl(folder / inside / f"{source}.jsonl", answer_records(source))
    write_jsonl(folder / inside / "labels-train.jsonl", label_records(30))
    write_jsonl(folder / inside / "labels-val.jsonl", label_records(12))
    return folder
