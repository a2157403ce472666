"""The paper's metrics, from features and a linear classifier, exact and streaming.

`from_features` takes arrays, `Accumulator` takes batches and merges over workers; both run the same
code. One file per family: `collapse` (nc1 to nc4, cdnv), `uniform` (accuracy, uniform accuracy),
`cosine` (compactness, distinctiveness), `scores` (score statistics and the histogram for violins).
Logits are `z = W h - b`: the bias is subtracted. Names and units stand in `analysis.store.schema`.
A metric that the data cannot give (a class without samples, W = 0) is NaN, never 0.
"""

from trainers.metrics.accumulator import Accumulator
from trainers.metrics.features import from_features
from trainers.metrics.scores import ScoreHistogram

__all__ = ["Accumulator", "ScoreHistogram", "from_features"]
