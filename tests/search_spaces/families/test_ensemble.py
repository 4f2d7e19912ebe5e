"""Ensembles: spaces like others, slices of one supernet, trunks counted once and trained by the mean of the heads' gradients."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import CostModel, count
from examples.own_space import own_space
from nas.data.dataset import ImageData
from nas.supernets.predict import predict
from nas.training.config import TrainingConfig
from nas.training.optimizer import cross_entropy
from search_spaces import (
    Architecture,
    Block,
    Categorical,
    Constraint,
    Integer,
    Network,
    SearchSpace,
    Supernet,
    ensemble,
    largest,
    make_space,
    smallest,
)
from search_spaces.core.choices import Value
from search_spaces.core.network import Local
from search_spaces.core.numbering import Values, exists
from search_spaces.core.paths import together
from tests.conformance import check_space
from tests.elastic_toy import elastic_space
from tests.nas.supernets.test_predict import by_hand
from tests.subnets import check_costs, check_slice, images, stirred

SMALL = {"in_channels": 1, "image_size": 8}
BASES = {
    "resnet-elastic": {"widths": (4, 8, 8), "width_ratios": (0.5, 1), "depths": (1, 2), **SMALL},
    "resnet20-pooling": {"bn": "affine", "operators": ("max", "conv"), **SMALL},
    "nas-bench-macro": SMALL,
    "toy": {},
    "own": {},
}


@cache
def base(name: str) -> SearchSpace:
    own = {"toy": elastic_space, "own": own_space}
    return own[name]() if name in own else make_space(name, **BASES[name])


@cache
def pair(name: str) -> SearchSpace:
    return ensemble(base(name))


@cache
def supernet_of(name: str) -> Supernet:
    return stirred(pair(name))


def tiny() -> SearchSpace:
    """Two kinds in a row, of which the second may be missing, and `-` stands for one that does nothing."""

    def read(kind: Value) -> Local:
        return None if kind in (None, "-") else kind

    def alone(local: Local, shape: tuple[int, ...]) -> nn.Module:
        return nn.Identity() if local is None else nn.Sequential(nn.Flatten(), nn.Linear(4, 4))

    def canonical(values: Values) -> Values:
        if values["a"] == "-" and values.get("b", "-") != "-":
            return {**values, "a": values["b"], "b": "-"}
        return values

    return SearchSpace(
        "tiny",
        (
            Integer("depth", (1, 2)),
            Categorical("a", ("-", "x", "y")),
            Categorical("b", ("-", "x", "y"), when={"depth": (2,)}),
        ),
        constraints=(Constraint("x is not followed by y", lambda v: (v["a"], v.get("b")) != ("x", "y")),),
        canonical=canonical,
        network=Network(
            (
                Block("one", ("a",), read, alone, nn.Identity),
                Block("two", ("b",), read, alone, nn.Identity),
                Block("head", (), lambda: (), alone, nn.Identity),
            ),
            (4,),
            4,
        ),
    )


def twins(space: SearchSpace, arch: Architecture, split: int) -> Architecture:
    """The ensemble of twice the same architecture that shares the first blocks."""
    values: Values = {"split": split}
    for choice in space.choices[1:]:
        if exists(choice, values):
            values[choice.name] = arch[choice.name.removeprefix("path2.")]
    return space.architecture(values)


@pytest.mark.parametrize(("paths", "splits"), [(2, None), (2, (0, 2)), (3, (1, 2))])
def test_an_ensemble_keeps_the_contract_of_spaces(paths: int, splits: tuple[int, ...] | None) -> None:
    check_space(ensemble(tiny(), paths, splits))


def test_what_differs_in_order_or_in_idle_blocks_alone_is_one_ensemble() -> None:
    space = ensemble(elastic_space())
    two = {"path2.depth": 1, "path2.width1": 8, "path2.kernel1": 3}
    one = {"depth": 2, "width1": 2, "kernel1": 3, "width2": 4, "kernel2": 1}
    swapped = {"depth": 1, "width1": 8, "kernel1": 3}
    swapped |= {"path2.depth": 2, "path2.width1": 2, "path2.kernel1": 3, "path2.width2": 4, "path2.kernel2": 1}
    assert space.architecture({"split": 0, **one, **two}) == space.architecture({"split": 0, **swapped})
    idle = space.architecture({"split": 3, "depth": 1, "width1": 2, "kernel1": 3})
    assert idle["split"] == 2
    assert space.label(idle) == "2-001-0"


def test_paths_have_in_common_what_their_trunk_reads_and_what_that_depends_on() -> None:
    space = ensemble(elastic_space())
    names = {split: set() for split in range(4)}
    for arch in (space.sample(np.random.default_rng(seed)) for seed in range(200)):
        names[arch["split"]] |= {name for name in arch if name.startswith("path2.")}
    every = {f"path2.{name}" for name in ("depth", "width1", "kernel1", "width2", "kernel2")}
    assert names[0] == names[1] == every
    assert names[2] == {"path2.depth", "path2.width2", "path2.kernel2"}
    assert names[3] == set()


@pytest.mark.parametrize("name", BASES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_subnet_is_a_slice_and_costs_what_is_predicted(name: str, seed: int) -> None:
    space, arch = pair(name), pair(name).sample(np.random.default_rng(seed))
    check_slice(space, supernet_of(name), arch)
    check_costs(space, [arch], supernet_of(name))


def test_three_paths_and_chosen_splits_are_slices_too() -> None:
    space, rng = ensemble(base("resnet-elastic"), 3, (2, 5)), np.random.default_rng(0)
    supernet = stirred(space)
    for _ in range(3):
        arch = space.sample(rng)
        assert arch["split"] in (2, 5)
        check_slice(space, supernet, arch)
    check_costs(space, [arch], supernet)


def test_one_path_is_the_space_itself() -> None:
    assert ensemble(base("toy"), 1) is base("toy")


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_each_head_is_the_single_network_of_its_path(seed: int) -> None:
    space, single = pair("resnet-elastic"), base("resnet-elastic")
    arch = space.sample(np.random.default_rng(seed))
    supernet, x = Supernet(space.net, seed=3).train(), images(space)
    heads = supernet(x, space.locals(arch))
    first = Supernet(single.net, seed=3).train()
    assert torch.equal(heads[:, 0], first(x, single.locals(of_path(single, arch, 1))))
    second = Supernet(single.net).train()
    for at, name in enumerate(second.blocks):
        source = supernet.blocks[name if at < arch["split"] else f"path2_{name}"]  # type: ignore[operator]
        second.blocks[name].load_state_dict(source.state_dict())
    assert torch.equal(heads[:, 1], second(x, single.locals(of_path(single, arch, 2))))
    torch.testing.assert_close(together(heads.unbind(1), training=False), heads.softmax(2).mean(1).log())


def of_path(single: SearchSpace, arch: Architecture, path: int) -> Architecture:
    """What one path of an ensemble is alone."""
    values: Values = {}
    for choice in single.choices:
        if exists(choice, values):
            values[choice.name] = arch.get(f"path{path}.{choice.name}", arch.get(choice.name))
    return single.architecture(values)


def _gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    module.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("extracted", [False, True])
def test_two_equal_heads_give_their_trunk_the_gradient_of_one(extracted: bool) -> None:
    space, single = pair("toy"), base("toy")
    alone, supernet = Supernet(single.net).train(), Supernet(space.net).train()
    for name, block in alone.blocks.items():
        supernet.blocks[name].load_state_dict(block.state_dict())
        supernet.blocks[f"path2_{name}"].load_state_dict(block.state_dict())
    arch, x, labels = largest(single), images(space), torch.tensor([1, 2, 3])
    one = _gradients(alone, F.cross_entropy(alone(x, single.locals(arch)), labels))

    locals = space.locals(twins(space, arch, split=2))
    module = supernet.extract(locals) if extracted else supernet
    heads = module(x) if extracted else supernet(x, locals)
    both = _gradients(module, cross_entropy(heads, labels, TrainingConfig(epochs=1)))
    first, second = ("paths.0.", "paths.1.") if extracted else ("blocks.", "blocks.path2_")
    trunk = "" if extracted else "blocks."
    for name in ("stem.conv.weight", "block1.expand"):
        torch.testing.assert_close(both[trunk + name], one[f"blocks.{name}"])
    for name in ("block2.expand", "head.linear.weight"):
        torch.testing.assert_close(both[first + name], one[f"blocks.{name}"])
        torch.testing.assert_close(both[second + name], one[f"blocks.{name}"])


@pytest.mark.parametrize("name", ["toy", "resnet-elastic"])
def test_networks_that_share_nothing_are_disjoint(name: str) -> None:
    space, rng = ensemble(base(name), splits=(0,)), np.random.default_rng(0)
    supernet, x, labels = Supernet(space.net).train(), images(space), torch.tensor([1, 2, 3])
    locals = space.locals(space.sample(rng))
    touched = []
    for head in (0, 1):
        loss = F.cross_entropy(supernet(x, locals)[:, head], labels)
        touched.append(
            {key for key, gradient in _gradients(supernet, loss).items() if gradient is not None and gradient.any()}
        )
    assert touched[0] and touched[1] and not touched[0] & touched[1]
    assert all(key.startswith("blocks.path2_") for key in touched[1])


def test_macs_fall_as_more_is_shared() -> None:
    space, single = pair("resnet-elastic"), base("resnet-elastic")
    model, arch = CostModel(space), largest(single)
    macs = [model.cost(twins(space, arch, split)).macs for split in range(len(single.net.blocks))]
    assert all(more > less for more, less in pairwise(macs))
    assert macs[0] == 2 * CostModel(single).cost(arch).macs
    assert model.cost(smallest(space)).macs == min(macs[-1], model.cost(smallest(space)).macs)
    assert largest(space)["split"] == 0 and model.cost(largest(space)).macs == macs[0]


def test_everything_in_an_ensemble_can_be_counted() -> None:
    space = pair("resnet-elastic")
    module = space.net.build(space.locals(largest(space)))
    assert not count(module, space.net.input_shape).unsupported


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000))
def test_shared_prefixes_and_calibration_are_exact(digits: ImageData, seed: int) -> None:
    space, rng = pair("resnet-elastic"), np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(4)]
    supernet = supernet_of("resnet-elastic")
    found = predict(
        supernet,
        [space.locals(arch) for arch in archs],
        digits,
        digits.validation,
        batch_size=60,
        calibration=digits.train,
    )
    for row, arch in enumerate(archs):
        expected = by_hand(space, supernet, arch, digits, digits.validation, digits.train, 60)
        np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: ensemble(base("toy"), 0), "`paths` must be an integer of at least 1, got 0"),
        (lambda: ensemble(base("toy"), 2.0), "got 2.0"),  # type: ignore[arg-type]
        (lambda: ensemble(base("toy"), 1, (0,)), "`splits` are for 2 paths or more"),
        (lambda: ensemble(base("toy"), 2, (4,)), r"0 to 3 in 'toy', got \[4\]"),
        (lambda: ensemble(base("toy"), 2, ()), r"got \[\]"),
        (lambda: ensemble(base("toy"), 2, (1, 1)), r"got \[1, 1\]"),
        (lambda: ensemble(pair("toy")), "needs a space whose network is a chain of blocks to one head"),
        (lambda: ensemble(SearchSpace("bare", ())), "describes no network"),
        (
            lambda: pair("toy").parse("9-000"),
            r"must begin with the number of shared blocks \(3, 2, 1, 0\) and a dash; got '9-000'",
        ),
        (
            lambda: pair("toy").architecture({"split": 3, "depth": 1, "width1": 2, "kernel1": 3, "path2.depth": 1}),
            "exists only when split is 2 or 1 or 0",
        ),
    ],
)
def test_bad_calls_are_refused(make, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()
