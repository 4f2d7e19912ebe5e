"""Inputs by keyword, masks of integers, outputs in dicts and dataclasses with nothing in some places, dropout in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruners import groups, load
from pruners.groups import prunable
from pruners.groups.dependency import tie_axes
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


@dataclass
class Output:
    """What a language model returns."""

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None
    loss: Tensor | None = None


pytree.register_dataclass(Output)


class Masked(nn.Module):
    """Attention over tokens that a mask of integers leaves in, with dropout; options are collected in keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.qkv, self.out = nn.Linear(12, 3 * 12), nn.Linear(12, 12)
        self.inner, self.outer = nn.Linear(12, 20), nn.Linear(20, 12)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, 7)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        x = self.embed(tokens)
        q, k, v = self.qkv(x).view(*tokens.shape, 3, 3, 4).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / 2
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, None] == 0, float("-inf"))
        y = (self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        x = x + self.outer(self.dropout(self.inner(x).relu()))
        hidden = (x,) if options.get("output_hidden") else None
        if options.get("as_dict"):
            return {"logits": self.head(x), "hidden": hidden, "loss": None}
        return Output(self.head(x), hidden)


def inputs(batch: int) -> dict[str, Any]:
    tokens = torch.randint(0, 11, (batch, 6))
    mask = torch.ones_like(tokens)
    mask[:, 4:] = 0
    return {"tokens": tokens, "attention_mask": mask}


def sizes(outputs: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), outputs)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("options", [{}, {"as_dict": True}, {"output_hidden": True, "as_dict": False}])
def test_outputs_keep_their_kind(batch: int, options: dict[str, bool], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    example = {**inputs(batch), **options}
    result = prune(model, example, {"macs": 0.9})
    result.save(tmp_path)
    for smaller in (result.model, load(tmp_path, Masked())):
        for more in (example, {**inputs(3), **options}):
            full, found = model(**more), smaller(**more)
            assert type(found) is type(full)
            assert sizes(found) == sizes(full)


def test_a_graph_drops_out_in_training() -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    graph = rewrite(Removal(tie_axes(trace(model, (), inputs(2))), {}))
    x = inputs(4)
    still = graph(**x).logits
    assert torch.equal(still, graph(**x).logits)
    training = graph.train()
    assert not torch.equal(training(**x).logits, training(**x).logits)
    assert torch.equal(still, training.eval()(**x).logits)


def test_the_forward_of_the_given_model_is_left_alone() -> None:
    model = Masked()
    prune(model, {**inputs(2), "as_dict": True}, {"macs": 0.8})
    assert "forward" not in vars(model)


class Odd(nn.Module):
    """Layers of every kind that loops over names meet; `tied` is `first` by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.one = nn.Linear(6, 12, bias=False), nn.ReLU(), nn.BatchNorm1d(1)
        self.inner, self.last = nn.Linear(12, 10), nn.Linear(10, 3)
        self.tied = nn.Linear(6, 12, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.inner(self.act(self.first(x) + self.tied(x))))
        return self.last(self.one(x[:, None])[:, 0])


class Empty(Odd):
    """A module that says it has no length, and is false."""

    def __len__(self) -> int:
        return 0


class Touchy(Odd):
    """A module whose truth must not be asked for, as that of a compiled one."""

    def __bool__(self) -> bool:
        raise TypeError("its truth was asked for")


def free(model: nn.Module, ignore: Sequence[str]) -> list[str]:
    return [group.name for group in prunable(groups(model, torch.randn(2, 6)), ignore, model)]


def test_every_name_in_the_model_may_be_ignored() -> None:
    model = Odd().eval()
    every = ["first.weight:0", "inner.weight:0"]
    assert free(model, []) == every
    assert free(model, ["act", "one", "one.weight", "one.num_batches_tracked"]) == every
    assert free(model, [name for name, part in model.named_modules() if isinstance(part, nn.ReLU)]) == every
    for name in ("first", "first.weight", "first.weight:0", "tied", "tied.weight"):
        assert free(model, [name]) == ["inner.weight:0"], name
    assert free(model, ["_orig_mod.last"]) == ["first.weight:0"] and free(model, [""]) == []
    with pytest.raises(ValueError, match=r"got 'firts'; did you mean: first"):
        free(model, ["act", "firts"])


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, lambda m: nn.Sequential(compiled(m))])
def test_a_compiled_module_is_pruned_as_the_one_inside(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    x, inside = torch.randn(4, 6), Odd().eval()
    model = wrap(inside)
    batches = [(torch.randn(8, 6), torch.tensor([0, 1] * 4))]
    result = prune(model, x, {"macs": 0.5}, importance="taylor", batches=batches, steps=2)
    assert result.summary.form == "module" and not any("_orig_mod" in name for name, _ in result.model.named_modules())
    prefix = "" if type(result.model) is Odd else "0."
    assert set(result.plan.removed) <= {f"{prefix}first.weight:0", f"{prefix}inner.weight:0"}
    result.save(tmp_path)
    for fresh in (Odd(), compiled(Odd())):
        again = load(tmp_path, nn.Sequential(fresh) if prefix else fresh)
        assert torch.equal(again(x), result.model(x))
    assert len(inside.first.weight) == 12


@pytest.mark.parametrize("make", [Empty, Touchy])
def test_the_truth_of_a_module_decides_nothing(make: type[Odd]) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(4, 6)
    batches = [(torch.randn(8, 6), torch.tensor([0, 1] * 4))]
    found = []
    for given in (model, Odd().eval()):
        given.load_state_dict(model.state_dict())

        def shift(smaller: nn.Module) -> None:
            with torch.no_grad():
                for p in smaller.parameters():
                    p.neg_().add_(0.1)

        found.append(prune(given, x, {"macs": 0.4}, importance="l1", steps=3, between=shift).plan.removed)
        found.append(prune(given, x, {"macs": 0.4}, importance="taylor", batches=batches).plan.removed)
    assert found[:2] == found[2:]


def test_nothing_to_remove_says_why() -> None:
    with pytest.raises(ValueError, match=r"model output: 1 \(weight:0\); model input: 1 \(weight:1\)"):
        prune(nn.Linear(6, 3), torch.randn(2, 6), {"macs": 0.5})
    with pytest.raises(
        ValueError, match=r"all of its \d groups are protected \(.*ignored: 2 \(first.weight:0, inner.w"
    ):
        prune(Odd().eval(), torch.randn(2, 6), {"macs": 0.5}, ignore=["first", "inner"])
    with pytest.raises(ValueError, match="it has no weights with widths"):
        prune(nn.ReLU(), torch.randn(2, 6), {"macs": 0.5})


@pytest.mark.filterwarnings("ignore")
def test_a_model_prepared_for_quantisation_is_refused_by_its_operators() -> None:
    import torch.ao.quantization as quantisation

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).train()
    model.qconfig = quantisation.get_default_qat_qconfig("fbgemm")
    prepared = quantisation.prepare_qat(model)
    with pytest.raises(
        ValueError, match=r"unknown operator aten\.\w*(fake_quant|_fq_)\w*.*: \d+ \(0.weight.*; prune the model befo"
    ):
        prune(prepared.eval(), torch.randn(2, 3, 8, 8), {"macs": 0.5})
