"""Left-out blocks in the module itself: what stands in their place, and whole layers that go from their list."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from estimators import count
from pruners.operators import owner
from pruners.surgery.blocks import Block
from pruners.surgery.bypass import bypass, needed_nodes, not_chosen, passed_on, unneeded
from pruners.surgery.masked import run_example
from pruners.surgery.module import Built, agrees, build_beside
from pruners.surgery.rewrite import GraphModel, Removal
from pruners.surgery.routers import leave_out_entries, leave_out_rows
from pruners.surgery.stand_in import Given, LeftOut, Place, Zeros
from pruners.surgery.sums import is_copy
from search_spaces.core import first_line

PLAIN = (bool, int, float, str, type(None))


def build_without(
    removal: Removal, model: nn.Module, graph_model: GraphModel, blocks: Sequence[Block], tolerance: float
) -> Built:
    """Build the smaller model without some blocks, as a module where its forward can do without them, else as the bypassed graph.

    Layers that are left out whole go from their list where a configuration says how many there are; other modules of which nothing
    is left are replaced by `LeftOut`.

    Args:
        removal: what stays.
        model: the full model; it is not changed.
        graph_model: the rewritten graph of the removal with all blocks in it; they are taken out of it.
        blocks: what is left out.
        tolerance: largest relative difference allowed between the two forms.
    """
    whole, beside = build_beside(removal, model, graph_model, tolerance)
    for each in {id(graph): graph for graph in (graph_model, beside)}.values():
        bypass(each, blocks)
    if whole.form == "graph":
        return whole
    inputs = removal.graph.trace.kwargs or removal.graph.trace.args
    reason = ""
    for drop in (True, False):
        try:
            module, dropped = leave_out(_copied(whole.model), removal, blocks, drop, beside)
            if drop and not dropped:
                continue
            if not agrees(module, beside, removal, tolerance):
                reason = "without the blocks its outputs differ"
            elif count(module, inputs).total.macs != count(beside, inputs).total.macs:
                reason = "its forward computes part of what is left out by itself"
            else:
                return whole._replace(model=module, dropped=dropped)
        except Exception as error:  # whatever a forward says of a part that is not there
            reason = first_line(error)
    return Built(graph_model, "graph", reason=reason)


def leave_out(
    module: nn.Module,
    removal: Removal,
    blocks: Sequence[Block],
    drop: bool | Collection[str],
    graph_model: GraphModel,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Take blocks out of a module in place.

    Args:
        module: a cut copy of the module, which still runs as a whole on the example.
        removal: what stays.
        blocks: what goes.
        drop: whether whole layers go from lists that a configuration counts, or which.
        graph_model: the rewritten graph without the blocks, whose tensors experts in common tensors get.

    Returns:
        The module, and the names that the layers that went from their list had.

    Raises:
        ValueError: if nothing can stand in for a part that is left out.
    """
    trace = removal.graph.trace
    leave_out_rows(module, blocks, graph_model)
    passing, (gone, tensors) = passed_on(blocks), unneeded(trace, blocks)
    live = needed_nodes(trace.nodes, {})
    nodes = [node for node in trace.nodes if node in live and node.op == "call_function"]
    parts = _Parts(module, nodes, trace.tensors, gone, passing)
    whole, branches = parts.sorted_out(tensors)
    ends = {name for block in blocks for name in _ends(block.term, gone, branches)}
    calls: dict[str, Any] = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(_seen(name, name not in ends, calls), with_kwargs=True)
        for name in (*whole, *branches)
    ]
    try:
        run_example(module, trace)
    finally:
        for hook in hooks:
            hook.remove()
    of_experts = {name for block in blocks if block.route is not None for name in block.tensors}
    for name in (*whole, *branches):
        old = module.get_submodule(name)
        if name not in calls and parts.tensors[name] <= of_experts:
            calls[name] = Zeros(0)  # none of the example's tokens is routed to it
        if name not in calls:
            raise ValueError(f"module {name!r}, which is left out, is not called by itself")
        attributes = {
            k: v for k, v in vars(old).items() if not k.startswith("_") and type(v) in PLAIN and k != "training"
        }
        module.set_submodule(name, LeftOut(calls[name], attributes).eval())
    for name in tensors:
        _leave_out_tensor(module, name)
    for logits, entries in not_chosen(block for block in blocks if not block.rows).items():
        if logits not in gone:
            leave_out_entries(module, owner(logits), entries)
    named = [name for name in whole if (name in drop if isinstance(drop, Collection) else drop)]
    dropped = [gone for name in _configured(module) for gone in _drop_layers(module, name, named)] if named else []
    return module, tuple(dropped)


class _Parts:
    """The modules of a model, with the operators and tensors in each."""

    def __init__(
        self,
        module: nn.Module,
        nodes: Iterable[Node],
        placeholders: Mapping[str, str],
        gone: frozenset[Node],
        passing: Mapping[Node, Node],
    ) -> None:
        self.module = module
        self.nodes: defaultdict[str, list[Node]] = defaultdict(list)
        self.tensors: defaultdict[str, set[str]] = defaultdict(set)
        self.gone, self.passing = gone, passing
        for node in nodes:
            for name in _around(f"{owner(node)}."):
                self.nodes[name].append(node)
            for source in node.all_input_nodes:
                tensor = placeholders.get(source.name)
                if tensor is not None:
                    for name in _around(tensor):
                        self.tensors[name].add(tensor)

    def sorted_out(self, tensors: frozenset[str]) -> tuple[list[str], list[str]]:
        """The outermost modules that have lost all of their tensors: those that pass on what they are given, and the others."""
        whole, branches = [], []
        left = [name for name, _ in self.module.named_children()][::-1]
        while left:
            name = left.pop()
            part = self.module.get_submodule(name)
            held, ours = self.tensors[name], self.nodes[name]
            passes = any(node in self.passing and node not in self.gone for node in ours)
            inner = [f"{name}.{child}" for child, _ in part.named_children()][::-1]
            if not held or not held <= tensors or _is_container(part):
                left += inner if held & tensors else []
            elif not passes:
                branches.append(name)
            elif all(node in self.gone or node in self.passing or is_copy(node) for node in ours):
                whole.append(name)
            else:
                left += inner
        return whole, branches


def _around(tensor: str) -> Iterator[str]:
    """The names of all modules but the outermost that a tensor is in."""
    parts = tensor.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))


def _is_container(part: nn.Module) -> bool:
    return isinstance(part, (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict))


def _ends(term: Node, gone: frozenset[Node], branches: Sequence[str]) -> set[str]:
    """The modules that are left out from which a term of a sum is computed by operators of others."""
    found, left, seen = set(), [term], {term}
    while left:
        node = left.pop()
        inside = f"{owner(node)}." if node.op == "call_function" else ""
        ends = [name for name in branches if inside.startswith(f"{name}.")]
        found.update(ends)
        for source in node.all_input_nodes if not ends else ():
            if source in gone and source not in seen:
                seen.add(source)
                left.append(source)
    return found


def _seen(name: str, may_pass: bool, calls: dict[str, Any]) -> Callable[..., None]:
    """A hook that notes what stands for a module's result."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given: dict[Place, Any] = dict(enumerate(args))
        given.update(kwargs)
        several = isinstance(output, (tuple, list))
        results = list(output) if several else [output]
        main = next((i for i, x in enumerate(results) if isinstance(x, Tensor)), None)
        if main is None:
            raise ValueError(f"module {name!r}, which is left out, returns no tensor but {type(output).__name__}")
        returns = [
            _stand_in(x, given, may_pass, name) if i == main else _same_or_none(x, given) for i, x in enumerate(results)
        ]
        calls[name] = (tuple(returns) if isinstance(output, tuple) else returns) if several else returns[0]

    return hook


def _stand_in(result: Tensor, given: Mapping[Place, Any], may_pass: bool, name: str) -> Given | Zeros:
    tensors = {place: x for place, x in given.items() if isinstance(x, Tensor) and x.dtype == result.dtype}
    for place, x in tensors.items():
        if x.shape == result.shape:
            return Given(place) if may_pass else Zeros(place)
    for place, x in tensors.items():
        apart = [dim for dim, (a, b) in enumerate(zip(x.shape, result.shape, strict=False)) if a != b]
        if x.dim() == result.dim() and apart in ([x.dim() - 1], [1]):
            return Zeros(place, apart[0], result.shape[apart[0]])
    raise ValueError(
        f"nothing can stand in for module {name!r}, which is left out: it returns shape {tuple(result.shape)} of "
        f"{[tuple(x.shape) for x in tensors.values()]}"
    )


def _same_or_none(value: Any, given: Mapping[Place, Any]) -> Any:
    """An argument that is returned as it is, a plain value; None for what else there is beside the result."""
    if type(value) in PLAIN:
        return value
    return next((Given(place) for place, x in given.items() if x is value), None)


def _leave_out_tensor(module: nn.Module, name: str) -> None:
    """What a part that stays holds of a block: a factor becomes a zero outside of the state, a buffer goes from the state."""
    holder, _, key = name.rpartition(".")
    try:
        part = module.get_submodule(holder)
    except AttributeError:  # it went with its module
        return
    if key in part._parameters:
        old = part._parameters[key]
        assert old is not None
        delattr(part, key)
        part.register_buffer(key, old.detach().new_zeros([1] * old.dim()), persistent=False)
    elif key in part._buffers:
        part._non_persistent_buffers_set.add(key)


def _configured(module: nn.Module) -> list[str]:
    """The names of the outermost parts with a configuration."""
    found: list[str] = []
    for name, part in module.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if not inside and hasattr(part.__dict__.get("config"), "to_dict"):
            found.append(name)
    return found


def _drop_layers(module: nn.Module, prefix: str, names: Sequence[str]) -> list[str]:
    """Take whole layers from the lists of a configured part, and lower what its configuration says of their number.

    Returns:
        Names of the layers that went; none if no configuration is found that a part with these tensors can be built from.
    """
    part, start = module.get_submodule(prefix), f"{prefix}." if prefix else ""
    lists: defaultdict[str, set[int]] = defaultdict(set)
    for name in names:
        holder, _, key = name.rpartition(".")
        if name.startswith(start) and isinstance(module.get_submodule(holder), nn.ModuleList):
            lists[holder.removeprefix(start)].add(int(key))
    gone: list[str] = []
    for name, indices in lists.items():
        layers = part.get_submodule(name)
        stay = [i for i in range(len(layers)) if i not in indices]  # type: ignore[arg-type]
        if not stay or any(outer.startswith(f"{start}{name}.") for outer in gone):
            continue
        part.set_submodule(name, nn.ModuleList(layers.get_submodule(str(i)) for i in stay))
        if not _lower(part, name, len(layers), stay):  # type: ignore[arg-type]
            part.set_submodule(name, layers)
            continue
        gone += [f"{start}{name}.{i}" for i in sorted(indices)]
    return gone


def _lower(part: nn.Module, name: str, length: int, stay: Sequence[int]) -> bool:
    """Change the configuration of a part to fewer layers in one of its lists, and tell its layers their new index.

    It is the one integer with which a fresh part has the names of this one; what there is one of for each layer goes with it. None is
    found where layers differ by their index.
    """
    need = part.state_dict().keys()
    found = list(_entries(part.config))
    lists = [
        (path, v, type(v)(v[i] for i in stay)) for path, v in found if isinstance(v, (list, tuple)) and len(v) == length
    ]
    for number in [(path, v, len(stay)) for path, v in found if type(v) is int and v == length]:
        config = copy.deepcopy(part.config)
        try:
            for change in (*lists, number):
                _change(config, *change)
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                fresh = type(part)(config)
        except Exception:  # whatever a constructor says of numbers that do not go together
            continue
        if fresh.state_dict().keys() == need:
            for each in {
                id(x): x for x in (part_.__dict__.get("config") for part_ in part.modules()) if x is not None
            }.values():
                for change in (*lists, number):
                    _change(each, *change)
            _renumber(part.get_submodule(name), fresh.get_submodule(name), stay)
            return True
    return False


def _entries(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The entries of a configuration and of those inside it, by the attributes that lead there."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and not isinstance(value, type):
            yield from _entries(value, (*path, name))
        elif not name.startswith("_"):
            yield (*path, name), value


def _change(config: Any, path: tuple[str, ...], old: Any, new: Any) -> None:
    """Change an entry of a configuration that has it; one inside others may have been changed through another."""
    for name in path[:-1]:
        config = getattr(config, name, None)
    if getattr(config, path[-1], None) == old:
        setattr(config, path[-1], new)


def _renumber(layers: nn.Module, fresh: nn.Module, stay: Sequence[int]) -> None:
    """Give the modules of a list the index of their layer, where a fresh list has it in the same attribute."""
    for new, old in enumerate(stay):
        others = dict(fresh.get_submodule(str(new)).named_modules())
        for name, part in layers.get_submodule(str(new)).named_modules():
            for key, value in vars(part).items():
                if type(value) is int and value == old and name in others and vars(others[name]).get(key) == new:
                    setattr(part, key, new)


def _copied(module: nn.Module) -> nn.Module:
    """A copy that shares its tensors."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)
