"""Progress bars that TQDM_DISABLE silences, whatever the caller shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(items: Iterable[Any] | None = None, shown: bool = True, **options: Any) -> Any:
    """tqdm's bar over `items`, as a notebook or a terminal shows it; none unless `shown`, none under TQDM_DISABLE=1.

    tqdm's own `disable=False` would overrule the variable, so `disable` is given only to hide a bar. Whether stderr is
    a terminal has no say: in a notebook it is none, and the bar is shown all the same.
    """
    from tqdm.auto import tqdm

    return tqdm(items, **options) if shown else tqdm(items, **options, disable=True)
