"""From what is kept to a smaller model: the module itself with its attributes mended, or the rewritten graph."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pruners.operators import Axis, leaves, owner, tensors_in
from pruners.surgery.masked import difference, run_example
from pruners.surgery.rewrite import GraphModel, Removal, sliced
from search_spaces.core import first_line

Form = Literal["module", "graph"]
SHAKEN = 65_536  # entries of a tensor that get noise, at most


class Built(NamedTuple):
    """A smaller model.

    Attributes:
        model: in eval mode.
        form: which of two things it is.
        mended: names of the attributes that were changed for it, as "blocks.0.heads".
        reason: of a graph, why the module's forward cannot express the smaller shapes: its error, or that its outputs differ.
        dropped: names of the layers that went from their list, so that those behind them have other names.
    """

    model: nn.Module
    form: Form
    mended: tuple[str, ...] = ()
    reason: str | None = None
    dropped: tuple[str, ...] = ()


def build(removal: Removal, model: nn.Module, graph_model: GraphModel, tolerance: float) -> Built:
    """Build the smaller model, as a copy of the module where its forward can express it, else as the rewritten graph.

    Of the module's attributes only those are changed without which it does not return the same.

    Args:
        removal: what stays.
        model: the full model; it is not changed.
        graph_model: the rewritten graph of the removal.
        tolerance: largest relative difference allowed between the two forms.
    """
    changes = attribute_changes(removal, model)
    kinds = _by_kind(model, changes)
    reasons = []

    def attempt(names: Collection[str]) -> nn.Module | None:
        try:
            module = cut_module(removal, model, graph_model, {name: changes[name] for name in names})
            if agrees(module, graph_model, removal, tolerance):
                return module
            reasons.append("its outputs differ")
        except Exception as error:  # the module cannot be copied, or its forward cannot express the smaller shapes
            reasons.append(first_line(error))
        return None

    mended = set(changes).difference(*kinds)
    module = attempt(mended)
    if module is None and kinds:
        mended = set(changes)
        module = attempt(mended)
        for kind in kinds:
            if (leaner := attempt(mended - kind)) is not None:
                module, mended = leaner, mended - kind
    if module is None:
        return Built(graph_model, "graph", reason=reasons[:2][-1])  # with everything mended, where anything can be
    return Built(module, "module", tuple(sorted(mended)))


def cut_module(removal: Removal, model: nn.Module, graph_model: GraphModel, attributes: Mapping[str, Any]) -> nn.Module:
    """A copy of a module with the graph's tensors and some attributes changed; its forward may or may not run."""
    module = copy.deepcopy(model, _smaller_tensors(removal, model, graph_model)).eval()
    for part in module.modules():
        _mend_layer(part)
    for node in removal.graph.trace.nodes:
        _mend_groups(removal, node, module)
    for name, value in attributes.items():
        holder, _, key = name.rpartition(".")
        setattr(module.get_submodule(holder), key, value)
    return module


def agrees(module: nn.Module, other: nn.Module, removal: Removal, tolerance: float) -> bool:
    """Whether two forms of a smaller model, which share their tensors, return the same, also with noise added to the weights.

    The noise brings to light what zeros hide: a head that starts at zero makes any two models agree.
    """

    def same() -> bool:
        trace = removal.graph.trace
        return difference(run_example(module, trace), run_example(other, trace)) <= tolerance

    if not same():
        return False
    with _shaken(other):
        return same()


@contextmanager
def _shaken(model: nn.Module) -> Iterator[None]:
    """Add noise to entries of every parameter, in large ones to some in every row and column, and take it back."""
    noise = torch.randn(SHAKEN, generator=torch.Generator().manual_seed(0))
    saved = []
    with torch.no_grad():
        for p in model.parameters():
            step = max(1, -(-p.numel() // SHAKEN))
            while math.gcd(step, p.numel()) > 1:  # so that no dimension divides it
                step += 1
            entries = p.as_strided((-(-p.numel() // step),), (step,))
            saved.append((entries, entries.clone()))
            spread = float(entries.std()) if len(entries) > 1 else 0.0
            entries.add_(noise[: len(entries)].to(p), alpha=0.1 * (spread or 1.0))
    try:
        yield
    finally:
        with torch.no_grad():
            for entries, values in saved:
                entries.copy_(values)


def _smaller_tensors(removal: Removal, model: nn.Module, graph_model: GraphModel) -> dict[int, Any]:
    """Tensors of a model, by id, and what they become: the graph's own. Tensors that were one stay one."""
    cut = {**dict(graph_model.named_parameters()), **dict(graph_model.named_buffers())}
    found: dict[int, Any] = {}
    for name, part in model.named_modules():
        held = {**part._parameters, **part._buffers, **part.__dict__}  # constants are kept as plain attributes
        for key, tensor in held.items():
            full = f"{name}.{key}".lstrip(".")
            if isinstance(tensor, torch.Tensor) and full in removal.graph.tensors and id(tensor) not in found:
                found[id(tensor)] = cut[full] if full in cut else sliced(removal, full)
    return {**computed_tensors(model), **found}


def computed_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Tensors that a model holds from an earlier run with gradients (a normalised weight, features), by id, without their history.

    As a memo they let a model be copied that `copy.deepcopy` would refuse.
    """
    return {id(x): x.detach() for part in model.modules() for x in tensors_in(vars(part)) if not x.is_leaf}


def size_changes(removal: Removal) -> dict[str, dict[int, set[int]]]:
    """For each module, the sizes that its own operators work with and what they become."""
    changes: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for node in removal.graph.trace.nodes:
        if node.op != "call_function":
            continue
        for source in (node, *node.all_input_nodes):
            for dims in removal.graph.results(source):
                for axis in _parts(dims):
                    changes[owner(node)][axis.size].add(removal.size(axis))
    return changes


def _parts(dims: list[Axis]) -> Iterator[Axis]:
    """The axes of a tensor and everything that they are made of."""
    for axis in dims:
        yield axis
        yield from leaves(axis)


def _mend_layer(layer: nn.Module) -> None:
    """Attributes of torch's own layers follow from the shapes of their tensors."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Bilinear):
        layer.out_features, layer.in1_features, layer.in2_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
        layer.num_channels = len(layer.weight)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
    elif isinstance(layer, _NormBase):
        tensor = layer.weight if layer.weight is not None else layer.running_mean
        layer.num_features = layer.num_features if tensor is None else len(tensor)


def _mend_groups(removal: Removal, node: Node, module: nn.Module) -> None:
    """Groups of convolutions and group norms, and with them the channels."""
    _, named = removal.call(node) if node.op == "call_function" else (None, {})
    name = next((name for name in ("groups", "num_groups") if name in named), None)
    layer = module.get_submodule(owner(node)) if name else None
    if name == "num_groups" and isinstance(layer, nn.GroupNorm):
        layer.num_groups = named[name]
    elif isinstance(layer, _ConvNd) and isinstance(named["groups"], int):
        layer.groups = named["groups"]
        first, second = layer.weight.shape[:2]
        layer.out_channels, layer.in_channels = first, second * layer.groups
        if layer.transposed:
            layer.out_channels, layer.in_channels = second * layer.groups, first


def attribute_changes(removal: Removal, model: nn.Module) -> dict[str, Any]:
    """New values for integer attributes of modules that seem to hold a size.

    An attribute is proposed if it equals a size that its module's operators work with, and if that size changes to one
    number only.

    Nothing says whether an attribute means that size: the comparison with the graph decides. Of torch's own layers, only the
    recurrent ones and attention have sizes that do not follow from the tensors that they hold themselves.
    """
    pairs = size_changes(removal)
    changes = {}
    for name, part in model.named_modules():
        if _is_torchs(part) and not isinstance(part, (nn.RNNBase, nn.MultiheadAttention)):
            continue
        changed = {old: new - {old} for old, new in pairs.get(name, {}).items() if old > 1}
        certain = {old: next(iter(new)) for old, new in changed.items() if len(new) == 1}
        for key, value in vars(part).items():
            new = _replaced(value, certain)
            if not key.startswith("_") and new is not value and new != value:
                changes[f"{name}.{key}".lstrip(".")] = new
    return changes


def _by_kind(model: nn.Module, names: Iterable[str]) -> list[set[str]]:
    """Attributes that mean the same, having one name in one class; those of torch's own layers are beyond doubt and in no kind."""
    kinds: dict[tuple[type, str], set[str]] = defaultdict(set)
    for name in names:
        holder, _, key = name.rpartition(".")
        part = model.get_submodule(holder)
        if not _is_torchs(part):
            kinds[type(part), key].add(name)
    return list(kinds.values())


def _is_torchs(part: nn.Module) -> bool:
    return type(part).__module__.startswith("torch.nn.modules")


def _replaced(value: Any, sizes: Mapping[int, int]) -> Any:
    """An integer, or some of a sequence of integers, in their new sizes; anything else as it is."""
    if type(value) is int:
        return sizes.get(value, value)
    if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
        make = getattr(value, "_make", type(value))  # a named tuple's takes all of them in one argument
        return make(sizes.get(item, item) for item in value)
    return value
