"""What is trained and by which rule: backbones, the classifier, losses, optimizers.

How long, on what and with whom is decided in `trainers.run`. May import `analysis.store` and the
files of `trainers` that a study is checked by.
"""
