"""`pytest --nbval`, here or at the root, needs no variable set: the smoke profile, this Python, no needless network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from unittest.mock import patch

import pytest


@lru_cache(maxsize=1)
def _model_is_there() -> bool:
    """Fetch the model before the first cell runs, so that no cell's stored output holds the fetching's message."""
    from ddpo_utils.models.smollm2 import fetch_smollm2
    from ddpo_utils.settings import CourseError

    with suppress(
        CourseError
    ):  # notebooks that need no model still run; the others say what is missing
        fetch_smollm2()
        return True
    return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Around every cell, and so around the start of its notebook's kernel; the unit tests never see it."""
    if not item.config.option.nbval_kernel_name:
        item.config.option.nbval_current_env = True  # whatever kernels the user has installed
    variables = {"DDPO_PROFILE": os.environ.get("DDPO_PROFILE") or "smoke"}
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # kernels beside each other share the cores
        share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, share))
    if _model_is_there():
        variables["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") or "1"
    with patch.dict(os.environ, variables):
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Exercises wait for a learner; their solutions are run."""
    waiting = [
        item
        for item in items
        if "exercise" in getattr(item, "cell", {}).get("metadata", {}).get("tags", [])
    ]
    if waiting:
        config.hook.pytest_deselected(items=waiting)
        items[:] = [item for item in items if item not in waiting]
