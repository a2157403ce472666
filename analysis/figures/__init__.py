"""The figures: what each draws, and how they look and are saved.

Numbers come from `analysis.trials` and `tables`; none is computed here. May import all of
`analysis` but `report`. The command `python -m analysis.figures` is its door.
"""

from analysis.figures.catalogue import build_figures

__all__ = ["build_figures"]
