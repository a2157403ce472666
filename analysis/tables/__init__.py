"""The tables: the paper's, the theory's, and one over any axes; how they are built and printed.

No figure and no verdict, which are drawn and judged from these. May import `analysis.store`,
`paper`, `trials` and `theory`. The command `python -m analysis.tables` is its door.
"""

from analysis.tables.catalogue import build_table, build_tables

__all__ = ["build_table", "build_tables"]
