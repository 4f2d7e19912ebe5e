"""The proof in every call: it does not trust the rules, and computes in the type that is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners.surgery.masked import difference
from tests.pruners.networks import build
from tests.pruners.plain import prune


def test_a_wrong_rule_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check does not trust the rules: one that forgets that softmax normalises over its dimension is refused."""
    from pruners.operators.pointwise import like
    from pruners.operators.rules import RULES

    class Softmax(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 8), nn.Softmax(-1), nn.Linear(8, 3))

    with pytest.raises(ValueError, match="nothing can be removed"):
        prune(Softmax(), torch.randn(2, 4), {"macs": 0.5})
    monkeypatch.setitem(RULES, "softmax", like)
    with pytest.raises(ValueError, match=r"removing must equal masking .* aten.softmax.int of module '1'.*0.weight:0"):
        prune(Softmax(), torch.randn(2, 4), {"macs": 0.5})


def test_a_wrong_rule_is_caught_where_values_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained deep model may return numbers near 1e-20, which are to be compared as others are."""
    from pruners.operators.pointwise import like
    from pruners.operators.rules import RULES

    class Rolled(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 8, bias=False), nn.Linear(8, 3, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x).roll(1, -1))

    monkeypatch.setitem(RULES, "roll", like)
    with pytest.raises(ValueError, match=r"removing must equal masking .* aten.roll.default"):
        prune(Rolled(), 1e-20 * torch.randn(2, 4), {"macs": 0.5})


@pytest.mark.parametrize("name", ["residual", "zero padded shortcut", "fused qkv"])
def test_the_check_in_double_precision(name: str) -> None:
    model, example = build(name)
    single, double = (
        prune(model, example, {"macs": 0.5}, check_dtype=dtype).summary for dtype in (None, torch.float64)
    )
    assert double.groups == single.groups and double.form == single.form
    assert double.difference is not None and double.difference < 1e-12
    assert double.difference_inside is not None and double.difference_inside < 1e-12
    assert next(model.parameters()).dtype == torch.float32


def test_a_model_that_does_not_run_in_the_check_s_type_is_named() -> None:
    class Single(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).float())

    with pytest.raises(ValueError, match=r"the check in torch.float64 needs a model that runs in it"):
        prune(Single(), torch.randn(2, 4), {"params": 0.7}, check_dtype=torch.float64)
    with pytest.raises(ValueError, match="must be a floating-point type"):
        prune(Single(), torch.randn(2, 4), {"params": 0.7}, check_dtype=torch.int64)


def test_a_graph_that_keeps_its_types_is_refused_in_another() -> None:
    class Typed(nn.Module):
        """Its `forward` fits one width, and casts to the type of its input, which a graph remembers."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(self.inner(x).reshape(-1, 16).to(x.dtype))

    model, x = Typed(), torch.randn(2, 4)
    assert prune(model, x, {"params": 0.7}).summary.form == "graph"
    with pytest.raises(
        ValueError, match=r"the check in torch.float64 needs a result that runs in it, got: .* leave `check_dtype` out"
    ):
        prune(model, x, {"params": 0.7}, check_dtype=torch.float64)


def test_a_double_model_is_checked_in_double() -> None:
    model, example = build("residual")
    result = prune(model.double(), example[0].double(), {"macs": 0.5}, tolerance=1e-10)
    assert result.summary.difference < 1e-12


INF, NAN = torch.inf, torch.nan


@pytest.mark.parametrize(
    ("results", "references", "expected"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1e-20, 0.0], [2e-20, 0.0], 0.5),
        ([0.0], [0.0], 0.0),
        ([INF, -INF, 1.5], [INF, -INF, 2.0], 0.25),
        ([NAN, 2.0], [NAN, 2.0], 0.0),
        ([INF, 2.0], [1.0, 2.0], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([1.0], [1.0, 2.0], INF),
    ],
)
def test_differences_are_relative_to_the_largest_reference(
    results: list[float], references: list[float], expected: float
) -> None:
    assert difference([torch.tensor(results)], [torch.tensor(references)]) == pytest.approx(expected, abs=1e-6)
