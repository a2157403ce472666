"""What was published: the paper's tables as CSV, and its recipe.

No number of ours, and nothing that compares. May import nothing but `analysis.store`.
"""
