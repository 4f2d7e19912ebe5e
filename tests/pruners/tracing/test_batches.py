"""Several inputs by position and by name, the same for whatever passes over data; what does not fit is refused, not guessed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import least_squares_, noise, recalibrate_
from tests.pruners.plain import prune


class Two(nn.Module):
    """Two inputs, the second of another scale, which decides what is kept of each branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.out = nn.Linear(6, 16), nn.Linear(6, 16), nn.BatchNorm1d(32), nn.Linear(32, 4)

    def forward(self, x: Tensor, y: Tensor, flag: bool = False) -> Tensor:
        return self.out(self.norm(torch.cat([self.a(x), self.b(y)], -1)).relu())


torch.manual_seed(0)
MODEL = Two().eval()
X, Y, LABELS = torch.randn(64, 6), 100 * torch.randn(64, 6), torch.arange(64) % 4
EXAMPLE = {"x": X[:2], "y": Y[:2], "flag": True}
SAME: list[Any] = [{"x": X, "y": Y}, {"y": Y, "x": X, "flag": True}, (X, Y), [X, Y]]
SETTINGS: list[dict[str, Any]] = [
    *({"importance": name} for name in ("taylor", "fisher", "activation", "lrp", "obs")),
    {"allocation": "distortion"},
    {"importance": "taylor", "steps": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_names_decide_and_not_their_order(settings: dict[str, Any]) -> None:
    examples = (EXAMPLE, (X[:2], Y[:2]))
    plans = [prune(MODEL, EXAMPLE, {"macs": 0.5}, batches=[(x, LABELS)], **settings).plan.removed for x in SAME]
    assert all(plan == plans[0] for plan in plans)
    assert plans[0] == prune(MODEL, examples[1], {"macs": 0.5}, batches=[((X, Y), LABELS)], **settings).plan.removed


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least one batch, got none"),
        ([(X, LABELS)], r"as many inputs as `example_inputs` \(2 tensors\), got 1"),
        ([({"x": X}, LABELS)], r"the input 'y' .* got 0"),
        ([({"x": X, "y": Y, "z": Y}, LABELS)], r"\('x', 'y', 'flag'\), got 'z' as well"),
        ([((X[:, :3], Y), LABELS)], r"`batches` must (hold|fit) .*got .*3"),
        ([((X.double(), Y), LABELS)], r"`batches` must (hold|fit) .*got"),
        ([(5, LABELS)], "inputs being a tensor, a sequence or a dict, got int"),
    ],
    ids=["none", "one input of two", "a name missing", "a name too many", "another shape", "another type", "no tensor"],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], batches: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(MODEL, EXAMPLE, {"macs": 0.5}, batches=batches, **settings)


@pytest.mark.parametrize("importance", ["taylor", "fisher", "lrp"])
def test_labels_are_asked_for(importance: str) -> None:
    with pytest.raises(ValueError, match="got no (labels|targets)"):
        prune(MODEL, EXAMPLE, {"macs": 0.5}, importance=importance, batches=[{"x": X, "y": Y}])


def test_repair_takes_several_inputs() -> None:
    result = prune(MODEL, EXAMPLE, {"macs": 0.5})
    found: list[tuple[Mapping[str, Tensor], ...]] = []
    for inputs in SAME[:3]:
        norms, solved = copy.deepcopy(result.model), copy.deepcopy(result.model)
        recalibrate_(norms, [(inputs, LABELS)])
        least_squares_(solved, MODEL, result.plan, [(inputs, LABELS)])
        found.append((norms.state_dict(), solved.state_dict()))
    kept = result.model.a(X), result.model.b(Y)
    torch.testing.assert_close(found[0][0]["norm.running_mean"], torch.cat(kept, 1).mean(0))
    error = [
        (torch.func.functional_call(result.model, state, (X, Y)) - MODEL(X, Y)).square().mean()
        for state in (result.model.state_dict(), found[0][1])
    ]
    assert error[1] < 0.5 * error[0]
    for other in found[1:]:
        for one, again in zip(found[0], other, strict=True):
            assert all(torch.equal(one[name], again[name]) for name in one)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"importance": "obs", "allocation": "distortion"},
        {"importance": "lrp", "steps": 2},
        {"allocation": "optimal"},
    ],
    ids=str,
)
def test_on_a_gpu(settings: dict[str, Any]) -> None:
    """What is removed on a GPU is what is removed on the CPU, and repair runs there."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).double().eval()  # fmt: skip
    images = noise(torch.zeros(1, 3, 8, 8).double(), samples=64, batch=32)
    plans = []
    for device in ("cpu", "cuda"):
        moved = copy.deepcopy(model).to(device)
        batches = [(x.to(device), LABELS[:32].to(device)) for x in images]
        result = prune(moved, batches[0][0][:2], {"macs": 0.5}, batches=batches, **settings)
        plans.append(result.plan.removed)
        least_squares_(result.model, moved, result.plan, batches)
        recalibrate_(result.model, batches)
        assert {tensor.device.type for tensor in result.model.state_dict().values()} == {device}
    assert plans[0] == plans[1]
