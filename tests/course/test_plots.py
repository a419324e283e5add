"""The figure of arms over training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ddpo_utils.course.plots import COLOURS, figure, path_plot


def test_a_path_starts_at_the_reference_and_is_the_mean_over_seeds() -> None:
    def rows(arm: str, steps: int, quality: list[float], diversity: list[float]) -> pd.DataFrame:
        values = {"seed": [1, 2, 3], "quality": quality, "diversity": diversity}
        return pd.DataFrame(values).assign(arm=arm, steps=steps)

    start = rows("sft", 0, [1.0, 2.0, 3.0], [9.0, 8.0, 7.0])
    ends = pd.concat([start, rows("dpo", 20, [3.0, 4.0, 8.0], [8.0, 7.0, 6.0])])
    paths = pd.concat(
        [rows("dpo", 10, [2.0, 3.0, 4.0], [9.0, 8.0, 4.0]), rows("x", 1, [0] * 3, [0] * 3)]
    )
    _, ax = figure()
    path_plot(
        ax, ends, paths.sample(frac=1, random_state=0), ["dpo"], "sft", "quality", "diversity"
    )
    path = ax.lines[0]
    np.testing.assert_allclose(path.get_xdata(), [0, 1, 3])
    np.testing.assert_allclose(path.get_ydata(), [0, -1, -1])
    assert path.get_color() == COLOURS["dpo"]
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 0]  # the horizontal interval
    assert (low + high) / 2 == pytest.approx(3) and low < 2  # differences 2, 2 and 5
