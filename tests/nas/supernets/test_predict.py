"""Sharing prefixes changes nothing: the same prediction for every image as evaluating subnets one by one."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.supernets.predict import ranked, trie
from nas.tasks import Examples, Task
from nas.training.measure import calibrate_, measure
from search_spaces import Architecture, Block, Network, SearchSpace, Supernet, make_space
from search_spaces.core.network import Local
from tests.subnets import classes


def make(bn: str, operators: tuple[str, ...] = ("max", "conv")) -> tuple[SearchSpace, Supernet]:
    space = make_space("resnet20-pooling", in_channels=1, image_size=8, bn=bn, operators=operators)
    supernet = Supernet(space.net, seed=3)
    with torch.no_grad():
        for images in torch.randn(4, 32, 1, 8, 8):
            supernet.train()(images, space.locals(space.sample(np.random.default_rng(0))))
    return space, supernet.eval()


def by_hand(
    space: SearchSpace,
    supernet: Supernet,
    arch: Architecture,
    examples: Examples,
    calibration: Examples | None,
    size: int,
) -> np.ndarray:
    """Extract, calibrate with torch's own cumulative means, and predict in the same batches."""
    module = supernet.extract(space.locals(arch))
    batches = np.array_split(np.arange(len(examples)), -(-len(examples) // size))
    if calibration is not None:
        calibrate_(module, calibration, batch_size=size)
    module.eval()
    with torch.inference_mode():
        logits = [module(next(examples.take(torch.from_numpy(b)).batches(size)).inputs) for b in batches]
    return torch.cat(logits).argmax(1).numpy()


@pytest.mark.parametrize("bn", ["paper", "affine"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_shared_prefixes_predict_as_each_subnet_alone(bn: str, task: Task, seed: int, count: int) -> None:
    space, supernet = make(bn)
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(count)]
    calibration = task.train if bn == "affine" else None
    predictions = classes(
        supernet, [space.locals(a) for a in archs], task.validation, batch_size=60, calibration=calibration
    )
    for row, arch in enumerate(archs):
        np.testing.assert_array_equal(
            predictions[row], by_hand(space, supernet, arch, task.validation, calibration, 60)
        )


def test_without_calibration_the_supernets_own_statistics_serve(task: Task) -> None:
    space, supernet = make("affine")
    arch = space.sample(np.random.default_rng(5))
    predictions = classes(supernet, [space.locals(arch)], task.validation, batch_size=60)
    np.testing.assert_array_equal(predictions[0], by_hand(space, supernet, arch, task.validation, None, 60))


@pytest.mark.parametrize("training", [True, False])
def test_the_supernet_is_left_as_it_was(task: Task, training: bool) -> None:
    space, supernet = make("affine")
    supernet.train(training)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    locals = [space.locals(arch) for arch in space.enumerate()]
    classes(supernet, locals, task.validation, calibration=task.train)
    assert supernet.training is training
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(m.momentum == 0.1 for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d))


class Widths(nn.Module):
    """One channel or, from 2 on, two, further from zero each time."""

    def forward(self, x: Tensor, local: Local) -> Tensor:
        width = cast(int, local)
        return 3 * width + x.repeat(1, min(width, 2), 1, 1)


class NormByWidth(nn.Module):
    """Normalises 1 and 2 channels by different modules, though its local choice is always None."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(1), nn.BatchNorm2d(2)])

    def forward(self, x: Tensor, local: Local) -> Tensor:
        return self.norms[x.shape[1] - 1](x).flatten(1)[:, 26:36] * torch.tensor([1.0, -1.0]).repeat(5)


def test_normalisations_that_run_may_depend_on_what_comes_in(task: Task) -> None:
    blocks = (
        Block("widths", ("width",), lambda width: width, lambda local, shape: nn.Identity(), Widths),
        Block("norm", (), lambda: None, lambda local, shape: nn.Identity(), NormByWidth),
    )
    supernet = Supernet(Network(blocks, (1, 8, 8), 10))
    paths = [(1, None), (2, None), (3, None)]
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    shared = classes(supernet, paths, task.validation, calibration=task.train)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    single = [classes(supernet, [path], task.validation, calibration=task.train)[0] for path in paths]
    np.testing.assert_array_equal(shared, single)
    uncalibrated = classes(supernet, paths, task.validation)
    assert not any(np.array_equal(a, b) for a, b in zip(shared, uncalibrated, strict=True))


def test_the_trie_holds_each_prefix_once() -> None:
    roots = trie([("a", 1), ("a", 2), ("b", 1), ("a", 1)])
    assert [node.local for node in roots] == ["a", "b"]
    assert [(node.local, node.rows) for node in roots[0].children] == [(1, [0, 3]), (2, [1])]


def test_no_batch_is_left_too_small_for_batch_statistics(task: Task) -> None:
    space, supernet = make("paper")
    seen: list[int] = []
    hook = supernet.blocks["head"].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    classes(supernet, [space.locals(space.sample(np.random.default_rng(0)))], task.train.head(101), batch_size=50)
    hook.remove()
    assert sorted(seen) == [33, 34, 34]


def test_calibration_frees_a_network_from_its_batches(task: Task) -> None:
    space, supernet = make("paper")
    module = calibrate_(supernet.extract(space.locals(space.sample(np.random.default_rng(0)))), task.train)
    images = next(task.test.batches(8)).inputs
    with torch.no_grad():
        torch.testing.assert_close(module(images)[:1], module(images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("calibrated", [False, True])
def test_figures_are_those_of_the_predictions_and_of_each_subnet_alone(calibrated: bool, task: Task) -> None:
    space, supernet = make("affine")
    locals = [space.locals(space.sample(np.random.default_rng(seed))) for seed in range(3)]
    calibration = task.train if calibrated else None
    found = ranked(supernet, locals, task, ["accuracy"], calibration=calibration)
    right = np.concatenate([batch.target.numpy() for batch in task.validation.batches(50)])
    predicted = classes(supernet, locals, task.validation, calibration=calibration)
    assert [row["accuracy"] for row in found] == (predicted == right).mean(axis=1).tolist()
    for path, row in zip(locals, found, strict=True):
        module = supernet.extract(path)
        if calibration is not None:
            calibrate_(module, calibration)
        assert measure(module, task, task.validation) == row
