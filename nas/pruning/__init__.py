"""A given model: its weights, its inputs, its recovery, and the search space that it is."""

from nas.pruning.config import PruneConfig, peek_prune_config, read_prune_config
from nas.pruning.inputs import check_input, example_inputs, given_inputs
from nas.pruning.libraries import library_of, own_classes, own_image_size, own_normalisation
from nas.pruning.matching import match_
from nas.pruning.nearing import Matching
from nas.pruning.nested import nest
from nas.pruning.paths import better_path
from nas.pruning.recovery import (
    RECOVERIES,
    Recovery,
    RecoveryConfig,
    Repair,
    inputs_of,
    parse_recovery,
    repair_unlabelled,
)
from nas.pruning.searched import OF_MODEL, PREFIX, PRUNED, SearchedModel, as_space, functions_of, is_pruned
from nas.pruning.space import PrunedNetwork, check_task, pruned_space, searchable
from nas.pruning.states import named_outputs
from nas.pruning.unfinished import UNFINISHED, Kept, Reached, unfinished
from nas.pruning.vocabulary import Words, fewer_words
from nas.pruning.weights import load_model

__all__ = [
    "OF_MODEL", "PREFIX", "PRUNED", "RECOVERIES", "UNFINISHED", "Kept", "Matching", "PruneConfig", "PrunedNetwork", "Reached",
    "Recovery", "RecoveryConfig", "Repair", "SearchedModel", "Words", "as_space", "better_path", "check_input", "check_task",
    "example_inputs", "fewer_words", "functions_of", "given_inputs", "inputs_of", "is_pruned", "library_of", "load_model", "match_",
    "named_outputs", "nest", "own_classes", "own_image_size", "own_normalisation", "parse_recovery", "peek_prune_config",
    "pruned_space", "read_prune_config", "repair_unlabelled", "searchable", "unfinished",
]  # fmt: skip
