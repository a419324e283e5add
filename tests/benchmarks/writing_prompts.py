"""Time and memory to prepare r/writingPrompts: python tests/benchmarks/writing_prompts.py [posts]

Writes invented posts (default: 84,000 with 420,000 responses of 400 words in the median), loads
them in a fresh process with SmolLM2's tokenizer, and makes the pairs. Target for 420,000: 12
minutes of the processor and 6 GB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))


def write(path: Path, posts: int) -> None:
    from awkward_posts import ENDINGS, MIDDLES, OPENINGS, post, write_posts

    rng = np.random.default_rng(0)
    sentences = np.array([*OPENINGS, *MIDDLES, *ENDINGS], dtype=object)
    words = np.mean([len(sentence.split()) for sentence in sentences])
    rows = []
    for number in range(posts):
        lengths = rng.lognormal(np.log(400), 0.8, size=rng.geometric(1 / 5))
        stories = []
        for length in np.clip(lengths, 20, 5000):
            places = rng.integers(len(sentences), size=int(length / words) + 1)
            stories.append(" ".join(sentences[places]) + f" “{rng.integers(10**6)}”")
        votes = np.round(rng.lognormal(1.5, 1.5, size=len(stories))).astype(int) - 2
        rows.append(post(f"[WP] Somebody finds door {number}", "", stories, votes.tolist()))
    write_posts(path, rows, row_group_size=1000)


def timed(name, call, *args, **options):
    clock, processor = time.perf_counter(), time.process_time()
    result = call(*args, **options)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name}: {clock:.1f} s, {processor:.1f} s of the processor; peak so far {peak:,.0f} MB")
    return result


def load(path: Path) -> None:
    from ddpo_utils import get_profile, make_pairs
    from ddpo_utils.corpus.writing_prompts import load_writing_prompts, print_report
    from ddpo_utils.models.policy import load_tokenizer

    tokenizer = timed("tokenizer", load_tokenizer, get_profile("laptop"))
    frame, report = timed("loading", load_writing_prompts, path, tokenizer)
    pairs = timed("pairs", make_pairs, frame[frame["split"] == "train"], min_gap=5)
    print_report(report)
    print(f"{frame['text'].str.len().sum() / 1e6:,.0f} million characters; {len(pairs):,} pairs")


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(Path(sys.argv[2]))
    else:
        posts = int(sys.argv[1]) if len(sys.argv) > 1 else 84_000
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "posts.parquet"
            write(source, posts)
            subprocess.run([sys.executable, __file__, "load", str(source)], check=True)
