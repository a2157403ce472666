"""What a sweep is to do: studies, trials, what of them is done, and what each takes of a cluster.

Starts nothing and prints nothing. May import `orchestrator.options`, `analysis.store` and what
checks a trial in `trainers`.
"""
