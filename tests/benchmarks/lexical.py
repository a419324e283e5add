"""Speed and values of the wording measures. By hand: python tests/benchmarks/lexical.py [texts]

On 200 texts of 200 words, cut from the bundled stories, `rouge_homogenisation` and `self_bleu`
beside the package `diversity` 0.3.1, which takes many minutes; then values on sets for which they
are known. The figures go to data/results/benchmarks.json.

The package's modules are loaded one by one, since importing it whole needs spaCy. For "bleu" it
fetches a script from the Hub; sacrebleu's corpus BLEU, the same number, takes its place.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from functools import partial
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

    first = [texts[0] for texts in references]
    return {"bleu": BLEU(smooth_method="none").corpus_score(predictions, [first]).score / 100}


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


def cut_texts(count: int) -> list[str]:
    """Texts of LENGTH words each, in which all tokenizers see the same words."""
    stories = np.random.default_rng(0).permutation(load_stories()["text"].to_numpy())
    every = [word for word in words(" ".join(stories)) if word.isascii() and word.isalpha()]
    return [" ".join(every[LENGTH * i : LENGTH * (i + 1)]) for i in range(count)]


def main(count: int = 200) -> None:
    homogenization = package("homogenization")
    homogenization.load = lambda name: SimpleNamespace(compute=corpus_bleu)
    score = partial(homogenization.homogenization_score, verbose=False)
    rouge = partial(score, measure="rougel")
    bleu = partial(score, measure="bleu")
    texts = cut_texts(count)
    arms: dict[str, Any] = {}
    for name, measure in (
        ("rouge_homogenisation", rouge_homogenisation),
        ("self_bleu", self_bleu),
        ("diversity, bleu", bleu),
        ("diversity, rougel", rouge),
    ):
        measure(texts[:3])  # imports
        clock, processor = time.perf_counter(), time.process_time()
        value = measure(texts)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        arms[name] = {"value": value, "seconds": clock, "processor_seconds": processor}
        print(name, arms[name], flush=True)
    ratios = {}
    for here, there in (
        ("rouge_homogenisation", "diversity, rougel"),
        ("self_bleu", "diversity, bleu"),
    ):
        ratio = arms[there]["processor_seconds"] / arms[here]["processor_seconds"]
        ratios[f"{here} / {there}"] = round(ratio, 1)

    same, apart = texts[:1] * 5, ["alpha beta gamma delta", "one two three four"]
    compression = package("compression").compression_ratio
    ngrams = package("ngram_diversity").ngram_diversity_score
    known = {}
    for name, here, there, known_set in (
        ("rougel, five identical texts", rouge_homogenisation, rouge, same),
        ("rougel, two texts without a common word", rouge_homogenisation, rouge, apart),
        ("bleu, five identical texts", self_bleu, bleu, same),
        ("bleu, two texts without a common word", self_bleu, bleu, apart),
        ("compression ratio, five identical texts", compression_ratio, compression, same),
        (
            "n-gram diversity, 'a b c d' and 'b c d a'",
            ngram_diversity,
            ngrams,
            ["a b c d", "b c d a"],
        ),
    ):
        known[name] = {"package": there(known_set), "here": round(here(known_set), 4)}
    figures = {"times_as_fast_in_processor_time": ratios, "values_on_known_sets": known}
    print(figures)
    command, package_version = "python tests/benchmarks/lexical.py", version("diversity")
    sizes = {"texts": count, "words": LENGTH}
    keep("lexical", command, **sizes, arms=arms, **figures, diversity=package_version)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
