"""From a results folder to the paper's tables, figures and theory checks, without torch or Ray.

Reads what `store.schema` describes and nothing else. `load_results` is the door for a notebook.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.store.errors import ResultsError
    from analysis.trials.load import Results, load_results

__all__ = ["Results", "ResultsError", "load_results"]


def __getattr__(name: str) -> object:
    """Import pandas when it is needed: `trainers` imports `store.schema` in every worker."""
    if name in __all__:
        from analysis.store import errors
        from analysis.trials import load

        return getattr(errors if name == "ResultsError" else load, name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
