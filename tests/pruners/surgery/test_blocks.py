"""Blocks that can be left out: which there are, and that leaving them out is bypassing, in the graph and in the module."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import least_squares_, load
from pruners.allocation import CostModel
from pruners.groups import analyse, dependency_groups, keep_highest
from pruners.result import PruneResult, Summary, count
from pruners.surgery import Block, LeftOut, Surgery, removable_blocks, unneeded
from pruners.surgery.masked import difference, run_example
from tests.pruners.hugging_face import language, tiny, tokens
from tests.pruners.networks import build


class Branch(nn.Module):
    """One way of many to write a residual step, (B, E) to (B, E)."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 10), nn.Linear(10, width)
        self.gamma = nn.Parameter(torch.rand(width)) if kind in ("gated", "parallel") else None

    def f(self, x: Tensor) -> Tensor:
        return self.down(self.up(self.norm(x)).relu())

    def forward(self, x: Tensor) -> Tensor:
        steps: dict[str, Callable[[], Tensor]] = {
            "plain": lambda: x + self.f(x),
            "turned round": lambda: self.f(x) + x,
            "in place": lambda: self.f(x).add_(x),
            "scaled": lambda: torch.add(x, self.f(x), alpha=0.5),
            "subtracted": lambda: x - self.f(x),
            "gated": lambda: x + self.gamma * self.f(x),
            "copied": lambda: x.clone() + self.f(x),
            "rectified": lambda: (x + self.f(x)).relu(),
            "post-norm": lambda: self.norm(x + self.down(self.up(x).relu())),
            "parallel": lambda: self.gamma * x.sin() + self.f(x) + x,
        }
        return steps[self.kind]()


KINDS = (
    "plain",
    "turned round",
    "in place",
    "scaled",
    "subtracted",
    "gated",
    "copied",
    "rectified",
    "post-norm",
    "parallel",
)


class Net(nn.Module):
    """Residual steps in a row, or called one by one."""

    def __init__(self, kinds: list[str], looped: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        steps = [Branch(kind, 6) for kind in kinds]
        self.steps = nn.ModuleList(steps) if looped else nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if isinstance(self.steps, nn.Sequential):
            return self.head(self.steps(x))
        for step in self.steps:
            x = step(x)
        return self.head(x)


def random_net(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    kinds = [KINDS[int(i)] for i in torch.randint(len(KINDS), (3,))]
    return Net(kinds, bool(seed % 2)).double().eval(), torch.randn(4, 5, dtype=torch.float64)


class Opened:
    """A model, its trace and what may be left out of it."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.model, self.args = model, example if isinstance(example, tuple) else (example,)
        self.graph = analyse(model, self.args, {})
        self.groups = dependency_groups(self.graph)
        self.blocks = removable_blocks(self.graph)
        self.surgery = Surgery(model, self.graph, self.groups, 1e-4)

    def without(self, blocks: list[Block], keep: dict[Any, Tensor] | None = None) -> PruneResult:
        cut = self.surgery.cut(keep or {}, blocks)
        proved = self.surgery.prove(cut)
        after = count(proved.model, self.args, {})
        cost = CostModel(self.graph, self.model).without(*unneeded(self.graph.trace, blocks))
        assert after["macs"] == cost.macs(cut.removal.counts) and after["params"] == cost.params(cut.removal.counts)
        summary = Summary(
            {}, after, {}, proved.difference, proved.inside, cut.built.form, {}, {}, reason=cut.built.reason
        )
        return PruneResult(proved.model, proved.plan, summary)


def assert_comes_back(opened: Opened, result: PruneResult, folder: Path) -> None:
    result.save(folder)
    again = load(folder, opened.model)
    trace = opened.graph.trace
    assert difference(run_example(again, trace), run_example(result.model, trace)) == 0
    assert again.state_dict().keys() == result.model.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_residual_step_is_a_block_however_it_is_written(kind: str) -> None:
    torch.manual_seed(0)
    opened = Opened(Net([kind], False).double().eval(), torch.randn(4, 5, dtype=torch.float64))
    own = {name for name, _ in opened.model.steps.named_parameters(prefix="steps")}
    own -= {"steps.0.norm.weight", "steps.0.norm.bias"} if kind == "post-norm" else set()
    assert opened.blocks and frozenset(own) == frozenset().union(*(block.tensors for block in opened.blocks))


@pytest.mark.parametrize("seed", range(6))
def test_any_subset_of_the_blocks_of_a_random_net_leaves_a_module(seed: int, tmp_path: Path) -> None:
    opened = Opened(*random_net(seed))
    subsets = [list(some) for n in range(1, len(opened.blocks) + 1) for some in combinations(opened.blocks, n)]
    rng = torch.Generator().manual_seed(seed)
    for i in torch.randperm(len(subsets), generator=rng)[:4].tolist():
        result = opened.without(subsets[i])
        gone = unneeded(opened.graph.trace, subsets[i])[1]
        assert result.summary.form == "module", result.summary.reason
        assert result.summary.difference is not None and result.summary.difference < 1e-9
        assert not gone & result.model.state_dict().keys()
        assert_comes_back(opened, result, tmp_path)
        pickled = pickle.loads(pickle.dumps(result.model))
        x = torch.randn(7, 5, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(pickled(x), result.model(x))


def test_a_sum_of_several_loses_each_term_but_the_first() -> None:
    opened = Opened(*build("looped experts"))
    assert sorted(block.name for block in opened.blocks) == ["add_3", "experts.0", "experts.1", "experts.2"]
    whole, *experts = opened.blocks
    assert unneeded(opened.graph.trace, experts) == unneeded(opened.graph.trace, [whole])
    for some in ([experts[1]], [experts[0], experts[2]], experts):
        opened.without(some)


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
WINDOWS = {
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "use_sliding_window": True,
    "sliding_window": 4,
}
TINY: dict[str, Callable[[], nn.Module]] = {
    "Llama": lambda: language("LlamaForCausalLM", **SIZES),
    "Qwen2": lambda: language("Qwen2ForCausalLM", num_key_value_heads=2, **WINDOWS, **SIZES),
    "GPT-2": lambda: language("GPT2LMHeadModel", bos_token_id=1, eos_token_id=2, hidden_size=32, n_layer=3, n_head=4),
    "GPT-NeoX": lambda: language("GPTNeoXForCausalLM", **SIZES),
    "BERT": lambda: tiny("BertModel", vocab_size=96, **SIZES),
    "ViT": lambda: tiny("ViTForImageClassification", image_size=28, patch_size=7, **SIZES),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_whole_layers_and_parts_of_transformers(name: str, tmp_path: Path) -> None:
    model = TINY[name]()
    opened = Opened(model, torch.randn(1, 3, 28, 28) if name == "ViT" else tokens(1, 9))
    second = [block for block in opened.blocks if any(".1." in tensor for tensor in block.tensors)]
    assert len(second) >= 2 and all(".0." not in tensor for block in second for tensor in block.tensors)
    result = opened.without(second)
    assert result.summary.form == "module", result.summary.reason
    assert result.model.config.num_hidden_layers == 2 and len(result.plan.dropped) == 1
    assert_comes_back(opened, result, tmp_path)
    again = type(model)(result.model.config)
    again.load_state_dict(result.model.state_dict())
    trace = opened.graph.trace
    assert difference(run_example(again.eval(), trace), run_example(result.model, trace)) < 1e-6
    for part in result.model.modules():
        assert getattr(part, "layer_idx", 0) in (0, 1, None)
    for block in second[-2:]:
        result = opened.without([block])
        assert result.summary.form == "module" and not result.plan.dropped, result.summary.reason
        assert any(isinstance(part, LeftOut) for part in result.model.modules())
        assert_comes_back(opened, result, tmp_path)


def test_blocks_and_widths_together(tmp_path: Path) -> None:
    opened = Opened(TINY["Llama"](), tokens(1, 9))
    widths = [group for group in opened.groups if "mlp.gate_proj.weight:0" in group.name]
    keep = {group.axis: keep_highest(torch.rand(group.size), 16) for group in widths}
    second = [block for block in opened.blocks if "layers.1." in block.name]
    result = opened.without(second, keep)
    assert result.summary.form == "module" and list(result.plan.removed) == [widths[0].name, widths[2].name]
    assert result.model.model.layers[1].mlp.up_proj.out_features == 32
    assert result.plan.full_name("model.layers.1.mlp") == "model.layers.2.mlp"
    assert_comes_back(opened, result, tmp_path)
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    batches = [tokens(8, 9)]
    least_squares_(result.model, opened.model, result.plan, batches)
    assert all(torch.isfinite(tensor).all() for tensor in result.model.state_dict().values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in result.model.state_dict().items())


def test_a_proof_in_another_type_knows_of_blocks() -> None:
    opened = Opened(*build("residual"))
    surgery = Surgery(opened.model, opened.graph, opened.groups, 1e-4, check_dtype=torch.float64)
    proved = surgery.prove(surgery.cut({}, opened.blocks))
    assert proved.difference is not None and proved.difference < 1e-9


def test_a_forward_that_looks_inside_what_is_left_out_leaves_a_graph() -> None:
    opened = Opened(*build("torch encoder"))
    result = opened.without([block for block in opened.blocks if block.name == "layer.linear1"])
    assert result.summary.form == "graph" and "LeftOut" in str(result.summary.reason)


class OnInput(nn.Module):
    """A residual part on the input itself, which fx renames where a model calls it `input`."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.last(input + self.part(input))


def test_a_block_on_the_input_itself_goes() -> None:
    torch.manual_seed(0)
    model, x = OnInput().eval(), torch.randn(2, 5)
    graph = analyse(model, (x,), {})
    (block,) = removable_blocks(graph)
    surgery = Surgery(model, graph, dependency_groups(graph), 1e-4)
    smaller = surgery.prove(surgery.cut({}, [block])).model
    torch.testing.assert_close(smaller(x), model.last(x))
