"""The figure of arms over training, and the map of stories."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from ddpo_utils.course.plots import COLOURS, PLOTLY, figure, in_words, path_plot, story_map


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
    of_beta = paths[paths["arm"] == "dpo"].assign(arm="dpo-beta")
    paths = pd.concat([paths.sample(frac=1, random_state=0), of_beta])
    variants = [ends[ends["arm"] == "dpo"].assign(arm=arm) for arm in ("dpo-beta", "dpo-hot")]
    ends = pd.concat([ends, *variants])
    arms = ["dpo", "dpo-beta", "dpo-hot"]
    path_plot(ax, ends, paths, arms, "sft", "quality", "diversity")
    drawn = [line.get_linestyle() for line in ax.lines if line.get_marker() == "."]
    assert drawn == ["-", "--"]  # the same colour; without a checkpoint there is no path
    path = ax.lines[0]
    np.testing.assert_allclose(path.get_xdata(), [0, 1, 3])
    np.testing.assert_allclose(path.get_ydata(), [0, -1, -1])
    assert path.get_color() == COLOURS["dpo"]
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 0]  # the horizontal interval
    assert (low + high) / 2 == pytest.approx(3) and low < 2  # differences 2, 2 and 5


@pytest.mark.parametrize("colab", [True, False])
def test_a_map_shows_the_story_under_the_pointer_or_a_picture(
    colab: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, drawn = [], []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    monkeypatch.setattr(
        "plotly.graph_objects.Figure.show", lambda _, renderer: drawn.append(renderer)
    )
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", object())
    stories = pd.DataFrame(
        {"name": ["poet", "bus", "poet"], "prompt": "Rain.", "text": "a < b\n'c'"}
    )
    places = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    weights = np.array([0.0, 1.25, 1.75])
    story_map({"left": places, "right": places}, stories, {"left": weights, "right": weights}, "x")
    assert "x" in shown[-1].data and drawn == ["colab"] * colab
    if not colab:
        traces = shown[0][PLOTLY]["data"]
        assert [trace["name"] for trace in traces] == ["bus", "poet"] * 2
        assert traces[0]["hovertext"] == ["<b>bus, weight 1.25</b><br>Rain.<br><br>a &lt; b<br>'c'"]
        assert shown[0]["image/png"].startswith("iVBOR")


def test_keys_of_arms_are_said_in_words() -> None:
    assert in_words("dpo-hot - ddpo at sft's total") == "DPO, hotter - DDPO at SFT's total"
    assert in_words("the start of started authorship") == "the starting model of started authorship"
