"""Routed experts that are left out: their router no longer chooses them, in the graph, in the module and after loading."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import PrunableSpace, PruneResult, load, prune, remap_optimizer
from pruners.allocation import CostModel
from pruners.allocation.selection import _staying
from pruners.operators import Axis
from pruners.result import Summary, count
from pruners.surgery import Block, configure, unneeded
from pruners.surgery.masked import difference, run_example
from tests.pruners.hugging_face import language, tiny, tokens
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
    rows = {Axis(1): block for block in blocks if block.rows}
    cost = CostModel(model.graph, model.model).with_blocks(rows).without([], unneeded(model.graph.trace, blocks)[1])
    assert after["params"] == cost.params(dict.fromkeys(rows, 0))
    fits = configure(proved.model, model.model, cut.removal)
    form, reason = cut.built.form, cut.built.reason
    summary = Summary({}, after, {}, proved.difference, proved.inside, form, {}, {}, configuration=fits, reason=reason)
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
    for number in (1, 3):
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


def test_a_second_prune_leaves_out_more(tmp_path: Path) -> None:
    model = opened("every")
    first = without(model, experts_of(model)[:1])
    again = Opened(first.model, model.args[0])
    result = without(again, experts_of(again)[1:2])
    assert result.summary.form == "module" and result.plan.blocks == ("experts.0.2",)
    result.save(tmp_path)
    reference, loaded = told(model.model, ["experts.0.0", "experts.0.2"]), load(tmp_path, model.model)
    for x in others():
        with torch.no_grad():
            assert difference([result.model(x)], [reference(x)]) < 1e-12
            assert torch.equal(loaded(x), result.model(x))


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


def test_macs_count_that_tokens_go_to_other_experts() -> None:
    net, x = idle()
    model = Opened(net, x[:4])
    some = experts_of(model)[2:4]
    axes = {Axis(1): block for block in some}
    cost = CostModel(model.graph, net).with_blocks(axes)
    assert without(model, some).summary.after["macs"] == cost.macs(dict.fromkeys(axes, 0)) == cost.macs({})


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


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
ROUTED = {**SIZES, "intermediate_size": 24, "num_experts_per_tok": 2, "pad_token_id": 0}
PACKED = {
    "Mixtral": ("num_local_experts", lambda n: language("MixtralForCausalLM", num_local_experts=n, **ROUTED)),
    "Qwen2-MoE": ("num_experts", lambda n: language("Qwen2MoeForCausalLM", num_experts=n, moe_intermediate_size=12, **ROUTED)),
    "GPT-OSS": ("num_local_experts", lambda n: language("GptOssForCausalLM", num_local_experts=n, head_dim=8, **ROUTED)),
}  # fmt: skip


@cache
def packed(name: str) -> Opened:
    return Opened(PACKED[name][1](5), tokens(2, 9))


@pytest.mark.parametrize("name", PACKED)
def test_experts_in_common_tensors_leave_the_model_of_fewer(name: str, tmp_path: Path) -> None:
    model = packed(name)
    experts = experts_of(model)
    assert [block.name for block in experts] == [
        f"model.layers.{layer}.mlp.experts.{i}" for layer in range(2) for i in range(5)
    ]
    result = without(model, [experts[i] for i in (1, 3, 5, 8)])
    assert result.summary.form == "module", result.summary.reason
    assert result.summary.configuration and getattr(result.model.config, PACKED[name][0]) == 3
    expected = PACKED[name][1](3)
    state = dict(model.model.state_dict())
    for key, tensor in state.items():
        if tensor.shape[0] == 5:
            state[key] = tensor[[0, 2, 4] if ".layers.0." in key else [1, 2, 4]]
    expected.load_state_dict(state)
    result.save(tmp_path)
    again = load(tmp_path, model.model)
    for x in (model.args[0], tokens(3, 7)):
        with torch.no_grad():
            assert difference([result.model(x).logits], [expected(x).logits]) < 1e-5
            assert torch.equal(again(x).logits, result.model(x).logits)
    result.model.save_pretrained(tmp_path / "hf")
    with torch.no_grad():
        assert difference([type(expected).from_pretrained(tmp_path / "hf")(x).logits], [expected(x).logits]) < 1e-5


def test_unequal_numbers_of_experts_load_again(tmp_path: Path) -> None:
    model = packed("Mixtral")
    result = without(model, experts_of(model)[:2])
    assert result.summary.form == "module" and not result.summary.configuration
    result.save(tmp_path)
    trace = model.graph.trace
    again = load(tmp_path, model.model)
    assert difference(run_example(again, trace), run_example(result.model, trace)) == 0
    assert [layer.mlp.experts.num_experts for layer in again.model.layers] == [3, 5]


class Picked(nn.Module):
    """Packed experts that are taken for each token by their number, which is returned, too."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(5, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 5, 6)), nn.Parameter(torch.randn(4, 6, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        each = chosen.reshape(-1)
        inner = torch.bmm(x.repeat_interleave(2, 0).unsqueeze(1), self.up[each]).relu()
        out = torch.bmm(inner, self.down[each]).squeeze(1) * weights.reshape(-1, 1)
        return x + out.view(-1, 2, 5).sum(1), chosen


def test_where_numbers_of_experts_are_returned_they_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Opened(Picked().double().eval(), torch.randn(6, 5, dtype=torch.float64))
    result = without(model, experts_of(model)[1:2])
    assert result.summary.form == "graph"
    result.save(tmp_path)
    again, reference = load(tmp_path, model.model), copy.deepcopy(model.model)
    reference.router.register_forward_hook(partial(silenced, [1]))
    for rows in (1, 6, 50):
        x = torch.randn(rows, 5, dtype=torch.float64)
        with torch.no_grad():
            expected, found = reference(x), result.model(x)
            assert difference(list(found), list(expected)) < 1e-12 and torch.equal(again(x)[0], found[0])


@pytest.mark.parametrize("index", [0, 2])
def test_rows_that_a_loop_takes_one_by_one(index: int, tmp_path: Path) -> None:
    model = opened("sliced")
    gone = experts_of(model)[index]
    assert gone.route is not None and gone.route.index == index and {"down", "gate_up"} < set(gone.rows)
    result = without(model, [gone])
    assert len(result.model.get_parameter("gate_up")) == 2
    result.save(tmp_path)
    again, reference = load(tmp_path, model.model), copy.deepcopy(model.model)
    reference.router.register_forward_hook(partial(silenced, [index]))
    for x in (model.args[0], *others()):
        with torch.no_grad():
            assert difference([result.model(x)], [reference(x)]) < 1e-12
            assert torch.equal(again(x), result.model(x))


def test_as_many_experts_stay_as_a_token_is_routed_to() -> None:
    model = packed("Mixtral")
    with pytest.raises(
        ValueError, match="as many experts must stay as a token is routed to, 2 of .* got 1; ask for less"
    ):
        model.surgery.cut({}, experts_of(model)[:4])


def test_idle_experts_of_mixtral_go_first(tmp_path: Path) -> None:
    model = language("MixtralForCausalLM", num_local_experts=6, **{**ROUTED, "num_hidden_layers": 1})
    gate = model.model.layers[0].mlp.gate.weight.data
    gate[1], gate[3], gate[4:] = -gate[0], -gate[2], 0  # of two opposite logits one is larger than zero
    whole = sum(p.numel() for p in model.parameters())
    parts = (model.model.layers[0].mlp.experts.gate_up_proj, model.model.layers[0].mlp.experts.down_proj)
    target = whole - 2 * (sum(p[0].numel() for p in parts) + 16)
    x = tokens(16, 9)
    result = prune(model, x[:2], {"params": target}, batches=[x], depth=True)
    assert result.summary.blocks == ("model.layers.0.mlp.experts.4", "model.layers.0.mlp.experts.5")
    with torch.no_grad():
        assert result.summary.configuration and difference([result.model(x).logits], [model(x).logits]) < 1e-5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).logits.sum().backward()
    optimizer.step()
    remapped = remap_optimizer(optimizer, model, result).state
    momentum = optimizer.state[parts[1]]["momentum_buffer"][:4]
    assert torch.equal(remapped[result.model.model.layers[0].mlp.experts.down_proj]["momentum_buffer"], momentum)


def test_every_point_of_a_space_with_experts_is_a_model() -> None:
    model = packed("Mixtral").model
    space = PrunableSpace(model, tokens(2, 9), steps=2)
    rng = np.random.default_rng(0)
    arch = space.space.sample(rng)
    assert any(block.rows and arch.get(name) == "leave out" for name, block in space.blocks.items())
    assert space.build(arch, every_size=False).summary.after["params"] == space.costs(arch)["params"]


def test_what_is_dearest_is_kept_as_far_as_tokens_need_it() -> None:
    blocks = packed("Mixtral").blocks
    damages = {block.name: float(len(blocks) - i) for i, block in enumerate(blocks)}
    dearest = [f"model.layers.{layer}.mlp.experts.{i}" for layer in range(2) for i in range(2)]
    assert _staying(blocks, damages) == dearest
