"""What is refused before any work, and in words: options that do not exist, data that are missing, values of another kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, groups, least_squares_
from tests.pruners.plain import prune


class Idle(nn.Module):
    """Fails where it is run or traced."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": "taylor"}, r"`importance='taylor'` needs `batches`, .*; without data take one of l1, l2, lamp"),
        ({"importance": "obs", "allocation": "optimal"}, "`importance='obs'` needs `batches`"),
        ({"importance": "magic"}, "`importance` must be one of auto, l1, .* got 'magic'"),
        ({"importance": None}, "`importance` must be one of auto, l1, .* got None"),
        ({"aggregate": "median"}, "`aggregate` must be one of sum, mean, max, got 'median'"),
        ({"aggregate": sum}, "`aggregate` must be one of sum, mean, max, got <built-in"),
        ({"normalise": "std"}, "`normalise` must be one of mean, max, sum, none, None, got 'std'"),
        ({"allocation": "best"}, "`allocation` must be one of auto, uniform, .*, got 'best'"),
        ({"allocation": "distortion"}, r"needs `batches`, .*; without data take one of uniform, global, isomorphic, optimal"),
        ({"targets": 0.5}, r"`targets` must be a mapping from macs, .* got 0.5; write {'macs': 0.5}"),
        ({"targets": {"macs": None}}, r"`targets\['macs'\]` must be positive, got None"),
        ({"targets": {"flops": 0.5}}, "`targets` must be among macs, .*, got 'flops'"),
        ({"targets": {"macs": -1}}, "must be positive, got -1"),
        ({"steps": 1.5}, "`steps` must be a whole number of at least 1, got 1.5"),
        ({"steps": "2"}, "`steps` must be a whole number of at least 1, got '2'"),
        ({"round_to": 2.5}, "`round_to` must be a whole number of at least 1, got 2.5"),
        ({"min_kept": 0.5}, "`min_kept` must be a whole number of at least 1, got 0.5; a layer of no channels"),
        ({"max_ratio": "all"}, r"`max_ratio` must be a fraction in \(0, 1\], got 'all'"),
        ({"ignore": 5}, r"`ignore` must be names of groups, tensors or modules, got 5 \(int\)"),
        ({"ignore": [nn.ReLU()]}, r"got ReLU\(\) \(ReLU\); `pruners.groups` lists them"),
    ],
)  # fmt: skip
def test_what_needs_no_work_is_refused_before_the_model_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(Idle(), torch.zeros(2, 3), **{"targets": {"macs": 0.5}, **settings})


def test_a_space_asks_for_data_before_the_model_runs() -> None:
    with pytest.raises(ValueError, match="`importance='fisher'` needs `batches`"):
        PrunableSpace(Idle(), torch.zeros(2, 3), importance="fisher")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


def test_one_name_is_ignored_as_a_list_of_it_is() -> None:
    x = torch.randn(2, 3)
    one, listed = (prune(small(), x, {"macs": 0.7}, ignore=ignore).plan for ignore in ("0.weight:0", ["0.weight:0"]))
    assert one == listed and set(one.removed) == {"2.weight:0"}
    space = PrunableSpace(small(), x, ignore="4.weight")
    assert [group.name for group in space.scores] == ["0.weight:0"]
    with pytest.raises(ValueError, match=r"`ignore` must name groups, tensors or modules, got '0.wei'; did you mean"):
        prune(small(), x, {"macs": 0.7}, ignore="0.wei")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(2, 3)), type, str])
def test_what_is_no_module_in_python_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"`model` must be a module in Python, .* got \w+; give the `nn.Module`"):
        prune(make(small()), torch.zeros(2, 3), {"macs": 0.5})
    inside = make(small())
    if isinstance(inside, nn.Module):
        with pytest.raises(ValueError, match="in '0'; give"):
            prune(nn.Sequential(inside, nn.Linear(2, 2)), torch.zeros(2, 3), {"macs": 0.5})


class Cropped(nn.Module):
    """Returns what is beyond some columns, and zeros of no size."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.inner, self.outer, self.start = nn.Linear(3, 8), nn.Linear(8, 4), start

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.outer(self.inner(x).relu())[:, self.start :], x.new_zeros(0)


@pytest.mark.parametrize("call", [lambda m, x: prune(m, x, {"macs": 0.5}), PrunableSpace, groups])
def test_nothing_is_proved_on_nothing(call: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`example_inputs` must hold numbers, got a tensor of shape \(0, 3\), .*; give at least"
    ):
        call(small(), torch.zeros(0, 3))
    with pytest.raises(
        ValueError, match=r"must return numbers on `example_inputs`, got tensors of shapes \[\(2, 0\), \(0,\)\]"
    ):
        call(Cropped(4), torch.zeros(2, 3))
    assert call(Cropped(3), torch.zeros(2, 3))  # one of the outputs holds a number


class Noisy(nn.Module):
    """Dropout that is on in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(self.first(x).relu(), 0.5, training=True))


@pytest.mark.parametrize("importance", ["l2", "activation", "obs", "taylor"])
def test_dropout_left_on_is_cut_and_not_fitted(importance: str) -> None:
    torch.manual_seed(0)
    model, batches = Noisy().eval(), [(torch.randn(16, 3), torch.tensor([0, 1] * 8)) for _ in range(2)]
    result = prune(model, torch.randn(2, 3), {"macs": 0.5}, importance=importance, batches=batches)
    assert result.summary.difference < 1e-5
    with pytest.raises(
        ValueError, match="must compute the same from the same batch, got aten.dropout.default of module ''"
    ):
        least_squares_(result.model, model, result.plan, batches)


def test_batches_whose_sizes_vary() -> None:
    """Any number of samples; other sizes only where no traced graph runs on them."""
    torch.manual_seed(0)
    layers = (nn.Conv1d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2))
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 1, 9)

    def batch(n: int, length: int) -> Any:
        return torch.randn(n, 1, length), torch.arange(n) % 2

    for importance in ("activation", "obs", "lrp"):
        assert prune(model, x, {"macs": 0.5}, importance=importance, batches=[batch(4, 9), batch(1, 9)]).summary.groups
        with pytest.raises(ValueError, match=r"here Nx1x9 .*, got 4x1x12 .*; crop, pad or convert them"):
            prune(model, x, {"macs": 0.5}, importance=importance, batches=[batch(4, 9), batch(4, 12)])
    result = prune(model, x, {"macs": 0.5}, importance="taylor", batches=[batch(4, 9), batch(4, 12)])
    least_squares_(result.model, model, result.plan, [batch(16, 9), batch(3, 9)])
    least_squares_(
        result.model, model, result.plan, [batch(4, 9), batch(4, 12)]
    )  # a graph that serves every length runs on them
