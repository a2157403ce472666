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
SCREEN, PAPER = "screen", "paper"
STYLES: dict[str, dict[Any, Any]] = {
    SCREEN: {},
    PAPER: {"font.family": ["serif"], "font.serif": ["STIXGeneral"], "mathtext.fontset": "stix"},
}
_FILES: dict[Any, Any] = {"svg.fonttype": "path", "pdf.fonttype": 42, "svg.hashsalt": "analysis"}


@contextmanager
def style(name: str) -> Iterator[None]:
    """Matplotlib as it comes, in one of STYLES: nothing of the user's matplotlibrc is left."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_FILES, **STYLES[name]})
        yield


def new_figure(
    rows: int, columns: int, *, width: float, row_height: float, sharey: Literal["none", "row"]
) -> tuple[Figure, Any]:
    """A figure and its axes, shape (rows, columns); sizes in inches."""
    figure = Figure(figsize=(width, row_height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def tidy(ax: Axes) -> None:
    """Small ticks, a light grid and no frame where there is no axis; a note if nothing is drawn."""
    if not ax.has_data():
        add_note(ax, "no values to draw")
    ax.tick_params(labelsize=FONT_SIZE, length=2.5, pad=2)
    ax.tick_params(which="minor", labelsize=FONT_SIZE - 2, length=1.5, pad=2)
    ax.xaxis.label.set_fontsize(FONT_SIZE)
    ax.yaxis.label.set_fontsize(FONT_SIZE)
    ax.grid(axis="y", color="0.9", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def add_note(ax: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    ax.text(
        0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.35",
        fontsize=FONT_SIZE,
    )  # fmt: skip


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


def save(figure: Figure, path: Path, *, style_name: str = SCREEN) -> None:
    """Write a figure, whole or not at all; the format is the path's suffix."""
    write_bytes(path, as_bytes(figure, path.suffix[1:], style_name=style_name))


def as_bytes(figure: Figure, fmt: str, *, style_name: str = SCREEN) -> bytes:
    """A figure as png, svg or pdf. The same figure gives the same bytes.

    Args: the style that it was built in; some of what it says is looked up as late as here.
    """
    if style_name == PAPER:  # in print the caption says it
        figure.suptitle("")
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with style(style_name):
        figure.savefig(buffer, format=fmt, dpi=_DPI, metadata=undated.get(fmt))
    return buffer.getvalue()
