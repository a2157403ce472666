"""One trial from its start, or its newest checkpoint, to its last row: loop, ranks, device, probe.

Knows no sweep and no Ray. May import all of `trainers` but its entry points, and `analysis.store`.
"""
