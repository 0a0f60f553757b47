"""The look of all figures of the book, and `publish`, which shows a figure and gives its data to the reader.

Figures can be read in greyscale: line styles and markers differ as well as colours. The classical bound is always the
same dashed line.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ncutil.evidence.outputs import TABLE_MIME, show

PALETTE = ("#0b3c5d", "#b8324a", "#4fa65f", "#edae49", "#7768ae", "#6c757d")
"""Six hues in order of use; the first three differ in lightness too."""

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def style() -> None:
    """Set the style of the book: white ground, thin grid, the palette above. Call it once, at the top of a chapter."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=list(PALETTE),
        rc={
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.h_pad": 0.08,  # inches
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.08,
            "figure.dpi": 140,
            "figure.figsize": (6.4, 3.8),
            "grid.color": "0.92",
            "legend.frameon": False,
        },
    )


def bound(ax: Axes, value: float, label: str, *, quantum: bool = False) -> None:
    """Draw a bound on S as a horizontal line with its name at the right end; dashed, or dash-dotted if quantum."""
    ax.axhline(value, color="0.25", linewidth=1.2, linestyle="-." if quantum else "--", zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (-2, 3), "textcoords": "offset points"}
    ax.annotate(label, (1, value), ha="right", fontsize="small", color="0.25", **place)


def points(ax: Axes, x: ArrayLike, table: pd.DataFrame, **style: Any) -> None:
    """Draw means with their intervals at `x`, from the columns mean, low and high of a table (`stats.summary`)."""
    error = [table["mean"] - table.low, table.high - table["mean"]]
    ax.errorbar(np.asarray(x), table["mean"], np.maximum(error, 0), capsize=3, **style)


def graph(
    levels: Sequence[Sequence[str]],
    edges: Iterable[tuple[str, str]],
    *,
    firing: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
    labels: Mapping[str, str] | bool = False,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a neurashed graph as figures 1 to 5 of Su (2024): levels bottom to top, edges, firing nodes, factors.

    `levels` and `edges` are those of a `Neurashed`. `firing`, bool of shape (nodes,), is a pathway: firing nodes are
    filled red squares joined by thick edges, the others open circles. `sizes`, shape (nodes below the last level,), are
    factors: a node's area is in proportion to its factor, the largest of all being full. `labels` says whether to write
    names into the nodes, or what to write by name. Returns the axes.
    """
    ax = plt.gca() if ax is None else ax
    place = {name: ((j + 0.5) / len(names) - 0.5, i) for i, names in enumerate(levels) for j, name in enumerate(names)}
    on = dict.fromkeys(place, False) if firing is None else dict(zip(place, np.asarray(firing, bool), strict=True))
    area = dict.fromkeys(place, 1.0)
    if sizes is not None:
        given, hidden = np.asarray(sizes, float), len(place) - len(levels[-1])
        if given.shape != (hidden,):
            raise ValueError(f"sizes must have shape ({hidden},), one per node below the last level; got {given.shape}")
        area |= dict(zip(place, given / (given.max() or 1.0), strict=False))
    for low, high in edges:
        both = on[low] and on[high]
        x, y = zip(place[low], place[high], strict=True)
        ax.plot(x, y, color=PALETTE[1] if both else "0.7", linewidth=1.8 if both else 0.7, zorder=1)
    for name, (x0, y0) in place.items():
        marker, colour = ("s", PALETTE[1]) if on[name] else ("o", "white")
        size = 170 * max(area[name], 0.03)  # a full node has 170 square points
        ax.scatter(x0, y0, size, marker=marker, facecolor=colour, edgecolor="black", linewidth=0.9, zorder=2)
        text = labels.get(name, "") if isinstance(labels, Mapping) else name if labels else ""
        ax.annotate(text, (x0, y0), ha="center", va="center", fontsize=7, color="white" if on[name] else "black")
    ax.set(title=title, xlim=(-0.56, 0.56), ylim=(-0.4, len(levels) - 0.6))
    ax.axis("off")
    return ax


def publish(name: str, frame: pd.DataFrame) -> None:
    """Show the current figure, and give its data to the reader as `name`.csv.

    Picture and data are one output: `ncutil run` keeps the data, and the page has a link to them under the figure.
    Raises ValueError for a name that is no plain file name, or an empty frame.
    """
    if not name or not name.replace("-", "").isalnum():
        raise ValueError(f"a figure's name is letters, digits and hyphens; got {name!r}")
    if frame.empty:
        raise ValueError(f"figure {name!r} has no data")
    show(
        {
            "image/png": print_figure(plt.gcf(), bbox_inches=None, base64=True),
            TABLE_MIME: {"name": name, "csv": frame.to_csv(index=False, float_format="%.8g")},
            "text/plain": f"{name}: {len(frame)} rows of {', '.join(map(str, frame))}",
        }
    )
    plt.close()
