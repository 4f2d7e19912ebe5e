"""What an architecture is worth: predictors, rankings from several scores, tables."""

from estimators.accuracy.aggregation import aggregate
from estimators.accuracy.learned_ranking import aggregate_learned
from estimators.accuracy.predictor import one_hot

__all__ = ["aggregate", "aggregate_learned", "one_hot"]
