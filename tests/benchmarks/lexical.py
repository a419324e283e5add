"""Speed and values of the wording measures: python tests/benchmarks/lexical.py [texts]

On 200 texts of 200 words, cut from the bundled stories, `rouge_homogenisation` and `self_bleu`
beside the package `diversity` 0.3.1, whose runs over all pairs take many minutes; then both on sets
whose values are known. The figures go to data/results/benchmarks.json.

The package's modules are loaded one by one, since importing it whole needs spaCy. For "bleu" it
fetches a script from the Hub; sacrebleu's corpus BLEU, the same number, takes its place.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from keep import keep

from ddpo_utils import load_stories
from ddpo_utils.corpus.text import words
from ddpo_utils.evaluation.diversity import (
    compression_ratio,
    ngram_diversity,
    rouge_homogenisation,
    self_bleu,
)

LENGTH = 200
INSTALL = "pip install --no-deps diversity==0.3.1 rouge-score evaluate absl-py six"


def corpus_bleu(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    from sacrebleu.metrics import BLEU

    first = [[own[0] for own in references]]
    return {"bleu": BLEU(smooth_method="none").corpus_score(predictions, first).score / 100}


def package(module: str) -> ModuleType:
    """One module of `diversity`, without the others."""
    found = importlib.util.find_spec("diversity")
    if found is None:
        sys.exit(f"The package is not installed: {INSTALL}")
    path = Path(found.origin).with_name(f"{module}.py")
    spec = importlib.util.spec_from_file_location(f"diversity_{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def texts_of(count: int) -> list[str]:
    """Texts of LENGTH words each, in which all tokenizers see the same words."""
    stories = np.random.default_rng(0).permutation(load_stories()["text"].to_numpy())
    every = [w for story in stories for w in words(story) if w.isascii() and w.isalpha()]
    return [" ".join(every[LENGTH * i : LENGTH * (i + 1)]) for i in range(count)]


def main(count: int = 200) -> None:
    homogenization, texts = package("homogenization"), texts_of(count)
    homogenization.load = lambda name: SimpleNamespace(compute=corpus_bleu)

    def theirs(measure: str) -> Callable[[list[str]], float]:
        return lambda texts: homogenization.homogenization_score(texts, measure, verbose=False)

    compression = package("compression").compression_ratio
    ngrams = package("ngram_diversity").ngram_diversity_score
    figures: dict[str, Any] = {}
    for name, here, there in (
        ("rougel", rouge_homogenisation, theirs("rougel")),
        ("bleu", self_bleu, theirs("bleu")),
    ):
        here(texts[:3])  # imports
        seconds = []
        for function in (here, there):
            start = time.process_time()
            function(texts)
            seconds.append(time.process_time() - start)
        figures[name] = {"here": seconds[0], "package": seconds[1]}
        print(f"{name}: {seconds[1] / seconds[0]:.0f} times as fast, {seconds} s of the processor")
    same, apart = texts[:1] * 5, ["alpha beta gamma delta", "one two three four"]
    known: dict[str, Any] = {}
    for name, here, there, own in (
        ("rougel, identical texts", rouge_homogenisation, theirs("rougel"), same),
        ("rougel, no common word", rouge_homogenisation, theirs("rougel"), apart),
        ("bleu, identical texts", self_bleu, theirs("bleu"), same),
        ("bleu, no common word", self_bleu, theirs("bleu"), apart),
        ("compression ratio, identical texts", compression_ratio, compression, same),
        ("n-grams over a seam", ngram_diversity, ngrams, ["a b c d", "b c d a"]),
    ):
        known[name] = {"here": round(here(own), 4), "package": there(own)}
        print(name, known[name])
    keep(
        "lexical",
        "python tests/benchmarks/lexical.py",
        texts=count,
        words=LENGTH,
        processor_seconds=figures,
        values_on_known_sets=known,
        diversity=version("diversity"),
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
