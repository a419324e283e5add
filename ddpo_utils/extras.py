"""What a missing package is answered with: the extra of pyproject.toml that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["install_command", "needs"]


def install_command(extra: str) -> str:
    """The arguments of `python` that install the extra, for a wheel or for a clone."""
    wheel = (Path(__file__).parent / "data").is_dir()
    return f"-m pip install 'ddpo-utils[{extra}]'" if wheel else f"-m pip install -e '.[{extra}]'"


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around an import, or as a decorator: an ImportError says how to get the extra."""
    try:
        yield
    except ImportError as fault:
        if "pip install" not in str(fault):
            fault.msg = f"{fault}: install what is missing with `python {install_command(extra)}`"
        raise
