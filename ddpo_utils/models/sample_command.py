"""The command `sample`: stories from an endpoint, once the user has seen what they may cost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..corpus.stories import load_prompts
from ..settings import CourseError, work_dir
from .calls import OPENAI
from .endpoint import sample_endpoint
from .prompting import CONDITIONS
from .spending import Estimate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_arguments", "read_prompts", "sample"]


def number(value: str) -> float | None:
    """A flag's number; None for "none", which sends none."""
    return None if value == "none" else float(value)


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that calls an endpoint; the key is no flag, since a command line is seen by others
    and kept in histories."""
    parser.add_argument("--model", required=True, help="the endpoint's name of the model")
    parser.add_argument(
        "--base-url", default=OPENAI, metavar="URL", help=f"usually ends in /v1 (default: {OPENAI})"
    )
    parser.add_argument(
        "--key-variable",
        metavar="NAME",
        help="environment variable with the key (OPENAI_API_KEY for OpenAI's addresses, else none is sent)",
    )
    parser.add_argument("--concurrency", type=int, default=8, help="calls at once (default: 8)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        help="seconds of silence that end a call (default: 600)",
    )
    parser.add_argument(
        "--prices",
        type=float,
        nargs=2,
        metavar=("PROMPT", "COMPLETION"),
        help="of a million tokens, for the estimate",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before the first call")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_endpoint(parser)
    parser.add_argument("--condition", choices=CONDITIONS, default="plain")
    parser.add_argument("--samples", type=int, default=4, help="stories per prompt (default: 4)")
    parser.add_argument(
        "--prompts",
        type=Path,
        help="JSONL file of prompt_id and prompt (default: the 40 test prompts)",
    )
    parser.add_argument(
        "--output", type=Path, help="JSONL file (build/endpoint/<model>-<condition>.jsonl)"
    )
    parser.add_argument(
        "--temperature", type=number, default=1.0, help="none sends none (default: 1.0)"
    )
    parser.add_argument(
        "--top-p", type=number, default=0.95, help="none sends none (default: 0.95)"
    )
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a story (default: 2048)")


def confirm(estimate: Estimate) -> bool:
    """Whether the user agrees to the estimate, which stands above; CourseError where nobody can be asked."""
    if not sys.stdin or not sys.stdin.isatty():
        raise CourseError(
            "Nothing was sent: nobody is at the keyboard to agree to the estimate; --yes agrees to it."
        )
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


def file_name(model: str) -> str:
    """The model's name as a part of a file's."""
    return Path(model).name if Path(model).exists() else model.replace("/", "-").replace(":", "-")


def read_prompts(path: Path) -> pd.DataFrame:
    """The prompts of a JSONL file: prompt_id (each once) and prompt.

    Raises:
        CourseError: no such file, unreadable, empty, or a line without either; the message names the line.
    """
    import pandas as pd

    takes = "one JSON object a line, with prompt_id and prompt"
    if path.is_dir():
        raise CourseError(f"{path} is a folder: name a file of {takes}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise CourseError(f"There is no file {path}: name one of {takes}.") from None
    except UnicodeDecodeError:
        raise CourseError(f"{path} is no text in UTF-8: save it so, {takes}.") from None
    rows: dict[str | int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        name, prompt = (
            row.get(key) if isinstance(row, dict) else None for key in ("prompt_id", "prompt")
        )
        fault = ""
        if not isinstance(row, dict):
            fault = "is no JSON object"
        elif not isinstance(prompt, str) or not prompt.strip():
            fault = "has no prompt, or one that is no text"
        elif not isinstance(name, (str, int)) or isinstance(name, bool) or name == "":
            fault = "has no prompt_id, or one that is neither a text nor a whole number"
        elif name in rows:
            fault = f"repeats the prompt_id {name!r}"
        if fault:
            raise CourseError(f"Line {number} of {path} {fault}: the file takes {takes}.")
        rows[name] = prompt
    if not rows:
        raise CourseError(f"{path} is empty: it takes {takes}.")
    return pd.DataFrame(rows.items(), columns=["prompt_id", "prompt"])


def sample(args: argparse.Namespace) -> None:
    """Sample as the flags of `add_arguments` say; one line for what was made.

    Raises:
        CourseError: as `read_prompts` and `sample_endpoint`.
    """
    prompts = load_prompts() if args.prompts is None else read_prompts(args.prompts)
    output = args.output or work_dir("endpoint") / f"{file_name(args.model)}-{args.condition}.jsonl"
    frame = sample_endpoint(
        prompts,
        output,
        args.model,
        args.base_url,
        args.condition,
        args.samples,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        key_variable=args.key_variable,
        concurrency=args.concurrency,
        timeout=args.timeout,
        prices=args.prices,
        confirm=None if args.yes else confirm,
    )
    print(f"{len(frame)} stories of {len(prompts)} prompts in {os.path.relpath(output)}")
