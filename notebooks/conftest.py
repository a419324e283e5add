"""`pytest --nbval`, here or at the root: the smoke profile, this Python, no needless network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from unittest.mock import patch

import pytest

from ddpo_utils.course.notebooks import QUIET
from ddpo_utils.settings import SLEEPING


@lru_cache(maxsize=1)
def _fetch_model() -> bool:
    """Whether the model is in the cache; it is fetched before a cell could print that."""
    from ddpo_utils.models.smollm2 import fetch_smollm2
    from ddpo_utils.settings import CourseError

    try:
        fetch_smollm2()
    except CourseError:  # notebooks without a model still run; the others say what is missing
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Set the environment of every cell, and so of its notebook's kernel."""
    if not item.config.option.nbval_kernel_name:
        item.config.option.nbval_current_env = True  # whatever kernels the user has installed
    variables = {"DDPO_PROFILE": os.environ.get("DDPO_PROFILE") or "smoke", **QUIET}
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # kernels share the cores
        share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, share))
    if _fetch_model():
        variables["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") or "1"
    with patch.dict(os.environ, SLEEPING | dict(os.environ) | variables):
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out exercises, which wait for a learner; their solutions are run."""
    cells = {item: getattr(item, "cell", {}).get("metadata", {}) for item in items}
    exercises = [item for item, metadata in cells.items() if "exercise" in metadata.get("tags", [])]
    if exercises:
        config.hook.pytest_deselected(items=exercises)
        items[:] = [item for item in items if item not in exercises]
