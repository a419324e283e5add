"""Where the benchmarks keep what they measured, and what they ask the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ddpo_utils.settings import data_dir, get_profile
from ddpo_utils.storage.files import read_json, write_json
from ddpo_utils.training.run_folder import run_facts


def status(key: str) -> int:
    """Bytes in a line of Linux's /proc/self/status: VmRSS, resident memory, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


def processor() -> str:
    """The processor's name (Linux), and whether it has bfloat16 arithmetic."""
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
    bf16 = "with" if torch.cpu._is_avx512_bf16_supported() else "without"
    return f"{name}, {bf16} AVX512_BF16"


def keep(name: str, command: str, **figures: Any) -> None:
    """Write the figures under `name` into data/results/benchmarks.json, with stack and machine."""
    path = data_dir() / "results" / "benchmarks.json"
    facts = run_facts(get_profile("laptop"), command=command, processor=processor())
    del facts["settings"], facts["model"]  # a benchmark has none
    facts["versions"]["sentence-transformers"] = version("sentence-transformers")
    facts |= {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    write_json(path, read_json(path) | {name: facts | figures})
