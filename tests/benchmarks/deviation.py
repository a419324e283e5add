"""What does the closed form of the deviation buy? By hand: python tests/benchmarks/deviation.py

A corpus of r/writingPrompts' size: 421,330 rows of 1,024 float16 numbers, mapped from a file as
`embed_corpus` gives them, of 95,000 prompts in no order. Measured are seconds and peak memory of
`deviation_weights`, and on a part of the prompts the double loop's processor time as a ratio. The
figures go to data/results/benchmarks.json.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from keep import keep

from ddpo_utils import deviation_weights, raw_deviation

ROWS, WIDTH, PROMPTS = 421_330, 1024, 95_000
RUNS = 3
LOOPED_PROMPTS = 300


def double_loop(rows: np.ndarray) -> np.ndarray:
    """The definition, one pair of responses at a time."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    k = len(rows)
    deviation = np.zeros(k)
    for i in range(k):
        for j in range(k):
            if j != i:
                deviation[i] += (1 - rows[i] @ rows[j]) / (k - 1)
    return deviation


def random_corpus(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mapped rows and each row's prompt."""
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (ROWS, WIDTH))
    for start in range(0, ROWS, 8192):
        part = rows[start : start + 8192]
        part[:] = rng.standard_normal(part.shape, dtype="f4") + 0.5
    rows.flush()
    # at least two responses a prompt, and a long tail, as votes and comments have one
    share = rng.lognormal(0, 1, PROMPTS)
    tail = rng.choice(PROMPTS, ROWS - 2 * PROMPTS, p=share / share.sum())
    groups = np.concatenate([np.arange(PROMPTS), np.arange(PROMPTS), tail])
    rng.shuffle(groups)
    return np.load(path, mmap_mode="r"), groups


def main(folder: Path) -> None:
    rows, groups = random_corpus(folder / "rows.npy")
    seconds: dict[str, list[float]] = {"numbers": [], "texts": []}
    for name, ids in (("numbers", groups), ("texts", groups.astype(str))):
        for _ in range(RUNS):
            start = time.perf_counter()
            deviation_weights(rows, groups=ids)
            seconds[name].append(round(time.perf_counter() - start, 2))
    # Linux counts in KiB, mapped pages included
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    start = time.process_time()
    raw = raw_deviation(rows, groups)
    closed_form = (time.process_time() - start) / ROWS
    sizes = np.bincount(groups)
    rng = np.random.default_rng(1)
    looped_rows, loop, largest = 0, 0.0, 0.0
    for prompt in rng.choice(np.flatnonzero(sizes > 2), LOOPED_PROMPTS, replace=False):
        responses = rows[groups == prompt].astype(np.float64)
        start = time.process_time()
        deviation = double_loop(responses)
        loop += time.process_time() - start
        looped_rows += len(responses)
        largest = max(largest, np.abs(raw[groups == prompt] - deviation).max())
    figures = {
        "seconds_by_kind_of_prompt_id": seconds,
        "peak_bytes": peak,
        "rows_bytes": rows.nbytes,
        "double_loop_prompts": LOOPED_PROMPTS,
        "double_loop_times_the_processor_time": round(loop / looped_rows / closed_form, 1),
        "largest_difference_from_double_loop": float(f"{largest:.0e}"),
    }
    print(figures)
    command = "python tests/benchmarks/deviation.py"
    keep("deviation", command, rows=ROWS, width=WIDTH, prompts=PROMPTS, **figures)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
