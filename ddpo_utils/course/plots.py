"""The figures that more than one notebook uses, and one way to show any figure: as a PNG with alternative text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.statistics import Interval

__all__ = ["COLOURS", "MARKERS", "NAMES", "figure", "interval_plot", "show"]

# Okabe and Ito's palette, which colour-blind readers can tell apart; one colour a source or arm, in every notebook.
COLOURS = {
    "assistant": "#D55E00",
    "assistant_iter": "#E69F00",
    "authors": "#0072B2",
    "start": "#999999",
    "sft": "#000000",
    "dpo": "#D55E00",
    "shuffled": "#E69F00",
    "ddpo": "#009E73",
    "ddpo-sem": "#56B4E9",
    "ddpo-sty": "#CC79A7",
    "ddpo-k4-floor": "#0072B2",
    "ddpo-k4-top": "#E69F00",
    "dpo-matched": "#D55E00",
    "dpo-hot": "#D55E00",
    "divpo": "#F0E442",
    "divpo-steps": "#F0E442",
    "orpo": "#999999",
    "dorpo": "#0072B2",
}
NAMES = {
    "assistant": "assistant",
    "assistant_iter": "assistant, told to differ",
    "authors": "authors",
    "start": "starting model",
    "sft": "SFT",
    "dpo": "DPO",
    "shuffled": "DPO, shuffled weights",
    "ddpo": "DDPO",
    "ddpo-sem": "DDPO, semantic weights",
    "ddpo-sty": "DDPO, style weights",
    "ddpo-k8": "DDPO, 8 responses",
    "ddpo-k6": "DDPO, 6 responses",
    "ddpo-k4": "DDPO, 4 responses",
    "ddpo-k4-floor": "4 responses, floor",
    "ddpo-k4-top": "4 responses, best winners",
    "dpo-matched": "DPO at DDPO's KL",
    "dpo-hot": "DPO, hotter",
    "divpo": "DivPO",
    "divpo-steps": "DivPO, as many steps",
    "orpo": "ORPO",
    "dorpo": "DORPO",
}
MARKERS = {
    "start": "v",
    "sft": "s",
    "dpo": "o",
    "shuffled": "D",
    "ddpo": "^",
    "ddpo-sem": "<",
    "ddpo-sty": ">",
    "ddpo-k4-floor": "v",
    "ddpo-k4-top": "P",
    "dpo-matched": "h",
    "dpo-hot": "*",
    "divpo": "X",
    "divpo-steps": "P",
    "orpo": "p",
    "dorpo": "d",
}


def figure(
    columns: int = 1, rows: int = 1, width: float = 8.0, height: float = 3.6, **options: Any
) -> tuple[Any, Any]:
    """`matplotlib.pyplot.subplots` in the course's style; width and height in inches. Nothing is shown twice."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "legend.frameon": False,
        }
    )
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def show(fig: Any, alt: str, path: Any = None) -> None:
    """Display the figure as a PNG with `alt` as alternative text, write it to `path` if given, and close it."""
    import matplotlib.pyplot as plt
    from IPython.display import Image, display

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    if path is not None:
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
    display(Image(buffer.getvalue(), alt=alt))


def interval_plot(
    ax: Any, intervals: Mapping[str, Interval], label: str, zero: bool = False
) -> None:
    """Points with their 95% intervals, one a row in the mapping's order, on an axis named `label`.

    Keys known to NAMES get their name, colour and marker; `zero` draws the line of no difference.
    """
    for row, (key, value) in enumerate(intervals.items()):
        colour, marker = COLOURS.get(key, "#56B4E9"), MARKERS.get(key, "o")
        ax.plot([value.low, value.high], [row, row], color=colour, lw=2.5)
        ax.plot(value.mean, row, marker, color=colour, ms=8)
    if zero:
        ax.axvline(0, color="black", lw=1, ls="--")
    ax.set_yticks(range(len(intervals)), [NAMES.get(key, key) for key in intervals])
    ax.set_ylim(len(intervals) - 0.5, -0.5)
    ax.set_xlabel(label)


def set_of_stories(texts: Sequence[str], heads: Sequence[str], columns: int = 3) -> None:
    """Display stories side by side in a table of `columns`, each under its head; plain HTML, no script."""
    from html import escape

    from IPython.display import HTML, display

    cell = "<td style='vertical-align:top;text-align:left;width:{w}%;padding:6px'><b>{h}</b><br>{t}</td>"
    cells = [
        cell.format(w=100 // columns, h=escape(head), t=escape(text).replace("\n", "<br>"))
        for head, text in zip(heads, texts, strict=True)
    ]
    rows = [
        "<tr>" + "".join(cells[i : i + columns]) + "</tr>" for i in range(0, len(cells), columns)
    ]
    display(HTML("<table style='width:100%;table-layout:fixed'>" + "".join(rows) + "</table>"))
