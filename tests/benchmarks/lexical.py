"""How fast, and how right, is wording measured? Run it by hand: python tests/benchmarks/lexical.py [texts]

On 200 texts of 200 words, cut from the bundled stories, in one run: `rouge_homogenisation` and `self_bleu` beside the
package `diversity` 0.3.1 (`pip install --no-deps diversity==0.3.1 rouge-score evaluate absl-py six`; no manifest lists
it), whose `homogenization_score` has the measures "rougel" and "bleu". The package's all-pairs runs take many minutes.
Then its values on sets whose values are known. The figures go to data/results/benchmarks.json. Not collected by pytest:
a test asserts no times.

The package's modules are loaded one by one: importing it whole needs spaCy and more. For "bleu" it fetches a script
from the Hub and runs it; sacrebleu's corpus BLEU, without smoothing and over the same tokens, takes the script's place
here, which is the same number by definition. Ours run five times and the best counts, the others run once.

What the package gets wrong, as `faults` measures it anew in every run:
    rougel     right to its three digits, but texts without one word in common score 1, the value of identical ones:
               a sum of 0 is taken for a fault, and replaced by the number of texts
    bleu       identical texts score 1 / (K - 1): a corpus score, which is a mean already, is divided once more, so
               that sets of 20 texts come out as 0.0; and texts without a common sequence score 1, as above
    gzip       gzips a gzip stream, so the ratio is too small
    n-grams    count sequences across the seam of two texts, and fail with a ZeroDivisionError on short sets
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from keep import keep

from ddpo_utils import load_stories
from ddpo_utils.corpus.text import words
from ddpo_utils.evaluation.lexical import (
    compression_ratio,
    ngram_diversity,
    rouge_homogenisation,
    self_bleu,
)

LENGTH = 200
INSTALL = "pip install --no-deps diversity==0.3.1 rouge-score evaluate absl-py six"


class CorpusBleu:
    """What the package needs of the Hub's script: the BLEU of predictions with one reference each, 0 to 1."""

    def __init__(self) -> None:
        from sacrebleu.metrics import BLEU

        self.bleu = BLEU(smooth_method="none")

    def compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {
            "bleu": self.bleu.corpus_score(predictions, [[own[0] for own in references]]).score
            / 100
        }


def package(module: str) -> ModuleType:
    """One module of `diversity`, without the others."""
    found = importlib.util.find_spec("diversity")
    if found is None:
        sys.exit(
            "The package is not installed: pip install --no-deps diversity==0.3.1 rouge-score evaluate absl-py six"
        )
    path = Path(found.origin).with_name(f"{module}.py")
    spec = importlib.util.spec_from_file_location(f"diversity_{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def texts_of(count: int) -> list[str]:
    """Texts of LENGTH words each, no story in two of them; words that all tokenizers take for one word."""
    rng, out, rest = np.random.default_rng(0), [], []
    for story in rng.permutation(load_stories()["text"].to_numpy()):
        rest += [word for word in words(story) if word.isascii() and word.isalpha()]
        while len(rest) >= LENGTH:
            out.append(" ".join(rest[:LENGTH]))
            rest = rest[LENGTH:]
    if len(out) < count:
        sys.exit(f"The bundled stories make {len(out)} texts of {LENGTH} words.")
    return out[:count]


def timed(function: Callable[[list[str]], float], texts: list[str]) -> tuple[float, float, float]:
    """Value, seconds on the clock and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    value = function(texts)
    return value, time.perf_counter() - start, time.process_time() - cpu


def sacrebleu_loop(texts: list[str]) -> float:
    """Self-BLEU by sacrebleu, one sentence at a time."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    scores = [
        bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)
    ]
    return float(np.mean(scores)) / 100


def faults(homogenization: ModuleType) -> dict[str, Any]:
    """The package's values beside ours on sets whose values are known."""
    compression, ngrams = package("compression"), package("ngram_diversity")
    one = texts_of(1)[0]
    same, apart, seam = (
        [one] * 5,
        ["alpha beta gamma delta", "one two three four"],
        ["a b c d", "b c d a"],
    )
    score = lambda texts, measure: homogenization.homogenization_score(
        texts, measure, verbose=False
    )
    stories = load_stories()["text"].tolist()[:4]
    out = {
        "rougel, five identical texts": (score(same, "rougel"), rouge_homogenisation(same)),
        "rougel, two texts without a common word": (
            score(apart, "rougel"),
            rouge_homogenisation(apart),
        ),
        "bleu, five identical texts": (score(same, "bleu"), self_bleu(same)),
        "bleu, two texts without a common word": (score(apart, "bleu"), self_bleu(apart)),
        "compression ratio, four stories": (
            compression.compression_ratio(stories),
            compression_ratio(stories),
        ),
        "compression ratio, five identical texts": (
            compression.compression_ratio(same),
            compression_ratio(same),
        ),
        "n-gram diversity, 'a b c d' and 'b c d a'": (
            ngrams.ngram_diversity_score(seam),
            ngram_diversity(seam),
        ),
    }
    values = {
        name: {"package": theirs, "here": round(ours, 4)} for name, (theirs, ours) in out.items()
    }
    try:
        short: Any = ngrams.ngram_diversity_score(["a", "b"])
    except ZeroDivisionError as error:
        short = type(error).__name__
    return values | {
        "n-gram diversity, 'a' and 'b'": {"package": short, "here": ngram_diversity(["a", "b"])}
    }


def main(count: int = 200) -> None:
    homogenization, texts = package("homogenization"), texts_of(count)
    homogenization.load = lambda name: CorpusBleu()
    arms: dict[str, Callable[[list[str]], float]] = {
        "rouge_homogenisation": rouge_homogenisation,
        "self_bleu": self_bleu,
        "self-BLEU by sacrebleu, one text after another": sacrebleu_loop,
        "diversity, bleu": lambda t: homogenization.homogenization_score(t, "bleu", verbose=False),
        "diversity, rougel": lambda t: homogenization.homogenization_score(t, "rougel"),
    }
    for function in list(arms.values())[:2]:
        function(texts[:3])  # imports
    figures = {}
    for name, function in arms.items():
        runs = [
            timed(function, texts) for _ in range(5 if "_" in name else 1)
        ]  # a slow one runs once
        value, clock, processor = (min(column) for column in zip(*runs, strict=True))
        figures[name] = {
            "value": value,
            "seconds": round(clock, 3),
            "processor_seconds": round(processor, 3),
        }
        print(
            f"{name}: {value:.4f} in {clock:.2f} s ({processor:.2f} s of the processor)", flush=True
        )
    ratios = {}
    for ours, theirs in (
        ("rouge_homogenisation", "diversity, rougel"),
        ("self_bleu", "diversity, bleu"),
        ("self_bleu", "self-BLEU by sacrebleu, one text after another"),
    ):
        ratio = figures[theirs]["processor_seconds"] / figures[ours]["processor_seconds"]
        ratios[f"{ours} / {theirs}"] = round(ratio, 1)
        print(f"{ours}: {ratio:.0f} times as fast as {theirs}, in processor time")
    known = faults(homogenization)
    for name, values in known.items():
        print(f"{name}: package {values['package']}, here {values['here']}")
    keep(
        "lexical",
        "python tests/benchmarks/lexical.py",
        texts=count,
        words=LENGTH,
        arms=figures,
        times_as_fast_in_processor_time=ratios,
        values_on_known_sets=known,
        diversity=version("diversity"),
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
