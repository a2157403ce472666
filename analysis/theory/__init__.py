"""What Eq. (3) predicts: its minimum, Theorem 2's point, and both for a trial's own setting.

No tables and no measured values: those are in `analysis.tables`, which imports this. May import
`analysis.store`, `paper` and `trials`. The command `python -m analysis.theory` is its door.
"""

from analysis.theory.minima import Minimum, minimum, theorem2_point

__all__ = ["Minimum", "minimum", "theorem2_point"]
