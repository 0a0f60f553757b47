"""One figure family for the whole book: readable in greyscale, with the data behind each figure to take home.

Line styles and markers differ as well as colours; the classical bound is always the same dashed line.
"""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.core.pylabtools import print_figure
from matplotlib.axes import Axes

from ncutil.records import TABLE_MIME, show

PALETTE = ("#0b3c5d", "#b8324a", "#4fa65f", "#edae49", "#7768ae", "#6c757d")
"""Six hues in order of use; the first three differ in lightness too."""

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def style() -> None:
    """Set the house style: white ground, thin grid, the palette above. Call once, at the top of a chapter."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=list(PALETTE),
        rc={
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 140,
            "figure.figsize": (6.4, 3.8),
            "grid.color": "0.92",
            "legend.frameon": False,
        },
    )


def bound(ax: Axes, value: float, label: str, *, quantum: bool = False) -> None:
    """Draw a bound on S as a horizontal line with its name at the right end; dashed, or dash-dotted if quantum."""
    ax.axhline(value, color="0.25", linewidth=1.2, linestyle="-." if quantum else "--", zorder=1)
    ax.annotate(
        label,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize="small",
        color="0.25",
    )


def share(name: str, frame: pd.DataFrame) -> None:
    """Show the current figure and hand its data to the reader as `name`.csv.

    Picture and data are one output: `ncutil run` keeps the frame beside the run, and the page links it under the
    figure. Explained on the page on rerunning.

    Raises ValueError for a name that is no plain file name, or an empty frame.
    """
    if not name or not name.replace("-", "").isalnum():
        raise ValueError(f"a figure's name is letters, digits and hyphens; got {name!r}")
    if frame.empty:
        raise ValueError(f"figure {name!r} has no data")
    figure = plt.gcf()
    show(
        {
            "image/png": print_figure(figure, base64=True),
            TABLE_MIME: {"name": name, "csv": frame.to_csv(index=False, float_format="%.8g")},
            "text/plain": f"{name}: {len(frame)} rows of {', '.join(map(str, frame))}",
        }
    )
    plt.close(figure)
