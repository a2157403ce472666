"""The sweep itself: its cluster, what Ray Tune runs there, signals, and who hears of trials.

What is to run was decided in `orchestrator.plan`. May import all of `orchestrator` but `sweep`, and
what runs a trial in `trainers`.
"""
