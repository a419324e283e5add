"""How long does r/writingPrompts take to prepare? Run it by hand: python tests/benchmarks/writing_prompts.py [posts]

Writes posts of invented sentences (20,000 unless told; about 5 responses each, 400 words in the median, a long tail),
then, in a fresh process, loads them with SmolLM2's tokenizer and makes the pairs: seconds on the clock and of the
processor, and the process's peak memory. Not collected by pytest: a test asserts no times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))


def write(path: Path, posts: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from awkward_posts import BUT, ENDINGS, FINDS, MIDDLES, OPENINGS, WHO, post

    rng = np.random.default_rng(0)
    sentences = np.array([*OPENINGS, *MIDDLES, *ENDINGS], dtype=object)
    words = sum(len(s.split()) for s in sentences) / len(sentences)
    writer = None
    for start in range(0, posts, 1000):
        rows = []
        for number in range(start, min(start + 1000, posts)):
            sizes = (
                np.clip(rng.lognormal(np.log(400), 0.8, size=rng.geometric(1 / 5)), 20, 5000)
                / words
            )
            stories = [
                " ".join(sentences[rng.integers(len(sentences), size=int(size) + 1)])
                for size in sizes
            ]
            title = f"[WP] {rng.choice(WHO)} finds {rng.choice(FINDS)}, but {rng.choice(BUT)} ({number})"
            votes = np.round(rng.lognormal(1.5, 1.5, size=len(stories))).astype(int) - 2
            rows.append(
                post(title, "", [f"{s} “{rng.integers(10**6)}”" for s in stories], votes.tolist())
            )
        table = pa.Table.from_pylist(rows)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def load(path: Path) -> None:
    import resource

    from transformers import AutoTokenizer

    from ddpo_utils import make_pairs
    from ddpo_utils.corpus.writing_prompts import load_writing_prompts, print_report
    from ddpo_utils.models.policy import fetch_smollm2

    tokenizer = AutoTokenizer.from_pretrained(fetch_smollm2())

    def timed(name, call):
        clock, processor = time.perf_counter(), time.process_time()
        result = call()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name}: {clock:.1f} s, {processor:.1f} s of the processor; peak of the process so far {peak:,.0f} MB"
        )
        return result

    timed("imports and tokenizer", lambda: tokenizer("warm"))
    frame, report = timed("loading", lambda: load_writing_prompts(path, tokenizer))
    pairs = timed("pairs", lambda: make_pairs(frame[frame["split"] == "train"], min_gap=5))
    print_report(report)
    print(
        f"{frame['text'].str.len().sum() / 1e6:,.0f} million characters kept; {len(pairs):,} training pairs"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "posts.parquet"
            write(source, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
            subprocess.run([sys.executable, __file__, "load", str(source)], check=True)
