"""Nested training: smaller models come nearer to the trained one, share its weights, and a training that was ended goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.pruning.nested import nest
from nas.stopping import Stopped
from pruners import PrunableSpace

CLASSES = 4


class Residual(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16) if norm else nn.LayerNorm(16)
        self.inner, self.outer, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(x + self.outer(self.inner(x).relu()))


def made(norm: bool) -> tuple[PrunableSpace, list[Tensor]]:
    torch.manual_seed(0)
    model = Residual(norm)
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(torch.randn(64, 8))
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(50, 8, generator=generator) for _ in range(10)]
    return PrunableSpace(model.eval(), batches[0][:1], batches=batches, steps=4), batches


def far(space: PrunableSpace, teacher: nn.Module, x: Tensor) -> list[float]:
    with torch.no_grad():
        return [float((space.candidate(arch)(x) - teacher(x)).square().mean()) for arch in space.front(6)[1:]]


@pytest.mark.parametrize("norm", [False, True], ids=["layer norm", "batch norm"])
def test_smaller_models_come_nearer_and_the_trained_one_stays(norm: bool) -> None:
    space, batches = made(norm)
    before = {name: x.clone() for name, x in space.model.state_dict().items()}
    nested = nest(space, batches, steps=120)
    assert nested.did.after < nested.did.before and nested.did.steps == 120 and not nested.did.restored
    assert all(torch.equal(x, before[name]) for name, x in space.model.state_dict().items())
    assert nested.space.space is space.space and nested.space.front(6) == space.front(6)
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    if not norm:  # statistics of batch norms are to be gathered again
        assert sum(far(nested.space, space.model, x)) < 0.8 * sum(far(space, space.model, x))
    arch = space.front(6)[2]
    finished = nested.space.finished(arch).model
    with torch.no_grad():
        assert torch.allclose(finished(x), nested.space.candidate(arch)(x), atol=1e-4)


def test_a_training_that_was_ended_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    space, batches = made(norm=False)
    whole = nest(space, batches, steps=60, seed=3).space.model.state_dict()
    told = 0

    def ended(step: str, done: float, total: float) -> None:
        nonlocal told
        if step == "matching" and done > 0.5 and not told:
            told = 1
            raise Stopped(2)

    path = tmp_path / "training.safetensors"
    with pytest.raises(Stopped):
        nest(space, batches, steps=60, seed=3, path=path, progress=ended)
    assert path.exists()
    again = nest(space, batches, steps=60, seed=3, path=path).space.model.state_dict()
    assert all(torch.equal(x, again[name]) for name, x in whole.items())


def test_a_training_has_one_length() -> None:
    space, batches = made(norm=False)
    with pytest.raises(ValueError, match="exactly one of `seconds`, `steps`, `epochs` must be given"):
        nest(space, batches)
