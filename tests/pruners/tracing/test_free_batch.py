"""The batch is free in a trace, however the inputs reach the model, and beside inputs that all samples share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import least_squares_
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


class Wrapper(nn.Module):
    """Hands on whatever it gets, after an input of its own if `scaled`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, *inputs: Tensor, **options: Any) -> Tensor:
        return self.net(*inputs, **options)


class Scaled(Wrapper):
    """A factor, inputs in any number, and a shift by name."""

    def forward(self, factor: float, *inputs: Tensor, shift: Tensor | None = None) -> Tensor:
        y = self.net(factor * sum(inputs))
        return y if shift is None else y + shift


class Timed(Wrapper):
    """One time for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(1, 4)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(x + self.time(time.view(1, 1)))


class Placed(nn.Module):
    """Tokens at positions that all samples share, in the order in which they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.head = nn.Embedding(20, 16), nn.Embedding(10, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.head((self.tokens(tokens) + self.places(positions)).relu())


class Lonely(Wrapper):
    """Treats one sample unlike several."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (2 if x.shape[0] == 1 else 1)


class Odd(Wrapper):
    """Treats odd numbers of samples unlike even ones."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (2 if x.shape[0] % 2 else 1)


class Counted(Wrapper):
    """Asks for as many masks as samples by `len`, which a trace takes for a number."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if len(mask) != x.shape[0]:
            raise ValueError("as many masks as samples")
        return self.net(x * mask)


class OneByOne(Wrapper):
    """Goes through what it counts for each sample, as detectors do with their boxes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in self.net(x).topk(2)[0]])


X = torch.randn(2, 4)
WRAPPED: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], dict[str, Any]]] = {
    "collected": (Wrapper, (X,), {}),
    "collected by name": (Wrapper, (), {"input": X}),
    "data parallel": (lambda: nn.DataParallel(net()), (X,), {}),
    "compiled": (lambda: torch.compile(net(), backend="eager"), (X,), {}),
    "among others": (Scaled, (2.0, X, X), {}),
    "among others and by name": (Scaled, (2.0, X, X), {"shift": torch.randn(2, 3)}),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_batch_is_free_behind_collected_arguments(name: str) -> None:
    make, args, kwargs = WRAPPED[name]
    assert trace(make(), args, kwargs).batched


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_is_free_beside_a_time(batch: int) -> None:
    traced = trace(Timed(), (torch.randn(batch, 4), torch.tensor(0.5)))
    assert traced.batched and traced.free == {0}
    assert prune(Timed(), (torch.randn(batch, 4), torch.tensor(0.5)), {"macs": 0.5}).summary.difference < 1e-5


def test_the_batch_is_free_beside_shared_positions() -> None:
    traced = trace(Placed(), (), {"tokens": torch.randint(0, 20, (1, 6)), "positions": torch.arange(6)})
    assert traced.free == {0} and traced.copies == 2
    assert [x.shape for x in traced.enlarged().kwargs.values()] == [(2, 6), (6,)]


def test_a_model_that_treats_one_sample_unlike_several() -> None:
    with pytest.raises(ValueError, match="traced as two samples: .* give several"):
        prune(Lonely(), X[:1], {"macs": 0.5})
    assert prune(Lonely(), X, {"macs": 0.5}).summary.form == "module"


def test_a_batch_that_becomes_a_number_is_that_of_the_example() -> None:
    inputs = (X[:1], torch.ones(1, 1))
    assert not trace(Counted(), inputs).batched
    assert prune(Counted(), inputs, {"macs": 0.5}).summary.difference < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_samples_one_by_one(batch: int) -> None:
    assert prune(OneByOne(), X[:batch], {"macs": 0.5}).summary.difference < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_the_example_decides_a_branch_that_two_samples_take_otherwise(batch: int) -> None:
    traced = trace(Odd(), (X[:batch],))
    assert traced.copies == 1 and traced.batched == (batch == 2)
    assert prune(Odd(), X[:batch], {"macs": 0.5}).summary.difference < 1e-5


@pytest.mark.parametrize("batch", [6, 8])
def test_data_for_a_model_with_shared_inputs(batch: int) -> None:
    torch.manual_seed(0)
    model, positions = Placed().eval(), torch.arange(6)
    data = [((torch.randint(0, 20, (batch, 6)), positions), torch.zeros(batch, 6, dtype=torch.long)) for _ in range(3)]
    example = (torch.randint(0, 20, (2, 6)), positions)
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())  # noqa: E731
    for importance in ("fisher", "obs"):
        result = prune(
            model, example, {"params": 0.6}, importance=importance, allocation="distortion", batches=data, loss=loss
        )
        repaired = least_squares_(result.model, model, result.plan, data)
        assert repaired.solved or repaired.left_out
    wrong = [((torch.randint(0, 20, (batch, 6)), torch.arange(5)), None)]
    with pytest.raises(ValueError, match="here 6 of torch.int64 .* got 5 of torch.int64"):
        least_squares_(result.model, model, result.plan, wrong)
    other = [((torch.randint(0, 20, (batch, 6)), positions.flip(0)), None)]  # stays with the samples that it came with
    least_squares_(result.model, model, result.plan, data + other)
