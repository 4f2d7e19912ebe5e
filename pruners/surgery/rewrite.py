"""The traced graph at smaller shapes: every constant that a removed index changes is computed again from the axes."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import fx, nn
from torch.fx import Node
from torch.fx.graph import _PyTreeInfo

from pruners.groups import AxisGraph, Cut, Group, Keep, cuts, host_place, kept_per_row
from pruners.operators import Axis, arguments, count, cut, factor, find, is_random, number, slice_bounds, units
from pruners.operators import operator as operator_name
from pruners.surgery.served import CheckedInputs

Changes = dict[str, Any]
aten = torch.ops.aten
DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)  # of (input, p, train)
FUNCTIONAL_BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"


class Scaled(NamedTuple):
    """A size that is some symbol times `old`, and becomes the symbol times `new`."""

    size: Node
    new: int
    old: int


class GraphModel(fx.GraphModule):
    """A rewritten graph as a module: parameters keep their names, `train` and `eval` switch batch norms and dropout.

    Dropout that the model leaves on in evaluation stays on. Dropout inside fused attention and randomness of another kind
    (stochastic depth) are not in the graph and stay off. Inputs of sizes that the trace does not hold for are refused.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModel:
        with warnings.catch_warnings():  # torch copies what it says is deprecated
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            return cast(GraphModel, super().__deepcopy__(memo))

    def train(self, mode: bool = True) -> GraphModel:
        """Switch batch normalisation between batch and running statistics, and dropout on or off."""
        dropouts = [node for node in self.graph.nodes if node.op == "call_function" and node.target in DROPOUTS]
        switched = [node for node in dropouts if not node.meta.get("always") and node.args[2:] != (mode,)]
        for node in switched:
            node.args = (*node.args[:2], mode)
        if not self.set_batch_norm(mode) and switched:
            self.recompile()
        return super().train(mode)

    def set_batch_norm(self, training: bool, momentum: float | None = None) -> bool:
        """Set whether batch norms use the batch's statistics, and a batch's weight in the running ones; whether that changed any."""
        changed = False
        for node in self.graph.nodes:
            if node.op == "call_function" and node.target is aten.batch_norm.default and node.args[3] is not None:
                now = (training, node.args[6] if momentum is None else momentum)
                if node.args[5:7] != now:
                    node.args, changed = (*node.args[:5], *now, *node.args[7:]), True
        if changed:  # which takes longer than to slice a small model
            self.recompile()
        return changed


class Removal:
    """What is kept of an axis graph, and the sizes that follow from it.

    Args:
        graph: the traced model with its axes.
        keep: elementary axis to a boolean vector, True for what stays, or to a matrix (host's size, size) if the axis is
            ragged, with as many True in each row; axes not named stay whole.

    Attributes:
        counts: elementary axis to how many of its indices stay, of a ragged one per index of its host.

    Raises:
        ValueError: if a matrix is given for an axis that is not ragged, or its rows keep different numbers.
    """

    def __init__(self, graph: AxisGraph, keep: Keep) -> None:
        self.graph = graph
        self.keep = keep
        self.counts = {axis: kept_per_row(axis, kept, graph.hosts.get(axis)) for axis, kept in keep.items()}
        self._cuts: dict[tuple[Axis, ...], list[Cut]] = {}

    def size(self, axis: Axis) -> int:
        """How many indices of a dimension stay."""
        return count(axis, self.counts)

    def touched(self, axis: Axis) -> bool:
        """Whether a dimension loses any index."""
        return bool(self.counts) and self.size(axis) != axis.size

    def cuts(self, dims: list[Axis]) -> list[Cut]:
        """What is taken from each dimension of a tensor, in the order in which it can be taken."""
        key = tuple(map(find, dims))
        if key not in self._cuts:
            self._cuts[key] = cuts(dims, self.keep, self.counts, self.graph.hosts)
        return self._cuts[key]

    def slice(self, tensor: torch.Tensor, dims: list[Axis]) -> torch.Tensor:
        """The part of a tensor that stays."""
        for step in self.cuts(dims):
            tensor = step.take(tensor)
        return tensor

    def silence(self, tensor: torch.Tensor, dims: list[Axis]) -> torch.Tensor:
        """The whole tensor with everything that does not stay set to zero."""
        for step in self.cuts(dims):
            tensor = step.silence(tensor)
        return tensor

    def among_zeros(self, part: torch.Tensor, dims: list[Axis]) -> torch.Tensor:
        """The whole tensor with what stays given and everything else zero."""
        for step in reversed(self.cuts(dims)):
            part = step.put(part)
        return part

    def stays(self, axis: Axis) -> torch.Tensor:
        """Which indices of a dimension stay, where its ragged axes have their hosts in it; shape (size,)."""
        return next((cut.stays for cut in self.cuts([axis])), torch.ones(axis.size, dtype=torch.bool))

    def units(self, dims: list[Axis], at: int, group: Group) -> tuple[tuple[int, ...], torch.Tensor]:
        """Which index of a group the places that stay along a dimension of a tensor belong to.

        Args:
            dims: the dimensions of the tensor.
            at: the dimension.
            group: any group; the indices of a ragged one are counted through all of its rows.

        Returns:
            The dimensions, ascending, that the answer depends on: `at`, and those with hosts of what is ragged in it.
            The indices, in the shape of what stays of these dimensions; -1 for places of other groups.
        """
        host = at if group.host is None else host_place(dims, at, group.host)
        places = {at, host}
        places |= {other for cut in self.cuts(dims) if cut.dim in places for other in cut.across}
        order = sorted(places)

        def along(place: int, axis: Axis) -> torch.Tensor:
            return units(dims[place], axis).view([-1 if other == place else 1 for other in order])

        index = along(at, group.axis)
        if group.host is not None:
            index = torch.where(index >= 0, along(host, group.host) * group.size + index, -1)
        some = [dims[place] for place in order]
        return tuple(order), self.slice(index.expand([axis.size for axis in some]), some)

    def call(self, node: Node) -> tuple[Any, dict[str, Any]]:
        """Target and arguments by name of a node's operator at the smaller shapes."""
        named = arguments(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            return node.target, {}
        mend = MENDS.get(node.target._schema.name.split("::")[1])
        if mend is None:
            return node.target, named
        target, changes = mend(self, node, named)
        if target is not node.target:
            return target, changes
        return target, {**named, **changes}


def rewrite(removal: Removal, least: Mapping[str, int] | None = None) -> GraphModel:
    """Build the smaller model from the graph.

    Args:
        removal: what stays.
        least: smallest that a free size of the inputs may be, by name; 1 where it is not there.

    Returns:
        A module with its own, sliced copies of the tensors, called like the traced model.
    """
    trace = removal.graph.trace
    root, graph, env = nn.Module(), fx.Graph(), {}
    node: Any
    for node in trace.nodes:
        if node.op == "placeholder" and node.name in trace.tensors:
            name = trace.tensors[node.name]
            _assign(root, name, sliced(removal, name))
            env[node] = graph.create_node("get_attr", name, name=node.name)
        elif node.op == "placeholder":
            env[node] = graph.placeholder(node.name)
        elif node.op == "output":
            graph.output([fx.node.map_arg(x, env.__getitem__) for x in trace.returned(node.args[0])])
        else:
            env[node] = _emit(removal, graph, node, env)
        if node.op != "output":
            if node.target in DROPOUTS and is_random(node):
                env[node].meta["always"] = True
            env[node].meta.setdefault("nn_module_stack", node.meta.get("nn_module_stack", {}))
    in_spec, out_spec = trace.program.call_spec.in_spec, trace.program.call_spec.out_spec
    names = [f"arg_{i}" for i in range(in_spec.child(0).num_children)] + list(in_spec.child(1).context)
    graph.set_codegen(CheckedInputs(_PyTreeInfo(names, in_spec, out_spec), trace.sizes, least or {}))
    graph.eliminate_dead_code()
    return GraphModel(root, graph).eval()


def traced_name(node: Node) -> str:
    """What a node of a rewritten graph is called in the trace: an input keeps that as its target, as `input` is renamed."""
    return str(node.target) if node.op == "placeholder" else node.name


def _emit(removal: Removal, graph: fx.Graph, node: Any, env: dict[Node, Node]) -> Node:
    target, named = removal.call(node)
    if not named:
        if target is operator.getitem and operator_name(node.args[0]) == FUNCTIONAL_BATCH_NORM:
            return env[node.args[0]]  # the rewritten operator returns one tensor
        args, kwargs = (fx.node.map_arg(a, env.__getitem__) for a in (node.args, node.kwargs))
        return graph.create_node("call_function", target, args, kwargs, node.name)
    named = {name: _emit_scaled(graph, value, env) for name, value in named.items()}
    values = fx.node.map_arg(named, lambda source: env.get(source, source))
    if target is aten.view_as_complex.default:  # pairs that were cut out of rows of odd length now lie apart in memory
        values = {"self": graph.create_node("call_function", aten.contiguous.default, (values["self"],), {}, "_pairs")}
    schema = target._schema.arguments
    args = tuple(values[argument.name] for argument in schema if not argument.kwarg_only)
    given = (a for a in schema if a.kwarg_only and not (a.has_default_value() and values[a.name] == a.default_value))
    kwargs = {a.name: values[a.name] for a in given}
    return graph.create_node("call_function", target, args, kwargs, node.name)


def _emit_scaled(graph: fx.Graph, value: Any, env: dict[Node, Node]) -> Any:
    """Emit the arithmetic of sizes, one or a list, that are multiples of a free dimension."""

    def emitted(item: Any) -> Any:
        if not isinstance(item, Scaled):
            return item
        shared = math.gcd(item.new, item.old)  # such as the batch, of which the code must not know the number
        # names of their own: the check finds operators by the names that they have in the trace
        times = graph.create_node(
            "call_function", operator.mul, (env[item.size], item.new // shared), {}, "_size_times"
        )
        return graph.create_node("call_function", operator.floordiv, (times, item.old // shared), {}, "_size")

    several = isinstance(value, (list, tuple)) and not isinstance(value, Scaled)
    return [emitted(item) for item in value] if several else emitted(value)


def sliced(removal: Removal, name: str) -> torch.Tensor:
    """What stays of a parameter, buffer or constant, in memory of its own."""
    tensor = removal.graph.trace.tensor(name)
    part = removal.slice(tensor.detach(), removal.graph.tensors[name])
    if part.data_ptr() == tensor.data_ptr():
        part = part.clone()
    return nn.Parameter(part, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


def _assign(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        if not isinstance(getattr(root, part, None), nn.Module):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor)


# --- what changes in the arguments of each operator ------------------------------------------------------------------


def _sizes(removal: Removal, node: Node, a: Changes, name: str = "size") -> tuple[Any, Changes]:
    """Output sizes, constant or multiples of a free dimension."""

    def mended(size: Any, axis: Axis) -> Any:
        if size == -1 or not removal.touched(axis):
            return size
        return removal.size(axis) if isinstance(size, int) else Scaled(size, removal.size(axis), axis.size)

    return node.target, {name: [mended(n, axis) for n, axis in zip(a[name], removal.graph.dims(node), strict=True)]}


def _view(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    return aten.reshape.default, {"self": a["self"], "shape": _sizes(removal, node, a)[1]["size"]}


def _unflatten(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    d = a["dim"] % len(removal.graph.dims(a["self"]))
    dims = removal.graph.dims(node)[d : d + len(a["sizes"])]
    sizes = [removal.size(axis) if removal.touched(axis) else size for size, axis in zip(a["sizes"], dims, strict=True)]
    return node.target, {"sizes": sizes}


def _split(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    """Pieces may come out unequal, which only `split_with_sizes` can say."""
    sizes = [removal.size(dims[a["dim"]]) for dims in removal.graph.results(node)]
    before = removal.graph.dims(a["self"])[a["dim"]]
    if not removal.touched(before):
        return node.target, {}
    return aten.split_with_sizes.default, {"self": a["self"], "split_sizes": sizes, "dim": a["dim"]}


def _slice(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    axis = removal.graph.dims(a["self"])[a["dim"]]
    if not removal.touched(axis):
        return node.target, {}
    start, end = slice_bounds(a, axis.size)
    if (start, end) == (0, axis.size):  # all there is, however many that will be
        return node.target, {}
    head, middle, _ = cut(axis, (start, max(end - start, 0), axis.size - max(start, end)))
    first = removal.size(head)
    return node.target, {"start": first, "end": first + removal.size(middle)}


def _pad(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    dims, source = removal.graph.dims(node), removal.graph.dims(a["self"])
    amounts = list(a["pad"])
    for i in range(len(amounts) // 2):
        axis, inner = dims[-1 - i], source[-1 - i]
        if removal.touched(axis):
            before, _, after = cut(axis, (amounts[2 * i], inner.size, amounts[2 * i + 1]))
            amounts[2 * i : 2 * i + 2] = removal.size(before), removal.size(after)
    return node.target, {"pad": amounts}


def _groups(removal: Removal, node: Node, a: Changes, name: str = "groups") -> tuple[Any, Changes]:
    """How many groups of channels are left."""
    groups = number(a[name])
    if groups == 1:
        return node.target, {}
    weight = "weight" in a and isinstance(a["weight"], Node) and len(removal.graph.dims(a["weight"]))
    x = removal.graph.dims(next(value for value in a.values() if isinstance(value, Node)))
    channels = x[-(weight - 1)] if weight and weight > 2 else x[1]
    if not removal.touched(channels):
        return node.target, {}
    left = removal.size(factor(channels, (groups, channels.size // groups))[0])
    if left == groups:  # as many, also where that is a multiple of a free dimension
        return node.target, {}
    return node.target, {name: left if isinstance(a[name], int) else Scaled(a[name], left, groups)}


def _layer_norm(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    x = removal.graph.dims(a["input"])[-len(a["normalized_shape"]) :]
    sizes = zip(a["normalized_shape"], x, strict=True)
    return node.target, {"normalized_shape": [removal.size(axis) if removal.touched(axis) else n for n, axis in sizes]}


def _batch_norm(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    names = ("input", "weight", "bias", "running_mean", "running_var")
    rest = {"training": False, "momentum": a["momentum"], "eps": a["eps"], "cudnn_enabled": False}
    return aten.batch_norm.default, {**{name: a[name] for name in names}, **rest}


def _attention(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    """The softmax keeps the scale of the whole head."""
    width = removal.graph.dims(a["query"])[-1]
    return node.target, {"scale": a["scale"] or 1 / math.sqrt(width.size)} if removal.touched(width) else {}


def _repeat(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    dims, source = removal.graph.dims(node), removal.graph.dims(a["self"])
    source = [Axis(1)] * (len(dims) - len(source)) + source
    repeats = [
        removal.size(axis) // max(removal.size(inner), 1) if isinstance(n, int) else n
        for n, axis, inner in zip(a["repeats"], dims, source, strict=True)
    ]
    return node.target, {"repeats": repeats}


def _repeat_interleave(removal: Removal, node: Node, a: Changes) -> tuple[Any, Changes]:
    axis, inner = removal.graph.dims(node)[a["dim"]], removal.graph.dims(a["self"])[a["dim"]]
    if not removal.touched(axis):
        return node.target, {}
    size = None if a["output_size"] is None else removal.size(axis)
    return node.target, {"repeats": removal.size(axis) // removal.size(inner), "output_size": size}


Mend = Callable[[Removal, Node, Changes], tuple[Any, Changes]]
MENDS: Mapping[str, Mend] = {
    **dict.fromkeys(("view", "_unsafe_view"), _view),
    **dict.fromkeys(
        ("expand", "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"), _sizes
    ),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), _split),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys((f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)), _groups),
    **dict.fromkeys(("convolution", "channel_shuffle", "native_channel_shuffle"), _groups),
    "reshape": lambda removal, node, a: _sizes(removal, node, a, "shape"),
    "unflatten": _unflatten,
    **dict.fromkeys(("slice", "slice_scatter"), _slice),
    "group_norm": lambda removal, node, a: _groups(removal, node, a, "num_groups"),
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "scaled_dot_product_attention": _attention,
    "repeat": _repeat,
    "repeat_interleave": _repeat_interleave,
}
