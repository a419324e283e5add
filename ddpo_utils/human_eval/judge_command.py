"""The command `judge`: a language model behind an endpoint rates blind comparisons, in both orders."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..models.calls import Endpoint
from ..models.sample_command import add_endpoint, confirm, file_name, number
from .comparisons import read_comparisons
from .judge import consistency, judge

__all__ = ["add_arguments", "judge_file"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_endpoint(parser)
    parser.add_argument(
        "--comparisons", type=Path, required=True, metavar="FILE", help="the file that raters get"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="ratings (ratings/<model>.json beside for_raters)",
    )
    parser.add_argument(
        "--temperature", type=number, default=0.0, help="none sends none (default: 0)"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=64,
        help="of an answer and a model's reasoning before it (default: 64)",
    )


def judge_file(args: argparse.Namespace) -> None:
    """Judge as the flags of `add_arguments` say; a line for each question says how consistent the judge was.

    Raises:
        CourseError: the comparisons cannot be read, or as `judge.judge`.
    """
    comparisons = read_comparisons(args.comparisons)
    folder = args.comparisons.resolve().parent
    folder = (
        folder.parent if folder.name == "for_raters" else folder
    ) / "ratings"  # raters do not see each other's
    output = args.output or folder / f"{file_name(args.model)}.json"
    endpoint = Endpoint(
        args.model,
        args.base_url,
        args.temperature,
        key_variable=args.key_variable,
        concurrency=args.concurrency,
        timeout=args.timeout,
        prices=args.prices,
        confirm=None if args.yes else confirm,
    )
    ratings = judge(comparisons, output, endpoint, max_tokens=args.max_tokens)
    for row in consistency(ratings).itertuples():
        first = (
            f"{row.first:.0%} of the {row.decided} answers that name a set name the one shown first"
        )
        if not row.decided:
            first = "no answer names a set"
        print(
            f"{row.Index}: both orders agree on {row.agree:.0%} of {row.items} comparisons; {first}"
        )
    print(f"A model's ratings, not people's, in {os.path.relpath(output)}")
