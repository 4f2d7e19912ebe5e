"""What an index is worth."""

from pruners.importance.config import AUTO, Importance, Scoring, check_one_of, qualified_name
from pruners.importance.criteria import Loss
from pruners.importance.directions import Directions, direction_damages, known_of
from pruners.importance.distortion import distortion_curves, placeholder_values
from pruners.importance.leaving_out import left_out_damages
from pruners.importance.matrix_form import bounds, is_product, sampled
from pruners.importance.named import CRITERIA, Criterion, criterion_entry
from pruners.importance.outputs import Measure
from pruners.importance.passes import USUAL, Bounds, Tell, held_samples, pieces, unheard
from pruners.importance.reconstruction import MakingUp, Moments, made_up, making_up, second_moments
from pruners.importance.running_again import repeated_damages
from pruners.importance.score import score_groups

__all__ = [
    "AUTO", "CRITERIA", "USUAL", "Bounds", "Criterion", "Directions", "Importance", "Loss", "MakingUp", "Measure", "Moments",
    "Scoring", "Tell", "bounds", "check_one_of", "criterion_entry", "direction_damages", "distortion_curves", "held_samples",
    "is_product", "known_of", "left_out_damages", "made_up", "making_up", "pieces", "placeholder_values", "qualified_name",
    "repeated_damages", "sampled", "score_groups", "second_moments", "unheard",
]  # fmt: skip
