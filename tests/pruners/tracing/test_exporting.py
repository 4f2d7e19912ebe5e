"""Models that do in their forward what the exporter by itself stops at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.nn.modules import transformer

from pruners import load
from pruners.groups.dependency import tie_axes
from pruners.surgery.masked import difference, run_traced
from pruners.surgery.rewrite import Removal
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


class Cast(nn.Module):
    """Casts a layer to the type that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.last.to(x.dtype)
        return self.last(self.first(x).relu())


class Drawn(nn.Module):
    """A variational autoencoder that draws from a distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decode = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x).relu()
        return self.decode(Normal(self.mean(h), F.softplus(self.spread(h))).rsample())


class Padded(nn.Module):
    """Pads by what buffers hold, and only where one says so, as audio codecs do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 16, 3), nn.Conv1d(16, 3, 1)
        self.register_buffer("kernel", torch.tensor(3), persistent=False)
        self.register_buffer("causal", torch.tensor([1.0, 0.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.causal[0] > 0:
            x = F.pad(x, (int(self.kernel) - 1, 0))
        return self.last(self.first(x).relu())


class Scaled(nn.Module):
    """A constant in half precision among weights that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 6)
        self.register_buffer("scale", torch.tensor(2.0, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x * self.scale.to(x.dtype)).relu())


class Strided(nn.Module):
    """Multiplies by what a tensor holds that is neither a parameter nor a buffer, as detectors do by their strides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 6)
        self.stride = torch.tensor([8.0, 16.0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.first(x).relu())
        return torch.cat([x * float(self.stride[i]) for i in range(2)])


MODELS = {
    "strided": (Strided, (2, 6)),
    "cast": (Cast, (2, 6)),
    "drawn": (Drawn, (2, 6)),
    "padded": (Padded, (2, 3, 9)),
    "scaled": (Scaled, (2, 6)),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_the_exporter_stops_at_by_itself(name: str, tmp_path: Path) -> None:
    make, shape = MODELS[name]
    model, x = make().eval(), torch.randn(shape)
    move, checks = nn.Module.to, Distribution._validate_args
    result = prune(model, x, {"macs": 0.5})
    assert result.summary.form == "module" and result.summary.difference < 1e-5
    assert nn.Module.to is move and Distribution._validate_args is checks and not model._forward_pre_hooks
    result.save(tmp_path)
    loaded = load(tmp_path, make())
    torch.manual_seed(0)
    expected = result.model(x)
    torch.manual_seed(0)
    assert torch.equal(loaded(x), expected)


def test_a_buffer_that_counts_calls_decides_nothing_for_good() -> None:
    class Counting(Cast):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.tensor(0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) * (2 if self.calls > 1 else 1)

    with pytest.raises(ValueError, match="cannot be traced"):
        prune(Counting(), torch.randn(2, 6), {"macs": 0.5})


def test_a_buffer_that_is_saved_with_the_weights_decides_nothing_for_good() -> None:
    class Loaded(Padded):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.tensor(3))

    with pytest.raises(ValueError, match="cannot be traced"):
        prune(Loaded(), torch.randn(2, 3, 9), {"macs": 0.5})


def test_a_mask_of_any_kind_is_an_input_of_torchs_transformer() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 1).eval(), torch.randn(2, 5, 16)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    detect = transformer._detect_is_causal_mask
    result = prune(model, {"src": x, "mask": causal}, {"macs": 0.7}, check_dtype="float64")
    assert result.summary.difference < 1e-6 and transformer._detect_is_causal_mask is detect
    band = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(2).bool(), -torch.inf)
    traced = trace(model, (), {"src": x, "mask": causal})
    for mask in (causal, band):
        other = replace(traced, kwargs={"src": x, "mask": mask})
        assert difference(run_traced(Removal(tie_axes(other), {})), [model(x, mask=mask).detach()]) < 1e-5
