"""A given model: its weights, its inputs, its recovery, and the search space that it is."""

from nas.pruning.config import PruneConfig, peek_prune_config, read_prune_config
from nas.pruning.inputs import check_input, example_inputs
from nas.pruning.libraries import library_of, own_classes, own_image_size, own_normalisation
from nas.pruning.matching import Matching, match_
from nas.pruning.paths import better_path
from nas.pruning.recovery import RECOVERIES, Recovery, RecoveryConfig, Repair, parse_recovery, repair_unlabelled
from nas.pruning.space import PREFIX, PRUNED, PrunedNetwork, known_options, pruned_space
from nas.pruning.unfinished import UNFINISHED, Kept, Reached, unfinished
from nas.pruning.vocabulary import Words, fewer_words
from nas.pruning.weights import load_model

__all__ = [
    "PREFIX",
    "PRUNED",
    "RECOVERIES",
    "UNFINISHED",
    "Kept",
    "Matching",
    "PruneConfig",
    "PrunedNetwork",
    "Reached",
    "Recovery",
    "RecoveryConfig",
    "Repair",
    "Words",
    "better_path",
    "check_input",
    "example_inputs",
    "fewer_words",
    "known_options",
    "library_of",
    "load_model",
    "match_",
    "own_classes",
    "own_image_size",
    "own_normalisation",
    "parse_recovery",
    "peek_prune_config",
    "pruned_space",
    "read_prune_config",
    "repair_unlabelled",
    "unfinished",
]  # fmt: skip
