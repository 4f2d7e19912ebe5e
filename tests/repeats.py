"""Tests that repeat, on another model or setting, what their neighbours check: `make slow` runs them, `make test` does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

LARGE = ("resnet18-all", "resnet50-all", "resnet50-large-stem", "mobilenet-all", "mobilenet-large")

REPEATS: dict[str, Sequence[str]] = {
    "benchmarks/test_latency_lever.py::test_a_row_is_of_the_pruned_and_repaired_model": ("16",),
    "benchmarks/test_samplers.py::test_samplers_get_the_same_passes_up_to_half_an_epoch_of_theirs": (
        "uniform", "fair", "sorted", "complexity", "performance",
    ),
    "estimators/counting/test_cost.py::test_built_in_spaces_cost_what_their_networks_count": (
        "resnet18-pooling-{}", "resnet50-pooling-{}", "mobilenet-elastic-{}",
        "resnet50-pooling-{'operators': ('max', 'conv'), 'bn': 'affine', 'num_classes': 100}",
    ),
    "estimators/counting/test_extracted_costs.py::test_costs_are_those_of_the_extracted_network": (
        "resnet20", "resnet18-all", "resnet50-all", "resnet50-large-stem", "mobilenet-large", "resnet18-pooling",
        "resnet50-pooling", "resnet56-pooling",
    ),
    "estimators/counting/test_other_counters.py::test_all_agree_on_convolutions_and_linear_layers": tuple(
        f"resnet{depth}-pooling-{{'operators': ('{operator}',)}}" for depth in (18, 50) for operator in ("avg", "conv")
    ),
    "estimators/design/test_deepmad_space.py::test_the_whole_network_keeps_both_budgets": ("18-0.2",),
    "nas/cli/test_first_contact.py::test_tab_completes_commands_and_options": ("nas pro-profile",),
    "nas/samplers/test_basic.py::test_performance_knows_every_width_of_the_elastic_spaces": ("mobilenet-elastic",),
    "nas/scoring/test_bounds.py::test_limits_that_nothing_keeps_are_refused_before_there_is_a_folder": ("resnet-elastic",),
    "nas/supernets/test_elastic_training.py::test_a_step_trains": (
        "resnet-elastic-delayed", "resnet-elastic-sorted", "resnet-elastic-complexity",
    ),
    "nas/supernets/test_elastic_training.py::test_what_a_subnet_does_not_use_keeps_its_bits": ("mobilenet-elastic",),
    "nas/supernets/test_predict.py::test_shared_prefixes_predict_as_each_subnet_alone": ("affine",),
    "nas/test_export.py::test_an_architecture_not_trained_alone_comes_from_its_best_supernet": ("paper",),
    "nas/test_search.py::test_every_mode_runs_to_its_end": ("evolution", "nsga2"),
    "nas/test_trust.py::test_modules_of_the_current_folder_are_found_only_for_a_function": (
        "arguments0-False", "arguments3-True",
    ),
    "pruners/allocation/test_latency.py::test_a_machine_that_counts_macs_gives_their_number": (
        "cosine attention", "fused qkv and softmax", "grouped queries by operator", "halved and shuffled",
        "heads beside the batch", "largest of last", "modulated", "normed", "one key", "positions from weights",
        "repeated groups", "residual group norm", "rotated tail", "rows written in turn", "upscaled", "windows",
    ),
    "pruners/allocation/test_selection.py::test_two_steps_are_two_prunes": (
        "residual-lamp", "residual-bn_scale", "residual-fpgm", "residual-fisher", "dense-taylor",
    ),
    "pruners/repair/test_optimiser.py::test_the_next_step_is_the_slice_of_the_full_models": (
        "SGD-gated-graph", "SGD without momentum-shared-graph", "AdamW-shared-own", "NAdam-normed-own",
        "RMSprop-gated-graph", "Adagrad-zero padded shortcut-own",
    ),
    "pruners/surgery/test_every_size.py::test_other_sizes_equal_the_masked_model": ("positions by sample",),
    "pruners/surgery/test_huggingface.py::test_feed_forward_widths_of_transformers": ("BertModel", "GPT2LMHeadModel"),
    "pruners/surgery/test_huggingface.py::test_heads_that_the_configuration_ties_to_the_hidden_size": ("BertModel",),
    "pruners/surgery/test_masked.py::test_the_check_in_double_precision": ("zero padded shortcut",),
    "pruners/test_hugging_face.py::test_half_of_the_macs": (
        "shared experts", "relative positions", "slopes of distance", "state spaces with heads", "sound",
    ),
    "pruners/test_space.py::test_any_architecture_is_proved_costed_and_found_again": (
        "residual group norm", "dense", "shared",
    ),
    "search_spaces/families/test_elastic_families.py::test_random_subnets_are_slices_to_the_last_bit": LARGE[:3],
    "search_spaces/families/test_elastic_families.py::test_the_smallest_and_largest_are_the_cheapest_and_dearest": LARGE,
    "search_spaces/families/test_ensemble.py::test_a_subnet_is_a_slice_and_costs_what_is_predicted": ("resnet20-pooling",),
    "search_spaces/families/test_nas_bench_macro.py::test_shared_prefixes_predict_as_each_subnet_alone": ("False",),
    "search_spaces/families/test_resnet.py::test_blocks_with_weights_per_resolution_share_those_of_one_resolution_alone": (
        "per-resolution-large-16-operators0", "per-resolution-large-16-operators1", "parting-large-16-operators0",
    ),
    "search_spaces/families/test_resnet.py::test_every_subnet_of_resnet20_is_a_slice": tuple(
        f"{operator}-paper" for operator in ("avg", "mixed", "gated", "tree", "softpool", "adapool", "gem", "ggem")
    ),
    "search_spaces/families/test_resnet.py::test_subnets_of_larger_resnets_are_slices": ("18-8-paper", "50-9-paper"),
    "test_imports.py::test_importing_is_quiet_and_leaves_random_state_alone": (
        "pruners", "estimators", "search_spaces",
    ),
}  # fmt: skip


def mark(items: Sequence[pytest.Item]) -> None:
    """Mark the repeats among collected tests as slow; where all are collected, an entry without a test is an error."""
    collected = {item.nodeid.removeprefix("tests/"): item for item in items}
    repeats = [f"{function}[{parameter}]" for function, parameters in REPEATS.items() for parameter in parameters]
    for name in repeats:
        if name in collected:
            collected[name].add_marker(pytest.mark.slow)
    whole = len({name.partition("::")[0] for name in collected}) > 100
    gone = [name for name in repeats if whole and name not in collected]
    assert not gone, f"tests/repeats.py names tests that are gone: {gone}"
