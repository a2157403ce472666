"""MLflow, a mirror of the results: its runs, their addresses, and the thread that writes them.

Parquet is the record; nothing is read back from here. May import `analysis.store`,
`trainers.config`, and the words of `orchestrator.terminal`. `python -m orchestrator.tracking` makes
it all again.
"""
