"""Models that write to their own parameters or buffers as they run: pruned, proved, and left as they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, groups, load
from tests.pruners.plain import prune


class Renormed(nn.Module):
    """Rows of the embedding that are looked up are shortened in place."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 16, max_norm=1.0)
        self.inner, self.outer = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(self.embed(x)).relu())


class Counted(Renormed):
    """Counts how often it has run."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.embed = nn.Embedding(tokens, 16)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(x)


OBS = {"importance": "obs", "allocation": "distortion", "batches": True, "steps": 2}
CASES: list[tuple[Any, int, dict[str, Any]]] = [
    (Renormed, 20, {"check_dtype": torch.float64}),
    (Renormed, 20, {"importance": "taylor", "batches": True}),
    (Renormed, 5000, {}),
    (Counted, 20, {}),
    (Counted, 20, OBS),
]


@pytest.mark.parametrize(("make", "tokens", "settings"), CASES)
def test_a_model_that_writes_is_pruned_and_left_alone(
    make: Any, tokens: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Of an embedding with many entries only some are tried with noise."""
    torch.manual_seed(0)
    model, x = make(tokens).eval(), torch.randint(0, tokens, (3, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if "batches" in settings:
        settings = {**settings, "batches": [(x, x)], "loss": lambda outputs, targets: outputs.square().mean()}
    result = prune(model, x, {"macs": 0.7}, ignore="embed", **settings)
    assert result.summary.difference is not None and result.summary.difference < 1e-6
    assert "inner.weight:0" in result.summary.groups
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    result.save(tmp_path)
    assert torch.equal(load(tmp_path, make(tokens))(x), result.model(x))


def test_the_width_of_an_embedding_that_is_shortened_stays() -> None:
    model, x = Renormed(20).eval(), torch.randint(0, 20, (3, 5))
    widths = {group.name: group.protected for group in groups(model, x)}
    assert "embedding_renorm" in str(widths["embed.weight:1"]) and widths["inner.weight:0"] is None
    before = model.embed.weight.detach().clone()
    space = PrunableSpace(model, x, steps=4)
    result = space.build(space.uniform(2))
    assert result.summary.difference is not None and result.summary.difference < 1e-6
    assert torch.equal(model.embed.weight, before)
