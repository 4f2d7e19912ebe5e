"""What an index is worth."""

from pruners.importance.config import (
    CRITERIA,
    WITHOUT_DATA,
    WITHOUT_LABELS,
    Criterion,
    Importance,
    Scoring,
    check_one_of,
)
from pruners.importance.criteria import Loss
from pruners.importance.distortion import distortion_curves, placeholder_values
from pruners.importance.matrix_form import bounds, is_product, sampled
from pruners.importance.reconstruction import Moments, second_moments
from pruners.importance.score import score_groups

__all__ = [
    "CRITERIA",
    "WITHOUT_DATA",
    "WITHOUT_LABELS",
    "Criterion",
    "Importance",
    "Loss",
    "Moments",
    "Scoring",
    "bounds",
    "check_one_of",
    "distortion_curves",
    "is_product",
    "placeholder_values",
    "sampled",
    "score_groups",
    "second_moments",
]
