"""The sweep itself: Ray Tune, the nodes, signals, and who hears of trials while they run.

What is to run was decided in `orchestrator.plan`. May import all of `orchestrator` but `sweep`, and
what runs a trial in `trainers`.
"""
