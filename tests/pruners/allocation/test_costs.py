"""Macs of products of all kinds: what the cost model predicts is what is counted, before and after a removal."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from estimators import count
from pruners.allocation.costs import CostModel
from pruners.groups.dependency import tie_axes
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.plain import prune
from tests.pruners.test_invariants import random_removal

SIZES = {"a": 5, "b": 6, "c": 7, "d": 8}


class Contracted(nn.Module):
    """Inputs contracted with parameters: of each operand but the first, letters name the dimensions."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation
        first, *others = equation.split("->")[0].split(",")
        self.width = nn.Parameter(torch.randn([SIZES[c] for c in first if c in SIZES]))
        self.others = nn.ParameterList(torch.randn([SIZES[c] for c in term]) for term in others)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, *[1] * self.width.dim()) * self.width
        return torch.einsum(self.equation, x, *self.others)


def equation(seed: int) -> str:
    """An equation of one to four operands, the first with the batch, by letter or by an ellipsis."""
    draw = random.Random(seed)
    terms = ["".join(draw.sample("abcd", draw.randint(1, 4))) for _ in range(draw.randint(1, 4))]
    used = sorted({*"".join(terms)})
    batch = draw.choice(["n", "..."])
    return f"{batch}{','.join(terms)}->{batch}{''.join(draw.sample(used, draw.randint(0, len(used))))}"


@pytest.mark.parametrize("seed", range(12))
def test_an_einsum_costs_what_is_counted(seed: int) -> None:
    model, x = Contracted(equation(seed)), torch.randn(3)
    graph = tie_axes(trace(model, (x,)))
    cost = CostModel(graph, model)
    assert cost.macs({}) == count(model, (x,)).total.macs
    removal = Removal(graph, random_removal(graph, seed))
    assert cost.macs(removal.counts) == count(rewrite(removal), (x,)).total.macs


class Product(nn.Module):
    """A product of inputs, a matrix and a vector after a linear layer."""

    def __init__(self, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.product = nn.Linear(6, 8), product
        self.matrix, self.vector = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.first(x), self.matrix, self.vector)


PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mv": lambda x, m, v: x * torch.mv(m, v),
    "addmv": lambda x, m, v: x * torch.addmv(v, m, v),
    "dot": lambda x, m, v: x * torch.dot(v, v),
    "vdot": lambda x, m, v: x * torch.vdot(v, v),
    "inner": lambda x, m, v: torch.inner(x, m),
    "inner of vectors": lambda x, m, v: x * torch.inner(v, v),
    "tensordot": lambda x, m, v: torch.tensordot(x, m, dims=([2], [0])),
    "addbmm": lambda x, m, v: x @ torch.addbmm(m, x.transpose(1, 2), x),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_costs_what_is_counted(name: str) -> None:
    model, x = Product(PRODUCTS[name]), torch.randn(2, 4, 6)
    graph = tie_axes(trace(model, (x,)))
    removal = Removal(graph, random_removal(graph, 0))
    for module, counts in ((model, {}), (rewrite(removal), removal.counts)):
        assert CostModel(graph, model).macs(counts) == count(module, (x,)).total.macs


def test_a_spectral_norm_meets_its_target() -> None:
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 16))
    summary = prune(nn.Sequential(first, nn.ReLU(), nn.Linear(16, 4)), torch.randn(4, 6), {"macs": 0.5}).summary
    assert summary.targets["macs"]["measured"] == summary.targets["macs"]["predicted"] <= 0.5 * summary.before["macs"]
