"""Figures look the same on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from analysis.figures import build_figures
from analysis.figures.drawing import as_bytes
from analysis.trials.load import load_results
from tests.analysis.recorded_store import COLLAPSE, Store

# A dark theme, and a program that isn't there on a machine without TeX.
THEME = """
text.usetex: True
axes.facecolor: black
figure.facecolor: black
savefig.facecolor: black
text.color: white
axes.prop_cycle: cycler('color', ['ffffff', 'eeeeee'])
lines.linewidth: 7
font.size: 20
svg.fonttype: none
image.interpolation: bilinear
"""


def _fill(store: Store) -> None:
    for loss in ("ce", "bce"):
        store.add(COLLAPSE, [{"nc1_train": 1 / epoch} for epoch in (1, 2, 4)], loss=loss)


def _drawn(store: Store, out: Path, *words: str, rc: Path | None) -> dict[str, bytes]:
    """What a process with this matplotlibrc draws."""
    own = {key: text for key, text in os.environ.items() if key != "MATPLOTLIBRC"}
    own |= {"MATPLOTLIBRC": str(rc)} if rc else {}
    command = [sys.executable, "-m", *words, "--results", str(store.root), "--out", str(out)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=own)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("style", ["screen", "paper"])
def test_the_users_matplotlibrc_changes_nothing(store: Store, tmp_path: Path, style: str) -> None:
    _fill(store)
    rc = tmp_path / "matplotlibrc"
    rc.write_text(THEME)
    words = ("analysis.figures", "--figure", "2", "--format", "svg", "--style", style)
    plain, themed = (
        _drawn(store, tmp_path / name, *words, rc=file)
        for name, file in (("plain", None), ("themed", rc))
    )
    assert plain.keys() == {"fig2_cifar10_resnet18.svg"}
    assert themed == plain


@pytest.mark.slow
def test_nor_does_it_in_the_report(store: Store, tmp_path: Path) -> None:
    _fill(store)
    rc = tmp_path / "matplotlibrc"
    rc.write_text(THEME)
    out = tmp_path / "reports"
    out.mkdir()
    plain, themed = (
        _drawn(store, out, "analysis.report", rc=file)["report.html"].split(b"<h2 id=")[3]
        for file in (None, rc)
    )
    assert plain.startswith(b'"figures"')
    assert themed == plain


def _bytes(store: Store) -> bytes:
    ((_, figure),) = build_figures(load_results(store.root), 2)
    return as_bytes(figure, "svg")


def test_what_is_set_changes_nothing_and_stays_set(store: Store, tmp_path: Path) -> None:
    _fill(store)
    plain = _bytes(store)
    rc = tmp_path / "matplotlibrc"
    rc.write_text(THEME)
    with mpl.rc_context(fname=rc):
        for _, _figure in build_figures(load_results(store.root), 2):
            assert mpl.rcParams["font.size"] == 20  # also while figures are handed out
        assert _bytes(store) == plain
        assert mpl.rcParams["font.size"] == 20
