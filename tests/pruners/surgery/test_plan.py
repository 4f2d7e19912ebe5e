"""Plans and weights on disk: the same model again, or a refusal in words."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruners import PruningPlan, load
from pruners.result import WEIGHTS
from pruners.surgery.plan import example_inputs
from tests.pruners.networks import build
from tests.pruners.plain import prune


@pytest.mark.parametrize("name", ["residual", "grouped queries", "shared"])
def test_saved_and_loaded_is_the_same_to_the_last_bit(name: str, tmp_path: Path) -> None:
    model, example = build(name)
    result = prune(model, example, {"params": 0.7})
    result.save(tmp_path)
    again = load(tmp_path, build(name, seed=1)[0])
    with torch.no_grad():
        assert torch.equal(again(*example), result.model(*example))
    assert type(again).__name__ == type(result.model).__name__


def test_a_plan_for_another_model_is_refused(residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    with pytest.raises(ValueError, match="must be applied to the model it was made for"):
        load(tmp_path, build("residual group norm")[0])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"removed": {}}'])
def test_a_broken_plan_is_refused(text: str, residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match="a plan must be JSON"):
        load(tmp_path, residual[0])


JUNK: list[Any] = [None, 5, -1, True, 0.5, "abc", [], {}, [True], [None], ["x"], [[0], 1], [10**6, 10**6], {"x": 1}]


def damaged(data: Any) -> Iterator[Any]:
    """The data with one value in it after another replaced by junk, or left out."""
    yield from JUNK
    keys = list(data) if isinstance(data, dict) else list(range(len(data))) if isinstance(data, list) else []
    for key in keys:
        rest = {name: x for name, x in data.items() if name != key} if isinstance(data, dict) else data[:key]
        yield rest
        for value in damaged(data[key]):
            yield {**data, key: value} if isinstance(data, dict) else [*data[:key], value, *data[key + 1 :]]


def test_damage_to_any_part_of_a_plan_is_a_value_error(residual: Any) -> None:
    plan = json.loads(residual[2].plan.to_json())
    nested = {"named": {"a": {"kind": "tuple", "items": [{"shape": [2], "dtype": "int64"}]}}}
    plan["inputs"]["kwargs"] = {"flag": {"value": True}, "more": {"kind": "list", "items": [nested]}}
    refused = 0
    for spoilt in damaged(plan):
        try:
            read = PruningPlan.from_json(json.dumps(spoilt))
            args, kwargs = example_inputs(read.inputs)
            assert isinstance(args, tuple) and isinstance(kwargs, dict)
            assert all(isinstance(name, str) and isinstance(gone, list) for name, gone in read.removed.items())
        except ValueError as error:
            refused += 1
            assert "plan" in str(error) or "of an input" in str(error)
    assert refused > 100


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inputs", {}, "for args"),
        ("inputs", 5, "got 5 for inputs"),
        ("inputs", {"args": [{"shape": [10**6, 10**6], "dtype": "float32"}], "kwargs": {}}, "at most 268,435,456 numbers"),
        ("removed", [], "for removed"),
        ("removed", {"inner.weight:0": [True]}, "removed.inner.weight:0"),
        ("blocks", 5, "for blocks"),
        ("blocks", ["nowhere"], "must leave out blocks that the model has"),
    ],
)  # fmt: skip
def test_a_damaged_plan_is_refused(field: str, value: Any, message: str, residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, field: value}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path, residual[0])


def test_a_folder_without_a_plan_is_named(residual: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no plan at .*plan.json; give a folder that"):
        load(tmp_path, residual[0])
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="a plan must be JSON"):
        load(tmp_path, residual[0])


def test_an_edited_plan_is_refused(residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    for removed in ({"no such group": [0]}, {"head.weight:0": [0]}, {"inner.weight:0": list(range(12))}):
        (tmp_path / "plan.json").write_text(json.dumps(plan | {"removed": removed}))
        with pytest.raises(ValueError, match="must remove some indices of groups that the model has"):
            load(tmp_path, residual[0])


def test_weights_cut_short_are_refused(residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="complete safetensors file"):
        load(tmp_path, residual[0])


def test_extra_and_missing_weights_are_refused(residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"extra \['extra'\]"):
        load(tmp_path, residual[0])
    state.pop("head.bias")
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"missing \['head.bias'\]"):
        load(tmp_path, residual[0])


class Twice(nn.Module):
    """Layers in a row, of which the second half of what the first returns is a gate; as a graph where halves differ."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 32), nn.Linear(16 if gated else 32, 20), nn.Linear(20, 3)
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.gated:
            left, right = x[:, :16], x[:, 16:]
            x = left.exp() + right
        return self.last(self.inner(x.relu()).relu())


@pytest.mark.parametrize("gated", [False, True])
def test_the_last_of_several_prunes_is_loaded_into_the_original(gated: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, results, model = torch.randn(4, 6), [], Twice(gated).eval()
    for place in range(3):
        results.append(prune(model, x, {"macs": 0.8}))
        model = copy.deepcopy(results[-1].model) if place else results[-1].model
        results[-1].save(tmp_path / str(place))
        original = Twice(gated)
        again = load(tmp_path / str(place), original)
        assert torch.equal(again(x), results[-1].model(x)) and len(original.first.weight) == 32
        assert [step.before for step in results[-1].plan.chain] == [()] * (place + 1)
    assert {result.summary.form for result in results} == {"graph" if gated else "module"}
    on_the_way = load(tmp_path / "2", load(tmp_path / "0", Twice(gated)))
    assert torch.equal(on_the_way(x), model(x))
    last = prune(load(tmp_path / "1", Twice(gated)), x, {"macs": 0.8})
    assert last.plan.chain[:2] == PruningPlan.from_json((tmp_path / "1/plan.json").read_text()).chain


def test_a_result_with_another_head_starts_a_chain_of_its_own(tmp_path: Path) -> None:
    x, model = torch.randn(4, 6), Twice(False).eval()
    first = prune(model, x, {"macs": 0.8})
    first.save(tmp_path)
    first.model.last = nn.Linear(first.model.last.in_features, 7)
    second = prune(first.model, x, {"macs": 0.8})
    assert second.plan.before == () and second.summary.form_before is None
    second.save(tmp_path / "second")
    with pytest.raises(ValueError, match="made for, .* pruned before is first made again from the earlier plans"):
        load(tmp_path / "second", Twice(False))
    changed = load(tmp_path, Twice(False))
    changed.last = nn.Linear(changed.last.in_features, 7)
    assert torch.equal(load(tmp_path / "second", changed)(x), second.model(x))


def test_plans_of_older_releases_are_read(residual: Any) -> None:
    plan = json.loads(residual[2].plan.to_json())
    del plan["before"]
    for version in (2, 3, 4):
        assert PruningPlan.from_json(json.dumps({**plan, "version": version})).chain[0].removed == plan["removed"]
    nested = {**plan, "before": [{**plan, "before": [plan]}]}
    for spoilt in (nested, {**plan, "before": [{**plan, "version": 1}]}, {**plan, "before": [{**plan, "form": "x"}]}):
        with pytest.raises(ValueError, match="plan"):
            PruningPlan.from_json(json.dumps(spoilt))


class TakesTurns(nn.Module):
    """A forward that takes narrow inputs of its last layer for another model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.last.in_features < 20:
            raise RuntimeError("too narrow for this forward")
        return self.last(self.first(x).relu())


def test_a_form_that_changes_is_said() -> None:
    x = torch.randn(4, 6)
    first = prune(TakesTurns().eval(), x, {"macs": 0.8})
    second = prune(first.model, x, {"macs": 0.6})
    assert (first.summary.form, first.summary.form_before) == ("module", None)
    assert (second.summary.form, second.summary.form_before) == ("graph", "module")
    assert second.summary.reason == (
        "too narrow for this forward; the given model, the result of an earlier prune, still was a module"
    )


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_run(residual: Any, tmp_path: Path) -> None:
    residual[2].save(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(ValueError, match="complete safetensors file"):
        load(tmp_path, residual[0])
    assert not (tmp_path / "ran").exists()
