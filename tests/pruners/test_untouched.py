"""A given model is left as it was, whatever its forward does and however the call ends."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from pruners import PrunableSpace, PruneResult, groups
from pruners.groups.dependency import tie_axes
from pruners.surgery.masked import difference, run_traced
from pruners.surgery.replay import replay
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from pruners.untouched import untouched
from tests import zoo
from tests.pruners import routed
from tests.pruners.networks import NETWORKS, build
from tests.pruners.plain import prune
from tests.pruners.writers import UNTRACEABLE, WRITERS, state

LIST = Path(os.environ.get("NAS_DATA", "../shared/data")) / "zoo.txt"
HALF: dict[str, float | str] = {"macs": 0.5}
FAST = ("residual", "shared")


def square(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.square().mean()


def measured(model: nn.Module, inputs: Any) -> float:
    """Parameters, of a model that has run."""
    model(*inputs)
    return float(sum(p.numel() for p in model.parameters()))


def one_of_a_space(model: nn.Module, x: Any) -> PruneResult:
    space = PrunableSpace(model, x, steps=4)
    return space.build(space.uniform(2))


VERBS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "prune": lambda model, x: prune(model, x, HALF),
    "float64": lambda model, x: prune(model, x, HALF, check_dtype=torch.float64),
    "gradients": lambda model, x: prune(model, x, HALF, importance="taylor", batches=[(x, x), (x[:1], x[:1])], loss=square),
    "estimators": lambda model, x: prune(model, x, {"entries": 0.5}, estimators={"entries": measured}, steps=2),
    "space": one_of_a_space,
    "groups": groups,
    "nas prune": lambda model, x: nas.prune(model, x, HALF, device="cpu"),
    "unreachable": lambda model, x: prune(model, x, {"macs": 0.001}),
    "wrong inputs": lambda model, x: prune(model, x[..., None], HALF),
}  # fmt: skip


def masked(result: PruneResult, model: nn.Module, x: Tensor) -> list[Tensor]:
    """What the full model returns with the removed indices silenced."""
    removal = replay(result.plan, model)
    return run_traced(Removal(replace(removal.graph, trace=replace(removal.graph.trace, args=(x,))), removal.keep))


def given(name: str) -> tuple[nn.Module, Tensor]:
    """A model that writes to itself and that somebody trains: gradients, a layer that is frozen, and modes of its own."""
    torch.manual_seed(0)
    model, x = WRITERS[name]()
    model(x).sum().backward()
    for p in model.parameters():
        p.requires_grad_(p.dim() > 1)
    next(iter(model.children())).eval()
    return model, x


def cases() -> list[Any]:
    """Every model with every verb; what says little beside the others is slow."""
    fast = {(name, verb) for name in WRITERS for verb in VERBS if verb == "prune" or name in ("cut", "counter")}
    pairs = [(name, verb) for name in WRITERS for verb in VERBS]
    return [pytest.param(*pair, marks=[] if pair in fast else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(("name", "verb"), cases())
def test_models_that_write_to_themselves(name: str, verb: str) -> None:
    model, x = given(name)
    before = state(model)
    fails = name in UNTRACEABLE or verb in ("unreachable", "wrong inputs")
    if fails:
        with pytest.raises(ValueError):
            VERBS[verb](model, x)
    else:
        VERBS[verb](model, x)
    assert state(model) == before


def test_what_is_compared_is_seen_to_change() -> None:
    """Or the tests here would say nothing."""
    for name in WRITERS:
        model, x = given(name)
        before = state(model)
        model(x[..., :5, :5] if name == "cut" else torch.cat([x, x], 1))
        assert state(model) != before


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in UNTRACEABLE])
def test_results_are_not_what_some_proof_left_behind(name: str) -> None:
    """They hold what the given model held, and run at its size."""
    model, x = given(name)
    result = prune(model, x, HALF)
    assert result.summary.form == ("graph" if name == "cut" else "module")
    for key in ("runs", "anew", "last"):
        if hasattr(model, key) and hasattr(result.model, key):
            assert getattr(result.model, key) == getattr(model, key)
    if name == "appended":
        assert len(result.model.seen) == len(result.model.noted) == 1
    if name == "cached":
        assert list(result.model.caches["steps"]) == [4]
    with torch.no_grad():
        assert difference([result.model(x)], masked(result, model, x)) < 1e-5


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in (*NETWORKS, *routed.ROUTES)]
)
def test_every_construct(name: str) -> None:
    model, example = build(name) if name in NETWORKS else routed.build(name, 0)
    before = state(model)
    prune(model, example, HALF)
    one_of_a_space(model, example)
    groups(model, example)
    assert state(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("definition", zoo.definitions(LIST) if LIST.exists() else [], ids=lambda d: d.name)
def test_every_definition_of_the_zoo(definition: zoo.Definition) -> None:
    zoo.declare_missing_operators()
    pytest.importorskip(definition.source)
    model, example = zoo.build(definition)
    before = state(model)
    prune(model, example, HALF)
    one_of_a_space(model, example)
    assert state(model) == before


SWINS = [
    pytest.param({"depths": [1, 1], "num_heads": [2, 4], "embed_dim": 32, "image_size": 56}, id="small"),
    pytest.param({}, id="defaults", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", SWINS)
def test_windows_of_a_swin_transformer(options: dict[str, Any]) -> None:
    """Its blocks cut their windows to smaller inputs, and keep them so."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.SwinModel(transformers.SwinConfig(**options))
    x = torch.randn(1, 3, model.config.image_size, model.config.image_size)
    before = state(model)
    result = prune(model, x, HALF)
    assert state(model) == before
    assert result.summary.after["macs"] <= 0.5 * result.summary.before["macs"]
    with torch.no_grad():
        assert difference(zoo.tensors(result.model(x)), masked(result, model, x)) < 1e-4
        model(x)


class Everything(nn.Module):
    """Holds one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.frozen = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).requires_grad_(False)
        self.tied = self.layer.weight
        self.items: list[Any] = [torch.zeros(3), {"a": [1]}]
        self.queue, self.names, self.order = deque([1, 2]), {"a"}, OrderedDict(a=1, b=2)
        self.rows = torch.arange(12.0).view(3, 4)
        self.register_buffer("row", self.rows[1].expand(5, -1))
        self.generator, self.lock = torch.Generator().manual_seed(0), threading.Lock()
        self.bound = self.remember
        self.layer.bias.grad = torch.ones(4)

    def remember(self, x: Any) -> None:
        self.items.append(x)


def disturb(model: Everything) -> None:
    """Change whatever can be changed."""
    model.double()
    model.layer.weight = nn.Parameter(torch.zeros(1))
    model.add_module("more", nn.ReLU())
    del model.frozen
    model.norm.running_mean.add_(1)
    model.norm.num_batches_tracked += 1
    model.norm.train()
    model.layer.bias.requires_grad_(False)
    model.layer.bias.grad = None
    model.items[0].add_(1)
    model.items[1]["a"].append(2)
    model.items[1]["b"] = 3
    model.bound(4)
    model.queue.append(3)
    model.names.add("b")
    model.order.move_to_end("a")
    model.rows.mul_(2)
    torch.rand(3, generator=model.generator)
    model.fresh = model.lock = None
    model.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    model = Everything()
    before, drawn = state(model), model.generator.get_state()
    with pytest.raises(KeyboardInterrupt) if fails else torch.no_grad(), untouched(model, ()):
        assert not any(part.training for part in model.modules())
        disturb(model)
        if fails:
            raise KeyboardInterrupt
    assert state(model) == before
    assert torch.equal(model.generator.get_state(), drawn)


def test_weights_are_remembered_where_they_are_written_or_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(written: Any) -> list[bool]:
        model = Everything()
        before = {name: x.clone() for name, x in model.state_dict().items()}
        with untouched(model, written), torch.no_grad():
            for x in (model.layer.weight, model.frozen.weight, model.norm.running_mean):
                x.add_(1)
        after = model.state_dict()
        return [
            torch.equal(after[f"{name}"], before[name])
            for name in ("layer.weight", "frozen.weight", "norm.running_mean")
        ]

    assert change(None) == [True, True, True]
    assert change(["layer.weight"]) == [True, False, True]
    monkeypatch.setattr("pruners.untouched.HELD", 16)
    assert change(None) == [False, False, False]
    assert change(["norm.running_mean"]) == [False, False, True]


def test_a_graph_in_training_stays_in_training() -> None:
    model, example = build("residual")
    graph = rewrite(Removal(tie_axes(trace(model, example)), {})).train()
    outputs, before = graph(*example), state(graph)
    with untouched(graph):
        assert not torch.equal(graph(*example), outputs)
    assert state(graph) == before
    assert torch.equal(graph(*example), outputs)


@pytest.mark.gpu
def test_a_model_on_a_gpu_stays_there() -> None:
    model, x = given("counter")
    model, before = model.cuda(), state(model.cuda())
    prune(model, x.cuda(), HALF)
    nas.prune(model, x, HALF, device="cuda")
    assert state(model) == before
