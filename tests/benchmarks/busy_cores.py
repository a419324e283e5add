"""What does sampling cost on busy cores? By hand: python tests/benchmarks/busy_cores.py

SmolLM2 samples 12 tokens of 12 sequences in a new process, with torch's idle threads spinning (its
default) and sleeping (settings.SLEEPING), on quiet cores and beside two processes that
multiply matrices. The figures, seconds of the best of TURNS, go to data/results/benchmarks.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ddpo_utils.settings import SLEEPING

TURNS = 3
LIMIT = 300  # seconds of one sampling
LOOP = "import torch\na = torch.randn(700, 700)\nwhile True: a @ a"
SAMPLE = """
import tempfile, time
import pandas as pd
from ddpo_utils import get_profile, load_policy, sample_stories
policy = load_policy(get_profile("smoke"))
prompts = pd.DataFrame({"prompt_id": ["a"], "prompt": ["Write a story."]})
with tempfile.TemporaryDirectory() as folder:
    for turn in range(2):  # the first warms up
        started = time.perf_counter()
        sample_stories(*policy, prompts, f"{folder}/{turn}.jsonl", 12, 12)
print(time.perf_counter() - started)
"""
SPINNING = {name: value for name, value in os.environ.items() if name not in SLEEPING}


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes beside it, whose threads spin."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], env=SPINNING) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def seconds(environment: dict[str, str]) -> float:
    """Of one sampling in a new process; LIMIT if it takes longer."""
    command = [sys.executable, "-c", SAMPLE]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return float(LIMIT)
    return float(done.stdout.split()[-1])


def main() -> None:
    from keep import keep

    arms = {"spinning": SPINNING, "sleeping": SPINNING | SLEEPING}
    figures: dict[str, dict[str, float]] = {}
    for name, processes in {"quiet": 0, "busy": 2}.items():
        with load(processes):
            turns = [[seconds(variables) for variables in arms.values()] for _ in range(TURNS)]
        best = dict(zip(arms, np.min(turns, axis=0).round(2).tolist(), strict=True))
        figures[name] = best | {"times_as_fast": round(best["spinning"] / best["sleeping"], 2)}
        print(name, figures[name], flush=True)
    keep("busy_cores", "python tests/benchmarks/busy_cores.py", turns=TURNS, seconds_best=figures)


if __name__ == "__main__":
    main()
