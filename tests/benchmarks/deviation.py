"""What does the closed form buy? Run it by hand: python tests/benchmarks/deviation.py

First one prompt of K responses: the ratio of the double loop's time to the closed form's, the best of five runs
each, and the largest difference of the two results. Then a corpus of r/writingPrompts' size (421,330 rows of 1,024
float16 numbers, mapped from a file as `embed_corpus` gives them; 95,000 prompts in no order), in a fresh process:
seconds and peak memory of `deviation_weights`, and the double loop's time on a part of the prompts beside it, as a
ratio. The figures go to data/results/benchmarks.json. Not collected by pytest: a test asserts no times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from keep import keep

from ddpo_utils import deviation_weights, raw_deviation

ROWS, WIDTH, PROMPTS = 421_330, 1024, 95_000


def double_loop(rows: np.ndarray) -> np.ndarray:
    """The definition, one pair of responses at a time."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    k = len(rows)
    return np.array(
        [sum(1 - rows[i] @ rows[j] for j in range(k) if j != i) / (k - 1) for i in range(k)]
    )


def best(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function(rows)
        times.append(time.perf_counter() - start)
    return min(times)


def one_prompt() -> None:
    rng = np.random.default_rng(0)
    print("   K    times faster    largest difference")
    for k in (4, 8, 32, 128, 512):
        rows = rng.normal(size=(k, 384))
        ratio = best(double_loop, rows) / best(raw_deviation, rows)
        print(
            f"{k:4d}    {ratio:12.1f}    {np.abs(double_loop(rows) - raw_deviation(rows)).max():18.1e}"
        )


def random_corpus(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mapped rows and each row's prompt."""
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (ROWS, WIDTH))
    for start in range(0, ROWS, 8192):
        rows[start : start + 8192] = (
            rng.standard_normal((len(rows[start : start + 8192]), WIDTH), dtype="f4") + 0.5
        )
    rows.flush()
    # two responses a prompt at least, and a long tail as votes and comments have one
    share = rng.lognormal(0, 1, PROMPTS)
    groups = np.concatenate(
        [*[np.arange(PROMPTS)] * 2, rng.choice(PROMPTS, ROWS - 2 * PROMPTS, p=share / share.sum())]
    )
    rng.shuffle(groups)
    return np.load(path, mmap_mode="r"), groups


def corpus(folder: Path, runs: int = 3, part: int = 300) -> None:
    import resource

    rows, groups = random_corpus(folder / "rows.npy")
    counts = np.bincount(groups)
    print(
        f"{ROWS:,} rows of {WIDTH:,} float16 numbers, {PROMPTS:,} prompts of {counts.min()} to {counts.max()}"
    )
    seconds: dict[str, list[float]] = {}
    for name, ids in (("numbers", groups), ("texts", groups.astype(str))):
        for _ in range(runs):
            load, start, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
            deviation_weights(rows, groups=ids)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            seconds.setdefault(name, []).append(round(wall, 2))
            print(
                f"prompt ids as {name}: {wall:.1f} s ({cpu:.1f} s of processor time; load before: {load:.1f})"
            )
    peak = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )  # Linux counts in KiB, mapped pages included
    print(f"peak memory {peak / 2**30:.1f} GiB, {rows.nbytes / 2**30:.1f} of it the rows")
    rng = np.random.default_rng(1)
    some = rng.choice(np.flatnonzero(counts > 2), part, replace=False)
    sets = [rows[groups == g].astype(np.float64) for g in some]
    start = time.process_time()
    loops = [double_loop(rows_of_prompt) for rows_of_prompt in sets]
    loop = (time.process_time() - start) / sum(map(len, sets))
    start = time.process_time()
    raw = raw_deviation(rows, groups)
    closed = (time.process_time() - start) / ROWS
    worst = max(
        np.abs(raw[groups == g] - values).max() for g, values in zip(some, loops, strict=True)
    )
    print(
        f"double loop on {part} prompts: {loop / closed:.0f} times the processor time a row; "
        f"largest difference {worst:.0e}"
    )
    keep(
        "deviation",
        "python tests/benchmarks/deviation.py",
        rows=ROWS,
        width=WIDTH,
        prompts=PROMPTS,
        seconds_by_kind_of_prompt_id=seconds,
        peak_bytes=peak,
        rows_bytes=rows.nbytes,
        double_loop_prompts=part,
        double_loop_times_the_processor_time=round(loop / closed, 1),
        largest_difference_from_double_loop=float(f"{worst:.0e}"),
    )


if __name__ == "__main__":
    if "--corpus" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            corpus(Path(folder))
    else:
        one_prompt()
        subprocess.run([sys.executable, __file__, "--corpus"], check=True)
