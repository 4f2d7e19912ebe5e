"""What an index is worth."""

from pruners.importance.criteria import Loss
from pruners.importance.distortion import distortion_curves, placeholder_values
from pruners.importance.matrix_form import bounds, is_product, sampled
from pruners.importance.reconstruction import Moments, second_moments
from pruners.importance.score import CRITERIA, WITHOUT_DATA, WITHOUT_LABELS, Criterion, check_importance, score_groups

__all__ = [
    "CRITERIA",
    "WITHOUT_DATA",
    "WITHOUT_LABELS",
    "Criterion",
    "Loss",
    "Moments",
    "bounds",
    "check_importance",
    "distortion_curves",
    "is_product",
    "placeholder_values",
    "sampled",
    "score_groups",
    "second_moments",
]
