"""What an index is worth."""

from pruners.importance.config import Importance, Scoring, check_one_of
from pruners.importance.criteria import Loss
from pruners.importance.distortion import distortion_curves, placeholder_values
from pruners.importance.matrix_form import bounds, is_product, sampled
from pruners.importance.named import CRITERIA, Criterion, criterion_entry
from pruners.importance.reconstruction import Moments, second_moments
from pruners.importance.score import score_groups

__all__ = [
    "CRITERIA", "Criterion", "Importance", "Loss", "Moments", "Scoring", "bounds", "check_one_of", "criterion_entry",
    "distortion_curves", "is_product", "placeholder_values", "sampled", "score_groups", "second_moments",
]  # fmt: skip
