"""The ground: what results files hold, and how they are named, read, written, locked and merged.

Nothing here knows what a number means. It imports the standard library, pyarrow, PyYAML and rich,
and nothing of this project; everything else may import it, and `trainers` only this of `analysis`.
"""
