"""How much faster is the closed form than the double loop? Run it by hand: python tests/benchmarks/deviation.py

Prints the ratio of the two times for one prompt of K responses, the best of five runs each, and the largest
difference of the two results. Not collected by pytest: a test asserts no times.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ddpo_utils import raw_deviation


def double_loop(rows: np.ndarray) -> np.ndarray:
    """The definition, one pair of responses at a time."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    k = len(rows)
    return np.array([sum(1 - rows[i] @ rows[j] for j in range(k) if j != i) / (k - 1) for i in range(k)])


def best(function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function(rows)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    print("   K    times faster    largest difference")
    for k in (4, 8, 32, 128, 512):
        rows = rng.normal(size=(k, 384))
        ratio = best(double_loop, rows) / best(raw_deviation, rows)
        print(f"{k:4d}    {ratio:12.1f}    {np.abs(double_loop(rows) - raw_deviation(rows)).max():18.1e}")
