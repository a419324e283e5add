"""What the scripts of this folder share: flags, the folders of a record, settings of a trial."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ddpo_utils.settings import CourseError, data_dir, work_dir

SMOKE = "smoke-records"  # folder below build/
# A trial run's settings. The number type is fixed, because "auto" depends on a timing.
SMOKE_SETTINGS = {
    "dtype": "float32",
    "sft_steps": 1,
    "steps": 2,
    "checkpoint_every": 1,
    "max_new_tokens": 12,
}


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every script has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--smoke", action="store_true", help=f"a trial in minutes; it goes to build/{SMOKE}/data"
    )
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", help="in place of data/ (or of the trial's)"
    )
    return made


def folders(args: argparse.Namespace, name: str) -> tuple[Path, Path]:
    """The folder of the parts that a broken-off run keeps, and the folder of the record."""
    if args.smoke:
        root = work_dir(SMOKE)
        return root / name, args.output or root / "data"
    return work_dir(name), args.output or data_dir()


def run(main: Callable[[], None]) -> None:
    """Call main; a fault that the user can correct is one sentence on stderr and exit status 1."""
    try:
        main()
    except CourseError as fault:
        sys.exit(f"error: {fault}")
    except OSError as fault:
        sys.exit(f"error: {fault}: free space there, or change its permissions.")
