"""What the tests of the evaluation share besides fixtures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddpo_utils import Profile, get_profile
from ddpo_utils.corpus.stories import decisions
from ddpo_utils.evaluation.usability import Thresholds, course_prompts

THRESHOLDS = Thresholds.read(decisions())
LENIENT = THRESHOLDS.without(["off_topic"])  # random posts have no topic
POOL = course_prompts()
ARMS = ("sft", "dpo", "shuffled", "ddpo-sem", "ddpo")


def samples_of(folder: Path, row: str) -> Path:
    """The file of a row's samples."""
    (found,) = (p for p in folder.glob(f"{row}-*.jsonl") if len(p.stem) == len(row) + 11)
    return found


def as_flags(profile: Profile) -> list[str]:
    """The flags by which the profile 8b becomes this one."""
    table, flags = asdict(get_profile("8b")), ["--profile", "8b"]
    for name, value in asdict(profile).items():
        if value != table[name]:
            flags.append(f"--{name.replace('_', '-')}={value}")
    return flags


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """The same results, whatever was committed between the two."""
    return {**a, "code": ""} == {**b, "code": ""}


def contents(folder: Path) -> dict[str, bytes]:
    """Samples and scores by file name."""
    files = [*folder.glob("*.jsonl"), *folder.glob("*.logp.json"), *folder.glob("*.kl.json")]
    return {path.name: path.read_bytes() for path in files}
