"""NaN and infinity are refused where they enter: nothing can be ranked, solved or proved with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import least_squares_
from tests.pruners.plain import prune

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def network(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), *more).eval()


class Then(nn.Module):
    """Minus infinity for outputs below a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x < self.bound, -torch.inf)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
def test_infinite_weights_are_refused(bad: float) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("2.weight")[1, 1] = bad
    with pytest.raises(ValueError, match="weights of `model` must be finite, got infinity in '2.weight'"):
        prune(model, X, {"macs": 0.5})


@pytest.mark.parametrize(
    ("model", "example", "got"),
    [(network(), X * torch.nan, "12 NaN"), (network(Then(1e9)), X, "no finite one")],
    ids=["nan", "infinite"],
)
def test_outputs_without_numbers_prove_nothing(model: nn.Module, example: Tensor, got: str) -> None:
    with pytest.raises(
        ValueError, match=f"must return numbers on `example_inputs`, got {got} among the 12 of output 0"
    ):
        prune(model, example, {"macs": 0.5})
    with pytest.raises(ValueError, match="must return numbers"):
        prune(model, example, {"macs": 0.5}, check_dtype=torch.float64)
    prune(model, example, {"macs": 0.5}, check=False)


def test_infinity_beside_numbers_is_an_output() -> None:
    model = network(Then(0.0))
    assert {bool(x.isfinite()) for x in model(X).flatten()} == {True, False}
    assert prune(model, X, {"macs": 0.5}).summary.difference < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        *({"importance": name} for name in ("taylor", "fisher", "activation", "lrp", "obs")),
        {"allocation": "distortion"},
        {"allocation": "distortion", "importance": "taylor"},
    ],
    ids=str,
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_data_without_numbers_rank_nothing(settings: dict[str, Any], bad: float) -> None:
    x = X.clone()
    x[1, 2] = bad
    with pytest.raises(ValueError, match="must (be|give layers) finite.*, got NaN or infinity"):
        prune(network(), X, {"macs": 0.5}, batches=[(x, torch.arange(4) % 3)], **settings)


def test_weights_whose_squares_overflow_rank_nothing() -> None:
    model = network()
    model.get_parameter("0.weight").data.mul_(1e30)
    with pytest.raises(ValueError, match="got NaN or infinity from 'l2' for group '0.weight:0'"):
        prune(model, X, {"macs": 0.5})


def test_least_squares_leaves_weights_alone_without_numbers() -> None:
    model = network()
    result = prune(model, X, {"macs": 0.5})
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    with pytest.raises(ValueError, match="`batches` must be finite, got NaN or infinity"):
        least_squares_(result.model, model, result.plan, [X, X * torch.nan])
    assert all(torch.equal(before[name], tensor) for name, tensor in result.model.state_dict().items())
