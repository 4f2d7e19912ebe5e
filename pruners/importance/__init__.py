"""What an index is worth."""

from pruners.importance.criteria import Loss
from pruners.importance.distortion import distortion_curves, placeholder_values
from pruners.importance.matrix_form import bounds, is_product, sampled
from pruners.importance.named import CRITERIA, Criterion, criterion_entry
from pruners.importance.reconstruction import Moments, second_moments
from pruners.importance.score import check_importance, score_groups

__all__ = [
    "CRITERIA",
    "Criterion",
    "Loss",
    "Moments",
    "bounds",
    "check_importance",
    "criterion_entry",
    "distortion_curves",
    "is_product",
    "placeholder_values",
    "sampled",
    "score_groups",
    "second_moments",
]
