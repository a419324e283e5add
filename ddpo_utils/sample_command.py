"""The command `sample`: stories from an endpoint, once the user has seen what they may cost."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .calls import OPENAI
from .corpus import load_prompts
from .endpoint import sample_endpoint
from .profiles import CourseError, work_dir
from .prompting import CONDITIONS
from .spending import Estimate

__all__ = ["add_arguments", "sample"]


def number(value: str) -> float | None:
    """A flag's number; None for "none", which sends none."""
    return None if value == "none" else float(value)


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that calls an endpoint; the key is no flag, since a command line is seen by others
    and kept in histories."""
    parser.add_argument("--model", required=True, help="the endpoint's name of the model")
    parser.add_argument("--base-url", default=OPENAI, metavar="URL", help=f"usually ends in /v1 (default: {OPENAI})")
    parser.add_argument(
        "--key-variable", metavar="NAME",
        help="environment variable with the key (OPENAI_API_KEY for OpenAI's addresses, else none is sent)",
    )  # fmt: skip
    parser.add_argument("--concurrency", type=int, default=8, help="calls at once (default: 8)")
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="seconds of silence that end a call (default: 600)"
    )
    parser.add_argument(
        "--prices", type=float, nargs=2, metavar=("PROMPT", "COMPLETION"), help="of a million tokens, for the estimate"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before the first call")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_endpoint(parser)
    parser.add_argument("--condition", choices=CONDITIONS, default="plain")
    parser.add_argument("--samples", type=int, default=4, help="stories per prompt (default: 4)")
    parser.add_argument(
        "--prompts", type=Path, help="JSONL file of prompt_id and prompt (default: the 40 test prompts)"
    )
    parser.add_argument("--output", type=Path, help="JSONL file (build/endpoint/<model>-<condition>.jsonl)")
    parser.add_argument("--temperature", type=number, default=1.0, help="none sends none (default: 1.0)")
    parser.add_argument("--top-p", type=number, default=0.95, help="none sends none (default: 0.95)")
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a story (default: 2048)")


def confirm(estimate: Estimate) -> bool:
    """Whether the user agrees to the estimate, which stands above; CourseError where nobody can be asked."""
    if not sys.stdin or not sys.stdin.isatty():
        raise CourseError("Nothing was sent: nobody is at the keyboard to agree to the estimate; --yes agrees to it.")
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def file_name(model: str) -> str:
    """The model's name as a part of a file's."""
    return Path(model).name if Path(model).exists() else model.replace("/", "-").replace(":", "-")


def sample(args: argparse.Namespace) -> None:
    """Sample as the flags of `add_arguments` say; one line for what was made.

    Raises:
        CourseError: the prompts cannot be read, or as `sample_endpoint`.
    """
    import pandas as pd

    if args.prompts is None:
        prompts = load_prompts()
    else:
        try:
            prompts = pd.read_json(args.prompts, lines=True, dtype=False)[["prompt_id", "prompt"]]
        except (OSError, ValueError, KeyError):
            raise CourseError(
                f"{args.prompts} cannot be read: it takes one JSON object a line, with prompt_id and prompt."
            ) from None
    output = args.output or work_dir("endpoint") / f"{file_name(args.model)}-{args.condition}.jsonl"
    frame = sample_endpoint(
        prompts, output, args.model, args.base_url, args.condition, args.samples, temperature=args.temperature,
        top_p=args.top_p, max_tokens=args.max_tokens, key_variable=args.key_variable, concurrency=args.concurrency,
        timeout=args.timeout, prices=args.prices, confirm=None if args.yes else confirm,
    )  # fmt: skip
    print(f"{len(frame)} stories of {len(prompts)} prompts in {os.path.relpath(output)}")
