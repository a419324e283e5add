"""Blind comparisons of two sets of stories; the key, a separate file, names the systems."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.usability import require_texts
from ..models.sampling import read_samples
from ..settings import CourseError
from ..storage.files import check_as, read_as, read_json, whole_text, write_json
from ..storage.locks import locked
from .study_files import UNDECIDED, Comparisons, KeyFile

# The two questions of the human evaluation in arXiv 2503.17126, in this project's words.
QUESTIONS = {
    "diverse": "Which set has the more diverse stories?",
    "best": "Which one of all these stories is the most interesting, of the highest quality?",
}


def _identity(items: Any) -> str:
    content = json.dumps(items, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _check_systems(systems: Any) -> None:
    """Raise CourseError if these are no two names that tables can show."""
    systems = list(systems) if isinstance(systems, (tuple, list)) else [systems]
    names = [name for name in systems if isinstance(name, str) and name.isprintable()]
    if not len(names) == len(systems) == 2 or len({"", UNDECIDED, *map(str.strip, names)}) < 4:
        raise CourseError(
            "Two systems need two different names, printable texts, not empty or "
            f"{UNDECIDED!r}; got {systems!r}."
        )


def _checked_stories(frame: Any) -> pd.DataFrame:
    """The stories with ids as texts; CourseError names the column and row that do not serve."""
    ids = getattr(frame, "prompt_id", None)
    if pd.api.types.is_integer_dtype(ids):
        frame = frame.assign(prompt_id=ids.astype(str))
    require_texts(frame, ("prompt_id", "prompt", "text"))
    if not pd.api.types.is_integer_dtype(frame.get("sample", frame.index)):
        raise CourseError("sample must be a whole number in each row: number each prompt's.")
    return frame


def _common_prompts(a: pd.DataFrame, b: pd.DataFrame, per_side: int) -> list[tuple[Any, ...]]:
    """(prompt_id, the prompt's text, the stories of a and of b) for each prompt of both."""
    stories_of_b = dict(list(b.groupby("prompt_id", sort=False)))
    common = []
    for prompt_id, stories in a.groupby("prompt_id", sort=False):
        if prompt_id not in stories_of_b:
            continue
        both = [stories, stories_of_b[prompt_id]]
        texts = set(pd.concat(both)["prompt"])
        if len(texts) > 1 or min(map(len, both)) < per_side:
            raise CourseError(
                f"Prompt {prompt_id!r} has two texts, or a system has less than {per_side} stories "
                "of it: compare samples of the same prompts, with enough of each."
            )
        common.append((prompt_id, texts.pop(), both))
    if not common:
        raise CourseError("The two systems answer no prompt in common: compare the same prompts.")
    return common


def build_comparisons(
    a: pd.DataFrame,
    b: pd.DataFrame,
    systems: tuple[str, str],
    per_side: int = 4,
    prompts: int | None = None,
    seed: int = 0,
) -> tuple[Comparisons, dict[str, Any]]:
    """One comparison for each prompt that both systems answered, in random order, and the key.

    Each system is on side A in half of the comparisons, so that a rater who always takes one side
    favours neither.

    Args:
        a, b: stories: frames with prompt_id, prompt, text and, optionally, sample (for the key) and
            summarised (bool: the text is a summary).
        systems: their names, which raters never see.
        per_side: stories of a set, drawn at random where a prompt has more.
        prompts: how many comparisons, drawn at random; None: all common prompts.

    Returns:
        The comparisons, and the key: comparisons (their id), systems, items: item -> prompt_id, A
        and B (names of systems), samples (which stories are on which side).
    """
    _check_systems(systems)
    drawn = 1 if prompts is None else prompts
    for name, value, least in (("per_side", per_side, 1), ("prompts", drawn, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise CourseError(f"{name} is a whole number, {least} or more; got {value!r}.")
    a, b = _checked_stories(a), _checked_stories(b)
    common = _common_prompts(a, b, per_side)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(common))[:prompts]
    system_on_a = rng.permutation(np.arange(len(order)) % 2)
    digits = max(2, len(str(len(order))))
    items, key = [], {}
    for number, (place, on_a) in enumerate(zip(order, system_on_a, strict=True), 1):
        prompt_id, prompt, stories = common[place]
        name = f"c{number:0{digits}}"
        item = {"item": name, "prompt": whole_text(prompt)}
        entry = {"prompt_id": prompt_id}
        samples = {}
        for side, system in (("A", on_a), ("B", 1 - on_a)):
            drawn_rows = rng.permutation(len(stories[system]))[:per_side]
            drawn = stories[system].iloc[drawn_rows]
            item[side] = [whole_text(text).strip() or "(no text)" for text in drawn["text"]]
            entry[side] = systems[system]
            samples[side] = drawn.get("sample", drawn.index).tolist()
        items.append(item)
        key[name] = entry | {"samples": samples}
    summarised = [frame["summarised"].any() for frame in (a, b) if "summarised" in frame]
    shown = "summaries" if any(summarised) else "whole"
    comparisons = Comparisons(_identity(items), shown, items)
    return comparisons, {"comparisons": comparisons.id, "systems": list(systems), "items": key}


def write_comparisons(folder: str | Path, comparisons: Comparisons, key: dict[str, Any]) -> Path:
    """The path of the comparisons, written as for_raters/comparisons.json, with key.json beside.

    CourseError if the folder holds other comparisons, or another key: what was rated there would
    lose its meaning. What is there is never overwritten.
    """
    folder = Path(folder)
    path, key_path = folder / "for_raters" / "comparisons.json", folder / "key.json"
    _check_key(key, key_path, comparisons)
    with locked(key_path, wait=True):
        if path.exists() and read_comparisons(path).id != comparisons.id:
            raise CourseError(
                f"{path} holds other comparisons, perhaps rated: take another folder."
            )
        if key_path.exists() and read_json(key_path) != key:
            raise CourseError(f"{key_path} is the key of other comparisons: take another folder.")
        write_json(key_path, key)
        write_json(path, asdict(comparisons))
    return path


def read_comparisons(path: str | Path) -> Comparisons:
    """The comparisons of a file; CourseError if it holds something else, or changed texts."""
    advice = "Name a comparisons.json as it was built."
    comparisons = read_as(Comparisons, path, advice)
    sizes = {len(item[side]) for item in comparisons.items for side in "AB"}
    names = {item["item"] for item in comparisons.items}
    same_text = comparisons.id == _identity(comparisons.items)
    if not same_text or len(sizes) > 1 or len(names) < len(comparisons.items):
        raise CourseError(f"{path} was changed after it was built. {advice}")
    return comparisons


def _check_key(key: Any, path: str | Path, comparisons: Comparisons) -> None:
    """Raise CourseError if this is not the whole key of these comparisons."""
    advice = "Name the key.json that was written with these comparisons."
    check_as(KeyFile, key, path, advice)
    _check_systems(key["systems"])
    sides = {frozenset((entry["A"], entry["B"])) for entry in key["items"].values()}
    items = [item["item"] for item in comparisons.items]
    whole = sides == {frozenset(key["systems"])} and sorted(key["items"]) == sorted(items)
    if key["comparisons"] != comparisons.id or not whole:
        raise CourseError(f"{path} is not the key of these comparisons. {advice}")


def read_key(path: str | Path, comparisons: Comparisons) -> dict[str, Any]:
    """The key of these comparisons; CourseError if the file holds something else."""
    key = read_json(path)
    _check_key(key, path, comparisons)
    return key


def _read_system(where: str) -> pd.DataFrame:
    """The stories of one system, from FILE or FILE:SOURCE: prompt_id, prompt, text and more."""
    from ..corpus.stories import load_prompts

    path, source = where, ""
    if ":" in where and not Path(where).exists():
        path, _, source = where.rpartition(":")
    stories = read_samples(path)
    if stories.empty:
        raise CourseError(f"{path} holds no samples: each line needs prompt_id and text.")
    sources = stories.get("source", pd.Series("", stories.index)).fillna("")
    names = sorted(sources.unique())
    if len(names) == 1 and not source:
        source = names[0]
    if source not in names:
        raise CourseError(f"{where}: name one source, as in {path}:SOURCE, of {', '.join(names)}.")
    stories = stories[sources == source].reset_index(drop=True)
    if "sample" in stories and stories.duplicated(["prompt_id", "sample"]).any():
        raise CourseError(f"{where} holds samples of several runs: give each run its own file.")
    if "prompt" not in stories:  # as in the recorded samples, of the course's test prompts
        texts = load_prompts().set_index("prompt_id")["prompt"]
        stories = stories.assign(prompt=stories["prompt_id"].map(texts))
    if stories["prompt"].isna().any():
        raise CourseError(f"{path} lacks texts of prompts: each line needs the field prompt.")
    return stories


def compare(
    samples: Sequence[str],
    names: Sequence[str],
    folder: str | Path,
    per_side: int = 4,
    prompts: int = 10,
    seed: int = 0,
) -> None:
    """Write comparisons of two files of samples, their page and their key; print what to do next.

    Args:
        samples: two texts FILE or FILE:SOURCE; SOURCE picks one of several sources in the file.
        folder: gets for_raters/, key.json, and ratings/ for the files that raters send back.
    """
    from .page import write_page  # which imports this module

    a, b = map(_read_system, samples)
    if sorted(a["text"]) == sorted(b["text"]):
        raise CourseError(f"{' and '.join(samples)} are the same stories: name two systems.")
    comparisons, key = build_comparisons(a, b, tuple(names), per_side, prompts, seed)
    path = write_comparisons(folder, comparisons, key)
    page = write_page(comparisons, path.with_suffix(".html"))
    place = Path(os.path.relpath(folder))
    ratings = place / "ratings"
    ratings.mkdir(exist_ok=True)
    print(
        f"{len(comparisons.items)} comparisons: {os.path.relpath(page)} for any browser, and "
        "comparisons.json beside it for notebooks.\n"
        f"Send the page to raters; keep {place / 'key.json'}, which names the systems, from them.\n"
        f"Put what they send back into {ratings}; `python -m ddpo_utils ratings {place}` makes the "
        "table."
    )
