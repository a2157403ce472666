"""From the files of a results folder to checked frames: trials, their cells, statistics over seeds.

Nothing that is printed or drawn. May import `analysis.store` and `paper`.
"""
