"""The figures that several notebooks use; every figure is a PNG with a caption below it."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ..evaluation.statistics import Interval

__all__ = [
    "COLOURS",
    "MARKERS",
    "NAMES",
    "figure",
    "in_words",
    "interval_plot",
    "path_plot",
    "set_of_stories",
    "show",
    "story_map",
]

# Name, colour and marker of each source or arm. The palettes are Okabe and Ito's and Paul Tol's
# muted one, whose colours colour-blind readers can tell apart. Variants of an arm have its colour.
ARMS: dict[str, tuple[str, str | None, str | None]] = {
    "assistant": ("assistant", "#882255", None),
    "assistant_iter": ("assistant, told to differ", "#44AA99", None),
    "authors": ("authors", "#0072B2", None),
    "start": ("starting model", "#999999", "v"),
    "sft": ("SFT", "#000000", "s"),
    "dpo": ("DPO", "#D55E00", "o"),
    "shuffled": ("DPO, shuffled weights", "#E69F00", "D"),
    "ddpo": ("DDPO", "#009E73", "^"),
    "shuffled-sem": ("DPO, shuffled semantic weights", None, None),
    "shuffled-sty": ("DPO, shuffled style weights", None, None),
    "ddpo-sem": ("DDPO, semantic weights", "#56B4E9", "<"),
    "ddpo-sty": ("DDPO, style weights", "#CC79A7", ">"),
    "ddpo-k8": ("DDPO, 8 responses", None, None),
    "ddpo-k6": ("DDPO, 6 responses", None, None),
    "ddpo-k4": ("DDPO, 4 responses", None, None),
    "ddpo-k4-floor": ("4 responses, floor", "#009E73", "v"),
    "ddpo-k4-top": ("4 responses, best winners", "#009E73", "P"),
    "dpo-rate": ("DPO at DDPO's rate", None, None),
    "dpo-matched": ("DPO at DDPO's KL", "#D55E00", "h"),
    "dpo-beta": ("DPO, larger beta", "#D55E00", "s"),
    "dpo-hot": ("DPO, hotter", "#D55E00", "*"),
    "divpo": ("DivPO", "#F0E442", "X"),
    "divpo-steps": ("DivPO, as many steps", "#F0E442", "P"),
    "orpo": ("ORPO", "#999933", "p"),
    "dorpo": ("DORPO", "#332288", "d"),
    "orpo-matched": ("ORPO at DORPO's KL", None, None),
    "dorpo-shuffled": ("ORPO, shuffled weights", "#E69F00", "d"),
}
NAMES = {key: name for key, (name, _, _) in ARMS.items()}
COLOURS = {key: colour for key, (_, colour, _) in ARMS.items() if colour}
MARKERS = {key: marker for key, (_, _, marker) in ARMS.items() if marker}
# Writers are told apart by colours that no arm has (of the muted palette) and by three shapes.
SHAPES = {"o": "circle", "D": "diamond", "s": "square"}  # by matplotlib's name and by plotly's
WRITERS = ["#88CCEE", "#117733", "#DDCC77", "#CC6677", "#AA4499"]
PLOTLY = "application/vnd.plotly.v1+json"  # drawn by an extension that plotly brings along


def in_words(text: str) -> str:
    """The text with names in place of the keys of ARMS: "DDPO - SFT" for "ddpo - sft"."""
    keys = "|".join(sorted(NAMES, key=len, reverse=True))
    return re.sub(rf"\b(?:{keys})\b", lambda key: NAMES[key[0]], text)


def figure(
    columns: int = 1, rows: int = 1, width: float = 8.0, height: float = 3.6, **options: Any
) -> tuple[Any, Any]:
    """`matplotlib.pyplot.subplots` in the course's style; width and height in inches."""
    import matplotlib.pyplot as plt

    style = {
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "legend.frameon": False,
    }
    plt.rcParams.update(style)
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def show(fig: Any, caption: str) -> None:
    """Display the figure as a PNG with its caption below it, and close it.

    The caption says what the marks mean, which interval is drawn and what to see; it is the PNG's
    alternative text as well.
    """
    from IPython.display import Image, display

    display(Image(_png(fig), alt=caption))
    _show_caption(caption)


def _png(fig: Any) -> bytes:
    """The figure as a PNG; it is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return buffer.getvalue()


def _show_caption(caption: str) -> None:
    from IPython.display import HTML, display

    style = "max-width:50em;font-size:90%;margin:0 0 1em"
    display(HTML(f"<p style='{style}'><b>Figure.</b> {escape(caption)}</p>"))


def story_map(
    layouts: Mapping[str, Any],
    stories: pd.DataFrame,
    weights: Mapping[str, Any],
    caption: str,
) -> None:
    """Display maps of stories; the pointer on a point shows its story, prompt, writer and weight.

    JupyterLab draws it with plotly's own extension and Colab from plotly's address. Where neither
    is there (GitHub, exported HTML), the same output shows a PNG of the maps.

    Args:
        layouts: places (N, 2) of the stories, by the title of their map.
        stories: N rows with the columns `name` (of the writer), `prompt` and `text`.
        weights: weights (N,) by the title of the map; a point's area grows with its weight.
    """
    from IPython.display import display
    from plotly.subplots import make_subplots

    titles = list(layouts)
    plot = make_subplots(cols=len(titles), subplot_titles=titles, horizontal_spacing=0.03)
    fig, axes = figure(len(titles), width=10, height=5.2)
    for column, title in enumerate(titles):
        for k, (name, rows) in enumerate(stories.groupby("name").indices.items()):
            x, y = layouts[title][rows].T.tolist()
            area = 8 + 25 * weights[title][rows]
            shape, colour = list(SHAPES)[k // len(WRITERS)], WRITERS[k % len(WRITERS)]
            axes[column].scatter(x, y, s=area, c=colour, marker=shape, alpha=0.8, lw=0, label=name)
            marker = {"size": (1.3 * area**0.5).tolist(), "line": {"width": 0}}
            marker |= {"color": colour, "symbol": SHAPES[shape]}
            once = {"name": name, "legendgroup": name, "showlegend": column == 0}
            cards = [_card(stories.iloc[row], weights[title][row]) for row in rows]
            once |= {"hovertext": cards, "hoverinfo": "text", "row": 1, "col": column + 1}
            plot.add_scatter(x=x, y=y, mode="markers", marker=marker, **once)
        axes[column].set(title=title, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        plot.update_xaxes(range=axes[column].get_xlim(), title="UMAP 1", col=column + 1)
        plot.update_yaxes(range=axes[column].get_ylim(), col=column + 1)
    legend = fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    for handle in legend.legend_handles:
        handle.set_sizes([50])
    plot.update_xaxes(showticklabels=False, ticks="")
    plot.update_yaxes(showticklabels=False, ticks="")
    plot.update_layout(height=540, width=960, template="simple_white", legend_itemsizing="constant")
    plot.update_layout(margin={"l": 10, "r": 10, "t": 40, "b": 40})
    plot.update_layout(hoverlabel={"align": "left", "bgcolor": "white"})
    picture = _png(fig)
    if "google.colab" in sys.modules:
        plot.show(renderer="colab")
    else:
        bundle = {PLOTLY: json.loads(plot.to_json())}
        bundle |= {"image/png": base64.b64encode(picture).decode(), "text/plain": "<Map>"}
        display(bundle, metadata={"image/png": {"alt": caption}}, raw=True)
    _show_caption(caption)


def _card(story: pd.Series, weight: float) -> str:
    """What the pointer shows of a story, in lines of at most 70 characters."""
    head = f"<b>{escape(story['name'])}, weight {weight:.2f}</b>"
    lines = []
    for paragraph in [story["prompt"], "", *story["text"].splitlines()]:
        lines += textwrap.wrap(escape(paragraph, quote=False), 70) or [""]
    return "<br>".join([head, *lines])


def interval_plot(
    ax: Any, intervals: Mapping[str, Interval], label: str, zero: bool = False
) -> None:
    """Plot means with their 95% intervals, one a row in order, on an axis named `label`.

    Keys of ARMS get their name, colour and marker; `zero` draws the line of no difference.
    """
    for row, (key, value) in enumerate(intervals.items()):
        colour = COLOURS.get(key, "#444444")
        ax.plot([value.low, value.high], [row, row], color=colour, lw=2.5)
        ax.plot(value.mean, row, MARKERS.get(key, "o"), color=colour, ms=8)
    if zero:
        ax.axvline(0, color="black", lw=1, ls="--")
    ax.set_yticks(range(len(intervals)), [NAMES.get(key, key) for key in intervals])
    ax.set_ylim(len(intervals) - 0.5, -0.5)
    ax.set_xlabel(label)


def path_plot(
    ax: Any,
    ends: pd.DataFrame,
    paths: pd.DataFrame,
    arms: Sequence[str],
    start: str,
    x: str,
    y: str,
) -> None:
    """Plot each arm over training, y against x, as differences from `start` of the same seed.

    A dot is the mean over seeds at a checkpoint; the end has 95% intervals over seeds. The path is
    dashed where an arm before it has the same colour, and left out where no checkpoint is recorded.

    Args:
        ends: seed, arm, steps and the measures x and y, one row an arm and seed.
        paths: the same, one row a checkpoint before the end.
    """
    import pandas as pd

    from ..evaluation.statistics import mean_interval

    first = ends[ends["arm"] == start].set_index("seed")[[x, y]]
    drawn: set[str] = set()
    for arm in arms:
        end = ends[ends["arm"] == arm].set_index("seed")
        before = paths[paths["arm"] == arm].set_index("seed")
        points = pd.concat([before, end])
        moved = points[[x, y]] - first.reindex(points.index)
        line = moved.groupby(points["steps"]).mean()
        style = "--" if COLOURS[arm] in drawn else "-"
        if len(before):
            ax.plot([0, *line[x]], [0, *line[y]], style, color=COLOURS[arm], marker=".", lw=1.5)
        drawn.add(COLOURS[arm])
        at_end = end[[x, y]] - first.reindex(end.index)
        right, up = mean_interval(at_end[x]), mean_interval(at_end[y])
        ax.errorbar(
            right.mean,
            up.mean,
            xerr=right.high - right.mean,
            yerr=up.high - up.mean,
            fmt=MARKERS[arm],
            color=COLOURS[arm],
            ms=9,
            label=NAMES[arm],
        )
    ax.axhline(0, color="black", lw=1, ls=":")


def set_of_stories(texts: Sequence[str], heads: Sequence[str], columns: int = 3) -> None:
    """Display stories side by side in an HTML table of `columns`, each under its head."""
    from IPython.display import HTML, display

    style = f"vertical-align:top;text-align:left;width:{100 // columns}%;padding:6px"
    rows = []
    for place, (text, head) in enumerate(zip(texts, heads, strict=True)):
        if place % columns == 0:
            rows.append("")
        body = escape(text).replace("\n", "<br>")
        rows[-1] += f"<td style='{style}'><b>{escape(head)}</b><br>{body}</td>"
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    display(HTML(f"<table style='width:100%;table-layout:fixed'>{table}</table>"))
