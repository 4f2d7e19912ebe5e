"""Checks of the networks of a space: subnets are slices of the supernet, and costs are those of the built network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from estimators import CostModel, count
from nas.supernets import predict
from nas.tasks import Batch, Examples
from search_spaces import Architecture, SearchSpace, Supernet
from search_spaces.core import Local


def images(space: SearchSpace, n: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, *space.net.input_shape, generator=torch.Generator().manual_seed(seed))


def stirred(space: SearchSpace, steps: int = 3) -> Supernet:
    """A supernet whose parameters and running statistics are not those of the first day."""
    supernet, rng = Supernet(space.net, seed=1).train(), np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter += 0.1 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)
        for seed in range(steps):
            supernet(images(space, seed=seed), space.locals(space.sample(rng)))
    return supernet


def state(module: nn.Module) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def check_slice(space: SearchSpace, supernet: Supernet, arch: Architecture) -> None:
    """In evaluation and training, the subnet gives the supernet's bits and changes its statistics alike."""
    chosen, x = space.locals(arch), images(space)
    for training in (False, True):
        supernet.train(training)
        subnet, before = supernet.extract(chosen), state(supernet)
        assert subnet.training == training
        expected = supernet(x, chosen)
        assert torch.equal(subnet(x), expected), space.label(arch)
        heads = (space.net.heads,) if training and space.net.heads > 1 else ()
        logits, sides = (len(x), *heads, space.net.num_classes), tuple(expected.shape[2 + len(heads) :])
        assert expected.shape == (*logits, *sides) and sides in ((), x.shape[2:]) and expected.isfinite().all()
        assert same(subnet.state_dict(), supernet.extract(chosen).state_dict())
        assert training or same(state(supernet), before)
    assert {name: t.shape for name, t in subnet.state_dict().items()} == {
        name: t.shape for name, t in space.net.build(chosen).state_dict().items()
    }


def check_costs(space: SearchSpace, archs: Iterable[Architecture], supernet: Supernet | None = None) -> None:
    """Predicted costs, one by one and in a batch, are those counted on the network that a supernet gives up (one without data)."""
    model, archs = CostModel(space), list(archs)
    if supernet is None:
        with torch.device("meta"):
            supernet = Supernet(space.net)
    batch = model.batch(space.encode(archs))
    for row, arch in enumerate(archs):
        cost = model.cost(arch)
        subnet = supernet.extract(space.locals(arch))
        assert cost == count(subnet, space.net.input_shape).total, space.label(arch)
        assert (cost.macs, cost.params) == (batch["macs"][row], batch["params"][row])
        assert cost.params == sum(parameter.numel() for parameter in subnet.parameters())


def classes(supernet: Supernet, locals: Sequence[Sequence[Local]], examples: Examples, **settings: Any) -> np.ndarray:
    """The class that each subnet predicts for each example, (subnets, examples)."""
    found: list[list[Tensor]] = [[] for _ in locals]

    def see(row: int, outputs: Tensor, batch: Batch) -> None:
        assert len(outputs) == batch.size
        found[row].append(outputs.argmax(1))

    predict(supernet, locals, examples, see, **settings)
    return np.stack([torch.cat(own).numpy() for own in found])
