"""Predicted macs and params are those counted on the network that is cut out of the supernet, for every space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import search_spaces
from estimators import CostModel, count
from search_spaces import Supernet, largest, make_space, smallest
from tests.search_spaces.families.test_elastic_families import SPACES
from tests.subnets import check_costs

POOLING = {f"resnet{depth}-pooling": (f"resnet{depth}-pooling", {"bn": "affine"}) for depth in (20, 18, 50)}
BENCHMARKS = {name: (name, {}) for name in ("nas-bench-macro", "nas-bench-201")}
SMALL: dict[str, tuple[str, Mapping[str, Any]]] = {**SPACES, **POOLING, **BENCHMARKS}
EVERY = {**{name: (name, {}) for name in search_spaces.SPACES}, **SMALL}


@pytest.mark.parametrize("name", SMALL)
def test_costs_are_those_of_the_extracted_network(name: str) -> None:
    space, rng = make_space(SMALL[name][0], **SMALL[name][1]), np.random.default_rng(1)
    check_costs(space, [smallest(space), largest(space), *(space.sample(rng) for _ in range(4))])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EVERY)
def test_costs_of_a_thousand_architectures(name: str) -> None:
    space, rng = make_space(EVERY[name][0], **EVERY[name][1]), np.random.default_rng(4)
    check_costs(space, (space.sample(rng) for _ in range(1000)))


@pytest.mark.parametrize("depth", [20, 18, 50])
def test_only_the_weights_of_normalisation_are_missing_from_supernets_that_have_none(depth: int) -> None:
    space = make_space(f"resnet{depth}-pooling", bn="paper")
    arch = space.sample(np.random.default_rng(0))
    with torch.device("meta"):
        subnet = Supernet(space.net).extract(space.locals(arch))
        norms = [module for module in space.net.build(space.locals(arch)).modules() if isinstance(module, _BatchNorm)]
    predicted, found = CostModel(space).cost(arch), count(subnet, space.net.input_shape).total
    assert (predicted.macs, predicted.activations) == (found.macs, found.activations)
    scales = sum(parameter.numel() for norm in norms for parameter in norm.parameters())
    assert predicted.params == found.params + scales and scales > 0
