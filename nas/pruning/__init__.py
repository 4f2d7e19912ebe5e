"""A given model: its weights, its inputs, its recovery, and the search space that it is."""

from nas.pruning.inputs import check_input, check_target, example_inputs, parse_targets
from nas.pruning.recovery import WITHOUT_TRAINING, Recovery, Repair, parse_recovery, repair_untrained
from nas.pruning.space import PREFIX, PRUNED, PrunedNetwork, known_options, pruned_space, uniform
from nas.pruning.weights import load_model

__all__ = [
    "PREFIX",
    "PRUNED",
    "WITHOUT_TRAINING",
    "PrunedNetwork",
    "Recovery",
    "Repair",
    "check_input",
    "check_target",
    "example_inputs",
    "known_options",
    "load_model",
    "parse_recovery",
    "parse_targets",
    "pruned_space",
    "repair_untrained",
    "uniform",
]
