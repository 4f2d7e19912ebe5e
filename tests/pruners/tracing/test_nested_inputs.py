"""Example inputs in lists, tuples and dicts: pruned, saved, loaded, and refused at once where a plan cannot hold them."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruners import PrunableSpace, load
from pruners.surgery.plan import example_inputs
from tests.pruners.plain import prune

Pair = namedtuple("Pair", "fine coarse")


class Neck(nn.Module):
    """Features of two scales, however they come."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, features: Any, scale: Any = None) -> Tensor:
        fine, coarse = (x for x in pytree.tree_leaves(features) if isinstance(x, Tensor))
        return self.out((self.a(fine) + self.b(coarse)).relu())


class Idle(Neck):
    """Fails where it is run or traced."""

    def forward(self, features: Any, scale: Any = None) -> Tensor:
        raise AssertionError


FINE, COARSE = torch.randn(2, 6), torch.randn(2, 4)
NESTED: dict[str, Any] = {
    "a list": ([FINE, COARSE],),
    "a tuple": ((FINE, COARSE), 2.0),
    "a dict": ({"fine": FINE, "coarse": COARSE},),
    "by name": {"features": {"all": [FINE, (COARSE, None)]}, "scale": [1, 2]},
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("settings", [{}, {"importance": "activation", "batches": True}], ids=["weights", "data"])
def test_nested_inputs_are_pruned_saved_and_loaded(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = NESTED[name]
    if "batches" in settings:
        settings = {**settings, "batches": [(given if isinstance(given, dict) else given[:1], None)]}
    result = prune(Neck().eval(), given, {"macs": 0.5}, **settings)
    result.save(tmp_path)
    again = load(tmp_path, Neck())
    args, kwargs = ((), given) if isinstance(given, dict) else (given, {})
    assert torch.equal(again(*args, **kwargs), result.model(*args, **kwargs))
    shapes = pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), (args, kwargs))
    assert pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), example_inputs(result.plan.inputs)) == shapes


def test_plans_of_the_version_before_are_read(tmp_path: Path) -> None:
    result = prune(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), FINE, {"macs": 0.5})
    result.save(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["version"] == 6
    (tmp_path / "plan.json").write_text(
        json.dumps(
            {**{name: plan[name] for name in plan if name not in ("every_size", "least", "before")}, "version": 3}
        )
    )
    loaded = load(tmp_path, nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)))
    assert torch.equal(loaded(FINE), result.model(FINE))
    for version in (1, 7):
        (tmp_path / "plan.json").write_text(json.dumps({**plan, "version": version}))
        with pytest.raises(
            ValueError, match=f"plan version must be 2 or 3 or 4 or 5 or 6, got {version}; save it again"
        ):
            load(tmp_path, Neck())


@pytest.mark.parametrize("given", [(Pair(FINE, COARSE),), {"features": {0: FINE, 1: COARSE}}, ([{FINE}],)])
def test_what_a_plan_cannot_hold_is_refused_before_the_model_runs(given: Any) -> None:
    message = r"or lists, tuples and dicts by name of them, got (Pair|dict|set); wrap the model"
    with pytest.raises(ValueError, match=message):
        prune(Idle(), given, {"macs": 0.5})
    with pytest.raises(ValueError, match=message):
        PrunableSpace(Idle(), given)
