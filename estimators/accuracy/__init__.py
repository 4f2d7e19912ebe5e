"""What an architecture is worth: predictors, rankings from several scores, tables."""

from estimators.accuracy.aggregation import aggregate, ranks
from estimators.accuracy.learned_ranking import aggregate_learned
from estimators.accuracy.predictor import PREDICTORS, Predictor, input_weights, normal_scores, one_hot
from estimators.accuracy.tabular import Table, published_table, read_table

__all__ = [
    "PREDICTORS", "Predictor", "Table", "aggregate", "aggregate_learned", "input_weights", "normal_scores", "one_hot",
    "published_table", "ranks", "read_table",
]  # fmt: skip
