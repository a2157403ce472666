"""What a person sees of a sweep: the plan, its progress, its end; and how things are said there.

Decides nothing. May import `orchestrator.plan` and `analysis`.
"""
