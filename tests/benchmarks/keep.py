"""What the benchmarks share: where they keep what they measured (data/results/benchmarks.json, one entry a benchmark),
and what they ask the machine."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ddpo_utils.settings import data_dir, get_profile
from ddpo_utils.storage.files import write_json
from ddpo_utils.training.runs import run_facts


def status(key: str) -> int:
    """Bytes of one line of Linux's /proc/self/status: VmRSS, what is resident, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def processor() -> str:
    """The processor's name, and whether it has bfloat16 arithmetic."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    bf16 = "with" if torch.cpu._is_avx512_bf16_supported() else "without"
    return f"{names[0] if names else platform.processor()}, {bf16} AVX512_BF16"


def keep(name: str, command: str, **figures: Any) -> None:
    """Put the figures into the file under `name`, with what made them and the machine's load at the end."""
    path = data_dir() / "results" / "benchmarks.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    facts = run_facts(get_profile("laptop"), command=command, processor=processor())
    del facts["settings"], facts["model"]  # a benchmark has none
    facts["versions"]["sentence-transformers"] = version("sentence-transformers")
    write_json(
        path,
        known
        | {
            name: facts | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]} | figures
        },
    )
