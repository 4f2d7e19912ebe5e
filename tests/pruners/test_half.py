"""Models in half precision keep their types; what is computed for the cut is computed in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruners import groups, load
from tests.pruners.plain import prune


class Gated(nn.Module):
    """Layers and a norm; as a graph where the halves of the first layer lose unlike."""

    def __init__(self, halves: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 32), nn.LayerNorm(16 if halves else 32)
        self.last, self.halves = nn.Linear(16 if halves else 32, 3), halves

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.halves:
            x = x[:, :16].sigmoid() + x[:, 16:].tanh()
        return self.last(self.norm(x).relu())


@pytest.mark.parametrize(("dtype", "halves"), [(torch.bfloat16, False), (torch.float16, True)])
def test_half_precision_stays(dtype: torch.dtype, halves: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Gated(halves).eval().to(dtype), torch.randn(4, 6, dtype=dtype)
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [(torch.randn(8, 6, dtype=dtype), torch.tensor([0, 1] * 4))]
    result = prune(model, x, {"macs": 0.6}, importance="taylor", batches=batches)
    wide = prune(Gated(halves).eval(), x.float(), {"macs": 0.6})
    assert {p.dtype for p in result.model.parameters()} == {dtype} and result.model(x).dtype == dtype
    assert result.summary.form == wide.summary.form and result.summary.difference < 1e-5
    assert result.summary.after["weight_bytes"] == sum(2 * p.numel() for p in result.model.parameters())
    assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())
    result.save(tmp_path)
    again = load(tmp_path, Gated(halves).to(dtype))
    assert torch.equal(again(x), result.model(x))
    second = prune(result.model, x, {"macs": 0.8})
    second.save(tmp_path / "second")
    assert torch.equal(load(tmp_path / "second", Gated(halves).to(dtype))(x), second.model(x))


@pytest.mark.parametrize("bytes_left", [0.6, 350])
def test_bytes_are_those_of_the_models_own_types(bytes_left: float) -> None:
    model, x = Gated().eval().bfloat16(), torch.randn(4, 6, dtype=torch.bfloat16)
    result = prune(model, x, {"weight_bytes": bytes_left})
    whole = sum(2 * p.numel() for p in model.parameters())
    target = result.summary.targets["weight_bytes"]
    asked = bytes_left * whole if bytes_left < 1 else bytes_left
    assert target["asked"] == pytest.approx(asked) and 0.8 * asked < target["measured"] <= asked
    assert [group.name for group in groups(model, x)] == [group.name for group in groups(Gated(), x.float())]
