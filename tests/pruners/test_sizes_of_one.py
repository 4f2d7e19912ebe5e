"""Sizes of 1, which tracing takes for granted not to be: a graph serves them where that is proved, alone and together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace
from tests.pruners.plain import prune


class Doubled(nn.Module):
    """Twice as much on some sizes; the graph form is forced by a view to the input's shape."""

    def __init__(self, when: Callable[[int, int], bool]) -> None:
        super().__init__()
        self.first, self.last, self.when = nn.Linear(8, 16), nn.Linear(16, 8), when

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.first(x).relu().reshape(-1, 16)).view(x.shape)
        return 2 * y if self.when(x.shape[0], x.shape[1]) else y


BRANCHES: dict[str, tuple[Callable[[int, int], bool], dict[str, int]]] = {
    "nowhere": (lambda n, length: False, {}),
    "one sample": (lambda n, length: n == 1, {"N": 2}),
    "one place": (lambda n, length: length == 1, {"L": 2}),
    "few in all": (lambda n, length: n * length < 4, {"N": 2, "L": 2}),
    "one in all": (lambda n, length: n * length == 1, {"L": 2}),
    "one sample of many places": (lambda n, length: n == 1 and length > 8, {"N": 2}),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_sizes_of_one_are_served_where_proved(name: str) -> None:
    when, least = BRANCHES[name]
    result = prune(Doubled(when), torch.randn(2, 12, 8), {"params": 0.6})
    assert result.summary.form == "graph" and result.summary.serves == {"x": "NxLx8"}
    assert result.plan.least == least
    for n, length in ((1, 1), (1, 3), (1, 12), (2, 1), (5, 1)):
        if least.get("N", 1) <= n and least.get("L", 1) <= length:
            assert result.model(torch.randn(n, length, 8)).shape == (n, length, 8)
        else:
            with pytest.raises(ValueError, match=r"here [NL] >= 2 of NxLx8, got"):
                result.model(torch.randn(n, length, 8))


def test_what_the_model_refuses_is_refused() -> None:
    def refuse(n: int, length: int) -> bool:
        if length == 1:
            raise ValueError("one place has no neighbours")
        return False

    assert prune(Doubled(refuse), torch.randn(2, 12, 8), {"params": 0.6}).plan.least == {"L": 2}


def test_few_that_the_model_refuses_are_refused() -> None:
    def refuse(n: int, length: int) -> bool:
        if n * length < 4:
            raise ValueError("too few in all")
        return False

    assert prune(Doubled(refuse), torch.randn(4, 12, 8), {"params": 0.6}).plan.least == {"N": 2, "L": 2}


@pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features:UserWarning")
def test_one_place_that_the_model_refuses_costs_no_batch_of_one() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Conv2d(3, 16, 1), nn.InstanceNorm2d(8), nn.Conv2d(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x)).relu()  # of more than one place
            return self.last(x / x.shape[1] ** 0.5)

    for batch in (1, 2):
        result = prune(Normalised(), torch.randn(batch, 3, 6, 8), {"macs": 0.5})
        assert result.summary.serves == {"x": "Nx3xHxW"} and result.plan.least == {"H": 2, "W": 2}
        assert result.model(torch.randn(1, 3, 2, 4)).shape == (1, 5, 2, 4)


def test_an_example_of_one_sample_is_served_without_sizes_that_join_with_it() -> None:
    result = prune(Doubled(BRANCHES["few in all"][0]), torch.randn(1, 12, 8), {"params": 0.6})
    assert result.summary.serves == {"x": "Nx12x8"} and not result.plan.least
    assert result.model(torch.randn(1, 12, 8)).shape == (1, 12, 8)


@pytest.mark.parametrize(("batch", "least"), [(2, {"N": 2, "L": 2}), (1, {"L": 2})])
def test_without_a_check_only_the_example_s_one_is_served(batch: int, least: dict[str, int]) -> None:
    result = prune(Doubled(BRANCHES["one place"][0]), torch.randn(batch, 6, 8), {"params": 0.6}, check=False)
    assert result.plan.least == least
    with pytest.raises(ValueError, match="L >= 2"):
        result.model(torch.randn(2, 1, 8))


@pytest.mark.parametrize("every_size", [True, False])
def test_one_sample_of_a_model_without_a_block(every_size: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.last(x + self.outer(self.inner(x).relu()))
            return 2 * x if x.shape[0] == 1 else x

    model, one = Net().eval(), torch.randn(1, 8)
    space = PrunableSpace(model, torch.randn(2, 8), steps=2)
    result = space.build(space.space.architecture(dict.fromkeys(space.blocks, "leave out")), every_size=every_size)
    assert result.summary.form == "module"  # whose own forward knows of one sample
    torch.testing.assert_close(result.model(one), 2 * model.last(one))
