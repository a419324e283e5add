"""The command `ratings`: what the files that raters sent back say of the two systems, read with the key."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import CourseError, work_dir
from .comparisons import read_comparisons, read_key
from .labels import judge_agreement, position_bias, rating_table, read_labels
from .ratings import own_files

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_arguments", "read_study", "show_ratings"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flag."""
    parser.add_argument("folder", nargs="?", type=Path, help="what `compare` wrote (build/compare)")


def read_study(folder: str | Path) -> tuple[pd.DataFrame, tuple[str, str]]:
    """The labels of a study, people's and models', and the names of its two systems.

    A line names each file in `ratings` that rates other comparisons; it is left out.

    Args:
        folder: holds for_raters/comparisons.json, key.json and ratings, as the command `compare` lays them out.

    Returns:
        The labels as of `labels.read_labels`, without a row where there are no ratings; the systems as in the key.

    Raises:
        CourseError: the folder holds no comparisons; as `read_key` and `read_labels`.
    """
    import pandas as pd

    folder = Path(folder)
    path = folder / "for_raters" / "comparisons.json"
    if not path.is_file():
        raise CourseError(
            f"{folder} holds no comparisons: name the folder that `python -m ddpo_utils compare` wrote."
        )
    comparisons = read_comparisons(path)
    key = read_key(folder / "key.json", comparisons)
    own = own_files(folder / "ratings", comparisons)
    return read_labels(own, comparisons, key, mixed=True) if own else pd.DataFrame(), tuple(
        key["systems"]
    )


def _print_wins(labels: pd.DataFrame, systems: tuple[str, str]) -> None:
    """A column for each question and kind of rater, and a line for each sign test."""
    table = rating_table(labels, systems).astype(str)
    table.index = table.pop("question") + ", " + table.pop("raters")
    tests = table.pop("sign test")
    print("Shares of the labels, with 95% intervals over prompts")
    print(table.drop(columns="prompts").T.to_string())
    print(
        f"\nComparisons that {systems[0]} won : lost against {systems[1]}, by the majority of the raters"
    )
    print("\n".join(f"{name}: {test}" for name, test in tests.items()))


def show_ratings(args: argparse.Namespace) -> None:
    """Print what the ratings in the folder say: win rates, sign tests, lean to a side, and models beside people.

    Raises:
        CourseError: there are no ratings yet, or as `read_study`.
    """
    folder = Path(os.path.relpath(args.folder or work_dir("compare")))
    labels, systems = read_study(folder)
    if labels.empty:
        raise CourseError(
            f"No ratings in {folder / 'ratings'} yet: put the files there that raters send back."
        )
    _print_wins(labels, systems)
    bias = (
        position_bias(labels)
        .drop(columns="kind")
        .replace({"first": {None: "-"}})
        .astype({"first": str})
    )
    print("\nShare of the decided answers that took the first place (half is fair)")
    print(bias.to_string(index=False))
    rated = [set(own["item"]) for _, own in labels.groupby("kind")]
    if len(rated) == 2 and set.intersection(*rated):
        beside = judge_agreement(labels).astype({"same": str})
        print("\nShare of the comparisons that a model labels as the majority of people does")
        print(
            beside.assign(alpha=[alpha or "not defined" for alpha in beside["alpha"]]).to_string(
                index=False
            )
        )
