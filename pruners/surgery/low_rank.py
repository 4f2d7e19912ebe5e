"""Layers of low rank: a linear layer, or a convolution of kernel 1, as two, the first of which has few outputs.

A weight W (O, Q) becomes B A with A (r, Q) and B (O, r), which takes r (O + Q) multiply-accumulates in place of O Q. Which r
directions of its outputs stay is decided by what the layer computes: with second moments C of its inputs and U the eigenvectors of
W C Wᵀ, it becomes U_r U_rᵀ W, and a bias takes up the mean of what is lost.

Reference: Guo et al., PELA: Learning parameter-efficient models with low-rank approximation, CVPR 2024; Yuan et al., ASVD:
    Activation-aware singular value decomposition for compressing large language models, 2023 (inputs weigh).
Differs: directions are kept by what the outputs of the model lose where that is known; widths are cut first, and what is left is
    split; nothing is trained between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruners.groups import AxisGraph
from pruners.operators import arguments, owner
from pruners.surgery.rewrite import GraphModel

aten = torch.ops.aten
CONVOLUTIONS = {aten.conv1d.default: nn.Conv1d, aten.conv2d.default: nn.Conv2d}
PRODUCTS = (aten.linear.default, *CONVOLUTIONS)
FIRST_OF_TWO = "first_of_two"
"""What the note of an operator is called whose outputs only the second of two layers reads."""
SMALLEST = 1e-12  # of the largest singular value


@dataclass(frozen=True)
class Dense:
    """A layer that may become two.

    Attributes:
        name: its module.
        node: its operator.
        weight: placeholder of its weight, (outputs, inputs) with as many sizes of 1 behind as a convolution has dimensions.
    """

    name: str
    node: Node
    weight: Node


@dataclass(frozen=True)
class Known:
    """What the data say of a layer.

    Attributes:
        root: L with L Lᵀ = C, the second moments of its inputs, about the mean if the layer has a bias; (Q, Q), float64.
        mean: of its inputs, (Q,), float64.
        sensitivity: H: how the outputs of the model react to those of the layer, (O, O), float64; None if that is not known.
    """

    root: Tensor
    mean: Tensor
    sensitivity: Tensor | None = None


class Split(NamedTuple):
    """What a weight becomes: A (r, Q), B (O, r), and what is added to the bias (O,), if there is one."""

    first: Tensor
    second: Tensor
    shift: Tensor


def dense_layers(graph: AxisGraph, model: nn.Module) -> list[Dense]:
    """Layers that may become two, in order of execution: torch's own, called once, with weights that nothing else reads."""
    parts, trace = dict(model.named_modules()), graph.trace
    often: dict[int, int] = {}
    for name in graph.tensors:
        often[id(trace.tensor(name))] = often.get(id(trace.tensor(name)), 0) + 1
    found = []
    for node in trace.nodes:
        if node.op != "call_function" or node.target not in PRODUCTS:
            continue
        weight = arguments(node)["weight"]
        name = trace.tensors.get(weight.name, "").removesuffix(".weight")
        if trace.tensors.get(weight.name) != f"{name}.weight" or owner(node) != name or len(weight.users) > 1:
            continue
        tensor = trace.tensor(f"{name}.weight")
        own = isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and often[id(tensor)] == 1
        if own and tensor.shape[2:].numel() == 1 and _is_plain(parts.get(name)):
            found.append(Dense(name, node, weight))
    return found


def saving_rank(outputs: int, inputs: int) -> int:
    """The largest rank at which two layers take fewer multiply-accumulates than one; 0 if there is none."""
    return (outputs * inputs - 1) // (outputs + inputs)


def directions(spread: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of S Sᵀ, the largest first: shapes (k,) and (O, k), k = min(O, Q), of S (O, Q)."""
    if spread.shape[0] <= spread.shape[1]:
        values, vectors = torch.linalg.eigh(spread @ spread.t())
        return values.flip(0).clamp_min(0), vectors.flip(1)
    values, vectors = torch.linalg.eigh(spread.t() @ spread)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    sizes = values.sqrt()
    return values, spread @ vectors / sizes.clamp_min(SMALLEST * float(sizes[0]) or 1.0)


def split(weight: Tensor, rank: int, known: Known | None = None) -> Split:
    """The two factors of what a weight becomes at a rank.

    Args:
        weight: (outputs, inputs, ...), the rest of size 1.
        rank: at most the smaller of both.
        known: what the data say of the layer; without, all inputs count alike.
    """
    matrix = weight.detach().double().flatten(1)
    values, vectors = directions(matrix if known is None else matrix @ known.root)
    if known is not None and known.sensitivity is not None:
        values = values * ((known.sensitivity @ vectors) * vectors).sum(0)
    kept = vectors[:, values.argsort(descending=True, stable=True)[:rank]]
    first = kept.t() @ matrix
    shift = matrix.new_zeros(len(matrix)) if known is None else (matrix - kept @ first) @ known.mean
    size = first.norm(dim=1).sqrt()
    size = torch.where(size > 0, size, 1.0)  # so that both factors are of one size, as training likes
    return Split(first / size[:, None], kept * size, shift)


def truncate_(
    model: nn.Module,
    ranks: Mapping[str, int],
    known: Mapping[str, Known],
    full_name: Callable[[str], str] = str,
) -> dict[str, Split]:
    """Give layers weights of low rank, each still in one matrix.

    Args:
        model: of any form; changed in place.
        ranks: name of a layer in the full model to its rank; those that the model does not have are left out.
        known: what data say of some of them.
        full_name: from the name of a module here to that in the full model.

    Returns:
        The factors, by the name here.
    """
    found: dict[str, Split] = {}
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, part in model.named_modules():
            full = full_name(name)
            if full not in ranks or "weight" not in part._parameters:
                continue
            weight, bias = own[f"{name}.weight"], own.get(f"{name}.bias")
            found[name] = factors = split(weight, ranks[full], known.get(full))
            weight.copy_((factors.second @ factors.first).view_as(weight))
            if bias is not None:
                bias.add_(factors.shift.to(bias))
    return found


def factor_(model: nn.Module, factors: Mapping[str, Split]) -> None:
    """Replace layers by two each, `NAME.0` and `NAME.1`; a bias stays with the second.

    Args:
        model: of any form; changed in place.
        factors: of `truncate_`.
    """
    if isinstance(model, GraphModel):
        _factor_graph_(model, factors)
        return
    for name, found in factors.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))
        model.set_submodule(name, _two(layer, found))


def low_rank_(model: nn.Module, ranks: Mapping[str, int], full_name: Callable[[str], str] = str) -> None:
    """Replace layers by two of low rank, of which only the weights decide; see `truncate_`."""
    factor_(model, truncate_(model, ranks, {}, full_name))


def _is_plain(part: nn.Module | None) -> bool:
    plain_padding = getattr(part, "padding_mode", "zeros") == "zeros" and getattr(part, "groups", 1) == 1
    return type(part) in (nn.Linear, *CONVOLUTIONS.values()) and plain_padding


def _two(layer: nn.Linear | nn.Conv1d | nn.Conv2d, factors: Split) -> nn.Sequential:
    (rank, inputs), outputs, kind = factors.first.shape, len(factors.second), type(layer)
    given: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    of_kernel: tuple[int, ...] = ()
    where: dict[str, Any] = {}
    if not isinstance(layer, nn.Linear):
        of_kernel, where = (1,), {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    first = nn.utils.skip_init(kind, inputs, rank, *of_kernel, bias=False, **where, **given)
    second = nn.utils.skip_init(kind, rank, outputs, *of_kernel, bias=layer.bias is not None, **given)
    for part, values in ((first, factors.first), (second, factors.second)):
        part.weight = nn.Parameter(values.to(layer.weight).view_as(part.weight), layer.weight.requires_grad)
    second.bias = layer.bias
    return nn.Sequential(first, second).train(layer.training)


def _factor_graph_(model: GraphModel, factors: Mapping[str, Split]) -> None:
    """The operator keeps its name, and becomes the second of the two; one that runs again does so every time."""
    named = {f"{name}.weight": name for name in factors}
    biased = {name: "bias" in model.get_submodule(name)._parameters for name in factors}
    for name, found in factors.items():
        model.set_submodule(name, _halves(model.get_submodule(name), found))
    for node in [n for n in model.graph.nodes if n.op == "call_function" and n.target in PRODUCTS]:
        a = arguments(node)
        layer = named.get(str(a["weight"].target))
        if layer is None:
            continue
        with model.graph.inserting_before(node):
            first = model.graph.get_attr(f"{layer}.0.weight")
            second = model.graph.get_attr(f"{layer}.1.weight")
            moved = model.graph.get_attr(f"{layer}.1.bias") if biased[layer] else None
            inner = model.graph.call_function(node.target, (a["input"], first, None, *node.args[3:]), {}, "_inner")
        inner.meta.update(nn_module_stack=node.meta.get("nn_module_stack", {}), **{FIRST_OF_TWO: True})
        node.args, node.kwargs = (inner, second, moved), {}
        for old in (a["weight"], a["bias"]):
            if old is not None and not old.users:
                model.graph.erase_node(old)
    model.graph.lint()
    model.recompile()


def _halves(holder: nn.Module, factors: Split) -> nn.Sequential:
    """Holders of the tensors of two layers."""
    weight, bias = holder._parameters["weight"], holder._parameters.get("bias")
    assert weight is not None
    two = nn.Sequential(nn.Module(), nn.Module())
    for part, values in zip(two, (factors.first, factors.second), strict=True):
        shape = (*values.shape, *weight.shape[2:])
        part.register_parameter("weight", nn.Parameter(values.to(weight).view(shape), weight.requires_grad))
    if bias is not None:
        two[1].register_parameter("bias", bias)
    return two
