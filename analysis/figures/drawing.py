"""What all figures have in common: size, fonts, colours, legend, and how they are saved.

Figures are built as objects, without pyplot: nothing global, nothing left open.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.store.files import write_bytes

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
# Colour and marker of a loss, as in the paper's Fig. 2; "" is any other loss.
LOSS_STYLE: dict[Any, Any] = {"ce": (BLUE, "D"), "bce": (VERMILLION, "o"), "": (GREEN, "s")}
FONT_SIZE = 8
_DPI = 200
_SERIF = ["serif"]
_PAPER = {"font.family": _SERIF, "font.serif": ["STIXGeneral"], "mathtext.fontset": "stix"}
STYLES: dict[str, dict[Any, Any]] = {"screen": {}, "paper": _PAPER}
_STYLE: dict[Any, Any] = {"svg.fonttype": "path", "pdf.fonttype": 42, "svg.hashsalt": "analysis"}


def new_figure(
    rows: int, columns: int, *, width: float, row_height: float, sharey: Literal["none", "row"]
) -> tuple[Figure, Any]:
    """A figure and its axes, shape (rows, columns); sizes in inches."""
    figure = Figure(figsize=(width, row_height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def tidy(ax: Axes) -> None:
    """Small ticks, a light grid and no frame where there is no axis."""
    ax.tick_params(labelsize=FONT_SIZE, length=2.5, pad=2)
    ax.tick_params(which="minor", labelsize=FONT_SIZE - 2, length=1.5, pad=2)
    ax.xaxis.label.set_fontsize(FONT_SIZE)
    ax.yaxis.label.set_fontsize(FONT_SIZE)
    ax.grid(axis="y", color="0.9", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend for all panels, below them."""
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=min(len(handles), int(figure.get_figwidth() / 1.5)),
        fontsize=FONT_SIZE,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.5,
    )


@contextmanager
def style(name: str) -> Iterator[None]:
    """Build and save figures in one of STYLES."""
    with mpl.rc_context(STYLES[name]):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the format is the path's suffix."""
    write_bytes(path, as_bytes(figure, path.suffix[1:]))


def as_bytes(figure: Figure, fmt: str) -> bytes:
    """A figure as png, svg or pdf. The same figure gives the same bytes."""
    if mpl.rcParams["font.family"] == _SERIF:  # in print the caption says it
        figure.suptitle("")
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format=fmt, dpi=_DPI, metadata=undated.get(fmt))
    return buffer.getvalue()
