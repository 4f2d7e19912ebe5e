"""Repairs by name, and the best one that can be done."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import pruners
from pruners.repair.named import REPAIRS, best_repair
from tests.pruners.plain import prune
from tests.pruners.test_random import DroppedOut


def network(norm: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(24)] if norm else []
    return nn.Sequential(nn.Linear(8, 24), *norms, nn.ReLU(), nn.Linear(24, 5)).eval(), torch.randn(200, 8)


def test_unknown_names_are_refused_with_those_there_are() -> None:
    model, x = network(False)
    with pytest.raises(ValueError, match=r"`recover` must be one of auto, none, calibrate, least-squares, got 'best'"):
        prune(model, x[:2], {"macs": 0.6}, recover="best", batches=[x])


@pytest.mark.parametrize("recover", REPAIRS)
def test_a_named_repair_needs_examples(recover: str) -> None:
    model, x = network(True)
    with pytest.raises(ValueError, match=f"`recover='{recover}'` needs `batches`"):
        prune(model, x[:2], {"macs": 0.6}, recover=recover)


@pytest.mark.parametrize("recover", REPAIRS)
def test_a_named_repair_is_that_repair(recover: str) -> None:
    model, x = network(True)
    bare = prune(model, x[:2], {"macs": 0.6})
    REPAIRS[recover].repair(bare.model, model, bare.plan, [x], lambda *given: None, 2**31)
    result = prune(model, x[:2], {"macs": 0.6}, recover=recover, batches=[x])
    assert result.summary.chosen["recover"].startswith(recover)
    for name, value in bare.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], value), name


def test_the_best_is_least_squares_where_examples_allow_it() -> None:
    model, x = network(False)
    result = prune(model, x[:2], {"macs": 0.6})
    before = copy.deepcopy(result.model.state_dict())
    assert best_repair(result.model, model, result.plan, [x]).startswith("least-squares: 1 layers")
    assert any(not torch.equal(before[name], value) for name, value in result.model.state_dict().items())


@pytest.mark.parametrize(("norm", "done"), [(True, "calibrate: "), (False, "none: ")])
def test_where_least_squares_cannot_be_solved_the_next_best_is_done_and_says_why(norm: bool, done: str) -> None:
    torch.manual_seed(0)
    dropped = DroppedOut()
    if norm:
        dropped.last = nn.Sequential(nn.BatchNorm1d(16), dropped.last)
    model, x = dropped.eval(), torch.randn(100, 6)
    result = prune(model, x[:3], {"params": 0.7})
    said = best_repair(result.model, model, result.plan, [x])
    assert said.startswith(done) and "random numbers" in said
    if norm:
        assert not torch.equal(result.model.last[0].running_mean, torch.zeros(len(result.model.last[0].running_mean)))


def test_the_names_are_those_of_the_package() -> None:
    assert pruners.least_squares_ and list(REPAIRS) == ["calibrate", "least-squares"]


def test_memory_bounds_the_examples_of_a_repair_which_is_said() -> None:
    model, x = network(False)
    given = partial(prune, model, x[:2], {"macs": 0.6}, batches=[x], recover="least-squares")
    assert "examples" not in given().summary.chosen["recover"]
    words = given(max_bytes=20_000).summary.chosen["recover"]
    assert re.search(r"1 layers, on \d+ of 200 examples, as many as fit into memory", words), words
