"""From what is kept to a smaller model: the module itself with its attributes mended, or the rewritten graph."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pruners.operators import owner, tensors_in
from pruners.surgery.attributes import (
    attribute_changes,
    attribute_options,
    expected_values,
    is_torchs,
    set_attribute,
    settle,
)
from pruners.surgery.folding import Folded, Scale, float_attributes, fold, scales
from pruners.surgery.masked import difference, run_example
from pruners.surgery.rewrite import GraphModel, Removal, sliced
from search_spaces.core import first_line

Form = Literal["module", "graph"]
GATES = {"LSTM": 4, "GRU": 3}  # of a recurrent layer; 1 of others
SHAKEN = 65_536  # entries of a tensor that get noise, at most


class Built(NamedTuple):
    """A smaller model.

    Attributes:
        model: in eval mode.
        form: which of two things it is.
        mended: names of the attributes that were changed for it, as "blocks.0.heads".
        reason: of a graph, why the module's forward cannot express the smaller shapes: its error, or that its outputs differ.
        dropped: names of the layers that went from their list, so that those behind them have other names.
        attributes: those of the changed attributes whose new values do not follow from their names, by name.
        folded: what parameters were multiplied by, since the forward computes another constant from a smaller size.
        at: of a graph, names of the modules whose forward cannot, the innermost first.
    """

    model: nn.Module
    form: Form
    mended: tuple[str, ...] = ()
    reason: str | None = None
    dropped: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})
    folded: Folded = MappingProxyType({})
    at: tuple[str, ...] = ()


def build(removal: Removal, model: nn.Module, graph_model: GraphModel, tolerance: float) -> Built:
    """Build the smaller model, as a copy of the module where its forward can express it, else as the rewritten graph.

    Of the module's attributes only those are changed without which it does not return the same. A model with a configuration
    gets the constants that one with smaller sizes is built with, so that the configuration may describe it.

    Args:
        removal: what stays.
        model: the full model; it is not changed.
        graph_model: the rewritten graph of the removal.
        tolerance: largest relative difference allowed between the two forms.
    """
    return build_beside(removal, model, graph_model, tolerance)[0]


def build_beside(
    removal: Removal, model: nn.Module, graph_model: GraphModel, tolerance: float
) -> tuple[Built, GraphModel]:
    """Build the smaller model, and return with it the graph that shares its tensors: the given one, or one with constants folded."""
    known = scales(removal)
    every = (
        _Variant(removal, model, graph_model, tolerance).folding(known) if known and has_configuration(model) else None
    )
    if every is not None and (built := every.built(float_attributes(model, known))) is not None:
        return built, every.graph_model
    variant = _Variant(removal, model, graph_model, tolerance)
    folding: list[Scale] = []
    while True:
        if (built := variant.built()) is not None or (built := variant.searched()) is not None:
            return built, variant.graph_model
        parts: dict[str, nn.Module] = dict(model.named_modules())
        kinds = {type(parts[name]) for name in variant.at}
        more = [s for s in known if s not in folding and type(parts.get(owner(s.node))) in kinds]
        if not more:
            return Built(graph_model, "graph", reason=variant.reason, at=variant.at), graph_model
        folding += more
        following = variant.folding(folding)
        if following is None:
            return Built(graph_model, "graph", reason=variant.reason, at=variant.at), graph_model
        variant = following


class _Variant:
    """Attempts to build a module with the tensors of one graph.

    Attributes:
        reason: why the last attempt failed.
        at: the modules that ran when it did, the innermost first; empty where nobody looked.
    """

    def __init__(
        self,
        removal: Removal,
        model: nn.Module,
        graph_model: GraphModel,
        tolerance: float,
        folded: Folded | None = None,
    ) -> None:
        self.removal, self.model, self.graph_model, self.tolerance = removal, model, graph_model, tolerance
        self.folded = folded or {}
        self.changes = attribute_changes(removal, model)
        self.reason = ""
        self.at: tuple[str, ...] = ()

    def folding(self, some: Collection[Scale]) -> _Variant | None:
        """The same with some constants folded into layers; None where that changes what the graph returns."""
        folded_graph, folded = fold(self.removal, some)
        trace = self.removal.graph.trace
        if difference(run_example(folded_graph, trace), run_example(self.graph_model, trace)) > self.tolerance:
            return None
        return _Variant(self.removal, self.model, folded_graph, self.tolerance, folded)

    def built(self, others: Mapping[str, Any] | None = None) -> Built | None:
        """The module with all attributes changed that seem to hold a size, and then with as few as possible, beside others."""
        kinds = _by_kind(self.model, self.changes)
        mended = set(self.changes).difference(*kinds)
        module = self._attempt(mended, others)
        if module is None and kinds:
            mended = set(self.changes)
            module = self._attempt(mended, others)
            for kind in kinds if module is not None else ():
                if (leaner := self._attempt(mended - kind, others)) is not None:
                    module, mended = leaner, mended - kind
        if module is None:
            return None
        names = tuple(sorted({*mended, *(others or {})}))
        return Built(module, "module", names, attributes=dict(others or {}), folded=self.folded)

    def searched(self) -> Built | None:
        """The module with those attributes changed that prove to be needed, one module after the other."""
        try:
            module = cut_module(self.removal, self.model, self.graph_model, {})
        except Exception:  # it cannot be copied
            return None
        trace = self.removal.graph.trace
        expected = expected_values(self.graph_model, trace)
        changed, failure = settle(module, attribute_options(self.removal, self.model), expected, trace, self.tolerance)
        if failure is not None:
            self.reason, self.at = failure.reason, failure.chain
            return None
        try:
            if agrees(module, self.graph_model, self.removal, self.tolerance):
                return Built(module, "module", tuple(sorted(changed)), attributes=changed, folded=self.folded)
            self.reason = "its outputs differ"
        except Exception as error:
            self.reason = first_line(error)
        return None

    def _attempt(self, names: Collection[str], others: Mapping[str, Any] | None) -> nn.Module | None:
        changes = {name: self.changes[name] for name in names} | dict(others or {})
        try:
            module = cut_module(self.removal, self.model, self.graph_model, changes)
            if agrees(module, self.graph_model, self.removal, self.tolerance):
                return module
            self.reason = "its outputs differ"
        except Exception as error:  # the module cannot be copied, or its forward cannot express the smaller shapes
            self.reason = first_line(error)
        return None


def has_configuration(model: nn.Module) -> bool:
    """Whether a part of a model has a Hugging Face configuration."""
    return any(is_configuration(getattr(part, "config", None)) for part in model.modules())


def is_configuration(value: Any) -> bool:
    """Whether something is the configuration of a Hugging Face model."""
    return not isinstance(value, type) and all(
        callable(getattr(value, n, None)) for n in ("to_dict", "save_pretrained")
    )


def cut_module(removal: Removal, model: nn.Module, graph_model: GraphModel, attributes: Mapping[str, Any]) -> nn.Module:
    """A copy of a module with the graph's tensors and some attributes changed; its forward may or may not run."""
    module = copy.deepcopy(model, _smaller_tensors(removal, model, graph_model)).eval()
    for part in module.modules():
        mend_layer(part)
    parts = dict(module.named_modules())
    for node in removal.graph.trace.nodes:
        layer = parts.get(owner(node))  # operators of the exporter have none
        if layer is not None and is_torchs(layer) and isinstance(node.target, torch._ops.OpOverload):
            _mend_from_operator(removal, node, layer)
    for name, value in attributes.items():
        set_attribute(module, name, value)
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


def mend_layer(layer: nn.Module) -> None:
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
    elif isinstance(layer, nn.RNNBase):
        weight: Any = layer.weight_ih_l0
        rows, layer.input_size = weight.shape
        layer.hidden_size = rows // GATES.get(layer.mode, 1)
        layer.proj_size = layer.get_parameter("weight_hr_l0").shape[0] if layer.proj_size else 0
    elif isinstance(layer, nn.RNNCellBase):
        layer.input_size, layer.hidden_size = layer.weight_ih.shape[1], layer.weight_hh.shape[1]
    elif isinstance(layer, nn.MultiheadAttention):
        _mend_attention(layer)


def _mend_attention(layer: nn.MultiheadAttention) -> None:
    """Its sizes; how many heads there are, the tensors do not say."""
    if layer.in_proj_weight is not None:
        layer.embed_dim = layer.kdim = layer.vdim = layer.in_proj_weight.shape[1]
    else:
        layer.embed_dim, layer.kdim, layer.vdim = (
            weight.shape[1] for weight in (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        )


def _mend_from_operator(removal: Removal, node: Node, layer: nn.Module) -> None:
    """Attributes of one of torch's own layers that no tensor of its tells, as its operator at the smaller sizes has them."""
    _, named = removal.call(node)
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and "normalized_shape" in named:
        layer.normalized_shape = tuple(named["normalized_shape"])
    elif isinstance(layer, nn.GroupNorm) and isinstance(named.get("num_groups"), int):
        layer.num_groups = named["num_groups"]
        layer.num_channels = removal.size(removal.graph.dims(node)[1])
    elif isinstance(layer, nn.ChannelShuffle) and isinstance(named.get("groups"), int):
        layer.groups = named["groups"]
    elif isinstance(layer, nn.Unflatten):
        _mend_unflatten(removal, node, layer)
    elif isinstance(layer, _ConvNd) and isinstance(named.get("groups"), int):
        layer.groups = named["groups"]
        first, second = layer.weight.shape[:2]
        layer.out_channels, layer.in_channels = first, second * layer.groups
        if layer.transposed:
            layer.out_channels, layer.in_channels = second * layer.groups, first


def _mend_unflatten(removal: Removal, node: Node, layer: nn.Unflatten) -> None:
    """Its sizes are those of the dimensions that it makes, where they change."""
    before, after = (removal.graph.dims(x) for x in (node.args[0], node))
    sizes = [*layer.unflattened_size]
    if len(after) - len(before) + 1 != len(sizes) or not isinstance(layer.dim, int):
        return
    made = after[layer.dim % len(before) :][: len(sizes)]
    changed = zip(sizes, made, strict=True)
    layer.unflattened_size = tuple(removal.size(axis) if removal.touched(axis) else n for n, axis in changed)


def _by_kind(model: nn.Module, names: Iterable[str]) -> list[set[str]]:
    """Attributes that mean the same, having one name in one class; those of torch's own layers are beyond doubt and in no kind."""
    kinds: dict[tuple[type, str], set[str]] = defaultdict(set)
    for name in names:
        holder, _, key = name.rpartition(".")
        part = model.get_submodule(holder)
        if not is_torchs(part):
            kinds[type(part), key].add(name)
    return list(kinds.values())
