"""Two arms at equal quality or at equal diversity, from their checkpoints.

End points of training compare arms that went different ways in different distances. A path holds
one point a checkpoint, from the reference on; linear interpolation gives the points in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["at_diversity", "at_quality"]


def _where_reached(x: np.ndarray, level: float, y: np.ndarray) -> float:
    """y where x first reaches the level; the last y where it never does."""
    reached = np.flatnonzero(x >= level)
    if not len(reached):
        return float(y[-1])
    after = reached[0]
    before = max(0, after - 1)
    between = slice(before, after + 1)
    return float(np.interp(level, x[between], y[between]))


def _path(*values: Sequence[float]) -> list[np.ndarray]:
    arrays = [np.asarray(value, dtype=float) for value in values]
    if any(array.shape != arrays[0].shape or array.ndim != 1 for array in arrays):
        raise ValueError("A path needs as many values of each measure as it has checkpoints.")
    if not len(arrays[0]):
        raise ValueError("A path needs at least one checkpoint.")
    return arrays


def at_quality(quality: Sequence[float], level: float, values: Sequence[float]) -> float:
    """The value of a path where its quality first reaches the level; its end if it never does.

    Args:
        quality, values: (C,), one number a checkpoint, in the order of training.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    quality, values = _path(quality, values)
    return _where_reached(quality, level, values)


def at_diversity(diversity: Sequence[float], level: float, values: Sequence[float]) -> float:
    """The value of a path where its diversity was last at the level; its start if it never was.

    Arguments and errors as for `at_quality`. A path loses diversity while it gains quality: where
    noise makes it meet a level twice, both functions give the point that is better for the path.
    """
    diversity, values = _path(diversity, values)
    return _where_reached(diversity[::-1], level, values[::-1])
