"""The pretrained network that zero-padded shortcuts are known from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from examples.cifar_resnet import CifarResNet, pretrained
from pruners import groups
from tests.pruners.plain import prune

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_zero_padded_shortcuts_are_pruned() -> None:
    torch.manual_seed(0)
    model = CifarResNet(2).eval()
    found = [group for group in groups(model, EXAMPLE) if not group.protected]
    # six blocks with inner channels of their own; 16 shared channels, then 16 and 32 that stages 2 and 3 add, on two sides
    assert sorted(group.size for group in found) == [8, 8, 16, 16, 16, 16, 16, 32, 32, 64, 64]
    result = prune(model, EXAMPLE, {"macs": 0.5})
    assert result.summary.after["macs"] <= 0.5 * result.summary.before["macs"]
    assert result.summary.difference < 1e-5
    assert any(before - after for name, (before, after) in result.summary.groups.items() if "[" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
@pytest.mark.parametrize("importance", ["l2", "bn_scale", "lamp", "fpgm"])
def test_pretrained_weights(name: str, importance: str) -> None:
    path = Path(os.environ.get("NAS_DATA", "../shared/data")) / ".." / "weights" / name
    if not path.exists():
        pytest.skip(f"{path} is missing; set NAS_DATA to the folder beside the weights")
    result = prune(pretrained(path), EXAMPLE, {"macs": 0.5}, importance=importance)
    assert 0.45 < result.summary.after["macs"] / result.summary.before["macs"] <= 0.5
    assert result.summary.difference < 1e-4
