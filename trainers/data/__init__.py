"""From a dataset's files to the batches of an epoch: cache, splits, augmentation.

Which datasets there are is in `trainers.datasets`. May import `analysis.store`, `trainers.datasets`
and `trainers.config`.
"""
