"""The command `compare`: two sample files become blind comparisons, a page for raters, and a key that stays here."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.sampling import read_samples
from ..settings import CourseError, work_dir
from .comparisons import Comparisons, build_comparisons, write_comparisons
from .page import write_page

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_arguments", "compare", "read_stories"]

LONG = 150  # words: more than this of every story, and raters tire


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "samples",
        nargs=2,
        metavar="FILE[:SOURCE]",
        help="samples (JSONL); SOURCE picks one of several in a file",
    )
    parser.add_argument(
        "--names",
        nargs=2,
        required=True,
        metavar="NAME",
        help="of the two systems; they stand in the key alone",
    )
    parser.add_argument("--output", type=Path, help="folder of what is made (build/compare)")
    parser.add_argument(
        "--per-side", type=int, default=4, metavar="N", help="stories of a set (default: 4)"
    )
    parser.add_argument(
        "--prompts", type=int, default=10, metavar="N", help="comparisons (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")


def read_stories(where: str) -> pd.DataFrame:
    """The stories of one system, out of the file that `where` names: a path, or path:source.

    A file without the prompts' texts, as the recorded samples in data/results are, must be of the course's test
    prompts.

    Returns:
        The file's columns, prompt_id, prompt and text among them.

    Raises:
        CourseError: there is no such file, or it holds no samples; they are of several sources, or of several runs;
            the prompts are unknown.
    """
    from ..corpus.stories import load_prompts

    path, source = where, ""
    if not Path(where).exists() and Path(where.rpartition(":")[0]).is_file():
        path, _, source = where.rpartition(":")
    if not Path(path).is_file():
        raise CourseError(f"There is no file {path}: check the path.")
    stories = read_samples(path)
    if not {"prompt_id", "text"} <= set(stories):
        raise CourseError(f"{path} holds no samples: each line needs prompt_id and text.")
    sources = sorted(set(stories["source"])) if "source" in stories else []
    if source:
        if source not in sources:
            raise CourseError(
                f"{path} has no source {source!r}, only {', '.join(sources) or 'one without a name'}."
            )
        stories = stories[stories["source"] == source]
    elif len(sources) > 1:
        raise CourseError(
            f"{path} holds stories of {', '.join(sources)}: pick one, as in '{path}:{sources[0]}'."
        )
    if "sample" in stories and stories.duplicated(["prompt_id", "sample"]).any():
        raise CourseError(
            f"{where} holds several runs, in which a prompt's samples bear the same numbers: split them."
        )
    if "prompt" not in stories:
        known = load_prompts().set_index("prompt_id")["prompt"]
        stories = stories.assign(prompt=stories["prompt_id"].map(known))
        if stories["prompt"].isna().any():
            raise CourseError(
                f"{path} lacks the prompts' texts: each line needs prompt_id, prompt and text."
            )
    return stories.reset_index(drop=True)


def _warn_of_length(comparisons: Comparisons) -> None:
    words = [[len(text.split()) for text in item["A"] + item["B"]] for item in comparisons.items]
    long = sum(count > LONG for item in words for count in item)
    if long and comparisons.shown == "whole":
        mean = round(sum(map(sum, words)) / len(words))
        warnings.warn(
            f"{long} stories have more than {LONG} words, and a comparison has {mean} to read: summarise long stories "
            "first (ddpo_utils/summaries.py).",
            stacklevel=2,
        )


def compare(args: argparse.Namespace) -> None:
    """Build the comparisons that the flags of `add_arguments` ask for; three lines say what to do with them.

    Raises:
        CourseError: both sets of stories are the same, a file stands where the folder should be, or as `read_stories`,
            `build_comparisons` and `write_comparisons`.
    """
    a, b = map(read_stories, args.samples)
    if a[["prompt_id", "text"]].equals(b[["prompt_id", "text"]]):
        raise CourseError(
            f"{' and '.join(args.samples)} are the same stories: name the samples of two systems."
        )
    comparisons, key = build_comparisons(
        a, b, tuple(args.names), args.per_side, args.prompts, args.seed
    )
    folder = args.output or work_dir("compare")
    if files := [place for place in (folder, *folder.parents) if place.is_file()]:
        raise CourseError(f"{files[0]} is a file: name a folder.")
    page = write_page(comparisons, write_comparisons(folder, comparisons, key).with_suffix(".html"))
    _warn_of_length(comparisons)
    (folder / "ratings").mkdir(exist_ok=True)
    made, common = len(comparisons.items), len(set(a["prompt_id"]) & set(b["prompt_id"]))
    what = f"{made} comparison{'s' * (made > 1)}, of {common} prompts that both answered"
    if made < args.prompts:
        what = f"{made} comparison{'s' * (made > 1)} ({args.prompts} were asked for; "
        what += f"{common} prompt{'s are' if common > 1 else ' is'} in both files)"
    place = Path(os.path.relpath(folder))
    print(
        f"{what}: {os.path.relpath(page)} for any browser, and comparisons.json beside it for notebooks."
    )
    print(
        f"Send the page to raters; keep {place / 'key.json'}, which tells what system wrote which set, from them."
    )
    print(
        f"Put what they send back into {place / 'ratings'}; `python -m ddpo_utils ratings {place}` makes the table."
    )
