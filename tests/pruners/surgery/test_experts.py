"""Routed experts that are left out: their router no longer chooses them, in the graph, in the module and after loading."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import PruneResult, load, prune
from pruners.allocation import CostModel
from pruners.result import Summary, count
from pruners.surgery import Block, unneeded
from pruners.surgery.masked import difference, run_example
from tests.pruners.hugging_face import tiny, tokens
from tests.pruners.routed import Expert, Routed, build, every, skipping
from tests.pruners.surgery.test_blocks import Opened
from tests.pruners.test_routed import others

ROUTES = ("every", "skipping", "asking", "counting", "hit")


@cache
def opened(name: str) -> Opened:
    return Opened(*build(name, seed=len(name)))


def experts_of(model: Opened) -> list[Block]:
    return [block for block in model.blocks if block.route is not None]


def without(model: Opened, blocks: Sequence[Block]) -> PruneResult:
    cut = model.surgery.cut({}, blocks)
    proved = model.surgery.prove(cut)
    after = count(proved.model, model.args, {})
    assert after["params"] == CostModel(model.graph, model.model).without(*unneeded(model.graph.trace, blocks)).params(
        {}
    )
    summary = Summary({}, after, {}, proved.difference, proved.inside, cut.built.form, {}, {}, reason=cut.built.reason)
    return PruneResult(proved.model, proved.plan, summary)


def told(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of a routed network whose routers never choose some experts, which stay."""
    model = copy.deepcopy(model)
    for layer, router in enumerate(model.routers):
        gone = [int(name.split(".")[-1]) for name in names if name.startswith(f"experts.{layer}.")]
        if len(gone) == len(model.experts[layer]):
            for expert in model.experts[layer]:
                nn.init.zeros_(expert.down.weight)
                nn.init.zeros_(expert.down.bias)
        else:
            router.register_forward_hook(partial(silenced, gone))
    return model


def silenced(gone: list[int], module: nn.Module, args: Any, logits: Tensor) -> Tensor:
    logits = logits.clone()
    logits[..., gone] = -torch.inf
    return logits


@pytest.mark.parametrize("name", ROUTES)
def test_the_router_no_longer_chooses_what_is_left_out(name: str, tmp_path: Path) -> None:
    model = opened(name)
    experts = experts_of(model)
    assert [block.name for block in experts] == [
        f"experts.{layer}.{i}" for layer, held in enumerate(model.model.experts) for i in range(len(held))
    ]
    rng = torch.Generator().manual_seed(len(name))
    for number in (1, 2, 3):
        some = [experts[i] for i in torch.randperm(len(experts), generator=rng)[:number].tolist()]
        result = without(model, some)
        assert result.summary.form == "module", result.summary.reason
        assert result.summary.difference is not None and result.summary.difference < 1e-12
        assert not unneeded(model.graph.trace, some)[1] & result.model.state_dict().keys()
        reference = told(model.model, [block.name for block in some])
        result.save(tmp_path)
        again = load(tmp_path, model.model)
        for x in (model.args[0], *others()):
            with torch.no_grad():
                assert difference([result.model(x)], [reference(x)]) < 1e-12
                assert torch.equal(again(x), result.model(x))


class Functional(nn.Module):
    """A router that is no layer, beside experts; perhaps one whose logits are used for more than a choice."""

    def __init__(self, returned: bool = False) -> None:
        super().__init__()
        self.returned = returned
        self.router = nn.Parameter(torch.randn(3, 5))
        self.experts = nn.ModuleList(Expert(5, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        logits = F.linear(x, self.router)
        weights, chosen = logits.sigmoid().topk(1, -1)
        out = x + every(self.experts, x, weights, chosen)
        return out * logits.sum(-1, keepdim=True) if self.returned else out


def test_a_router_that_is_no_layer_leaves_a_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Opened(Functional().double().eval(), torch.randn(6, 5, dtype=torch.float64))
    gone = experts_of(model)[1]
    result = without(model, [gone])
    assert result.summary.form == "graph" and "router" in str(result.summary.reason)
    result.save(tmp_path)
    again = load(tmp_path, model.model)
    x = torch.randn(50, 5, dtype=torch.float64)
    rows = model.model.router.detach() @ x.T
    rows[1] = -torch.inf
    weights, chosen = rows.T.sigmoid().topk(1, -1)
    with torch.no_grad():
        expected = x + every(model.model.experts, x, weights, chosen)
        assert difference([result.model(x)], [expected]) < 1e-12 and torch.equal(again(x), result.model(x))


def test_an_expert_whose_router_is_needed_otherwise_adds_nothing() -> None:
    torch.manual_seed(0)
    model = Opened(Functional(returned=True).double().eval(), torch.randn(20, 5, dtype=torch.float64))
    experts = [block for block in model.blocks if block.name.startswith("experts.")]
    assert [block.route for block in experts] == [None] * 3
    assert model.without(experts[:1]).summary.form == "module"  # where macs are exact, too


def idle() -> tuple[nn.Module, Tensor]:
    """Two layers, in the first of which one expert never sees a token."""
    torch.manual_seed(0)
    model = Routed(skipping, 8, [12, 12, 12], 1).eval()
    with torch.no_grad():
        model.routers[0].bias[1] = -100.0
    return model, torch.randn(64, 3, 5)


def test_an_expert_that_sees_no_token_goes_first_at_no_damage() -> None:
    model, x = idle()
    whole, part = (sum(p.numel() for p in some.parameters()) for some in (model, model.experts[0][1]))
    result = prune(model, x[:4], {"params": whole - part}, batches=[x], depth=True, recover="none")
    assert result.summary.blocks == ("experts.0.1",) and not result.plan.removed and result.summary.form == "module"
    with torch.no_grad():
        assert torch.equal(result.model(x), model(x))


def test_experts_alone_meet_a_target_of_parameters(tmp_path: Path) -> None:
    model, x = idle()
    result = prune(model, x[:4], {"params": 0.6}, batches=[x], depth=True, ignore=["embed", "experts.1.2"])
    assert result.summary.after["params"] <= 0.6 * result.summary.before["params"]
    assert "experts.0.1" in result.summary.blocks and "experts.1.2" not in result.summary.blocks
    result.save(tmp_path)
    assert torch.equal(load(tmp_path, model)(x), result.model(x))


def test_a_target_of_macs_counts_that_tokens_go_elsewhere() -> None:
    model, x = idle()
    summary = prune(model, x[:4], {"macs": 0.5}, batches=[x], depth=True).summary
    assert summary.after["macs"] <= 0.5 * summary.before["macs"]


def test_experts_of_switch_transformers(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 4, "num_layers": 2, "num_sparse_encoder_layers": 1}
    model = tiny("SwitchTransformersEncoderModel", vocab_size=96, num_experts=4, **sizes)
    texts = tokens(2, 9)
    found = Opened(model, (texts, torch.ones_like(texts)))
    experts = experts_of(found)
    assert [block.name for block in experts] == [f"encoder.block.1.layer.1.mlp.experts.expert_{i}" for i in range(4)]
    result = without(found, experts[1:3])
    assert result.summary.form == "module", result.summary.reason
    result.save(tmp_path)
    again = load(tmp_path, model)
    assert difference(run_example(again, found.graph.trace), run_example(result.model, found.graph.trace)) == 0
