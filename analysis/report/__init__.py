"""The report: verdicts on the paper's claims, then every table and figure in one HTML file.

Nothing is computed here that a table could show. May import all of `analysis`; nothing there
imports this. The command `python -m analysis.report` is its door.
"""
