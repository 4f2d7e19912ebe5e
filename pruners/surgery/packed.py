"""Experts whose weights are packed in tensors (experts, ...), and the rows of these that go with an expert."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruners.operators import number, operator, seeded
from pruners.surgery.experts import RANKING, UNCHANGED, Route, Told, choice_of, experts, per_row, router_of
from pruners.surgery.rewrite import GraphModel
from pruners.surgery.sums import COPIES
from pruners.tracing import Trace

aten = torch.ops.aten
GROUPED = ("transformers.grouped_mm_fallback.default", "aten._grouped_mm.default")  # of rows, weights and ends of rows


@dataclass(frozen=True)
class Packed:
    """Experts that one router chooses, with weights in common tensors.

    Attributes:
        logits: what the router computes.
        tensors: names of their parameters, whose first dimension is the experts.
        rows: these and the parameters of the router, which lose a row with an expert.
        last: the last operator that reads one of them.
        fewest: how many of them a token is routed to, so that as many must stay.
    """

    logits: Node
    tensors: tuple[str, ...]
    rows: tuple[str, ...]
    last: Node
    fewest: int


def packed_experts(trace: Trace) -> list[Packed]:
    """All experts with weights in common tensors that are chosen by a router that can do without them.

    Weights are read by grouped matrix products, of which each expert has a range of rows, or row by row by the number of the expert.
    """
    read: defaultdict[Node, dict[str, list[Node]]] = defaultdict(dict)  # by choice: name of a tensor to who reads it
    often = Counter(trace.tensors[node.name] for node in trace.nodes if node.name in trace.tensors)  # tied weights
    for node in trace.nodes:
        name = trace.tensors.get(node.name, "")
        if often[name] == 1 and isinstance(trace.tensor(name), nn.Parameter):
            users = readers(node, trace.tensor(name).dim()) or []
            choices = {choice_of([told_by(user)]) for user in users}
            if len(choices) == 1 and (choice := choices.pop()) is not None:
                read[choice][name] = users
    routers = {c: logits for c in read if (logits := router_of(c)) is not None and _ranks_alone(c, logits)}
    agreed = _agreed(trace, routers, {choice: read[choice] for choice in routers})
    place = {node: i for i, node in enumerate(trace.nodes)}
    found = []
    for choice, logits in routers.items():
        names = [name for name in read[choice] if all(told_by(user) in agreed for user in read[choice][name])]
        own = [
            trace.tensors[x.name] for x in logits.all_input_nodes[1:] if x.name in trace.tensors and len(x.users) == 1
        ]
        if names and len(own) == len(logits.all_input_nodes) - 1:
            last = max((user for name in names for user in read[choice][name]), key=place.__getitem__)
            found.append(Packed(logits, tuple(names), (*names, *own), last, per_row(choice)))
    return found


def router_rows(trace: Trace, logits: Node) -> tuple[str, ...]:
    """Names of the parameters of a router; none where they are not its own."""
    own = [trace.tensors[x.name] for x in logits.all_input_nodes[1:] if x.name in trace.tensors and len(x.users) == 1]
    return tuple(own) if len(own) == len(logits.all_input_nodes) - 1 else ()


def taken_rows(trace: Trace, nodes: Iterable[Node], route: Route) -> tuple[str, ...]:
    """Names of tensors of which some operators take the row of an expert, where other rows are taken one by one, too."""
    found = set()
    for node in nodes:
        weight = node.args[0] if node.target is aten.select.int and node.args[1:] == (0, route.index) else None
        if isinstance(weight, Node) and isinstance(trace.tensor(trace.tensors.get(weight.name, "")), nn.Parameter):
            users = [user for user in weight.users if not operator(user).startswith("aten._assert_tensor_metadata")]
            rows = {user.args[2] for user in users if user.target is aten.select.int and user.args[1] == 0}
            if len(rows) == len(users) == experts(route.logits):
                found.add(trace.tensors[weight.name])
    return tuple(sorted(found))


def readers(weight: Node, rank: int) -> list[Node] | None:
    """The operators that read a tensor of some dimensions by expert; None where anything else reads it."""
    found, left = [], [weight]
    while left:
        node = left.pop()
        for user in node.users:
            name = operator(user)
            if (name in GROUPED and user.args[1] is node) or _picks(user, node):
                found.append(user)
            elif _keeps_first(user, rank) or name.removeprefix("aten.").split(".")[0] in COPIES:
                left.append(user)
            elif not name.startswith("aten._assert_tensor_metadata"):
                return None
    return found


def told_by(reader: Node) -> Node:
    """Where an operator reads which expert is whose: the ends of rows, or the number of the expert for each row."""
    place = reader.args[2] if operator(reader) in GROUPED else reader.args[1][0]  # type: ignore[index]
    assert isinstance(place, Node)
    return place


def kept_rows(gone: Mapping[str, Iterable[int]], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Name of a packed tensor to the rows that stay, ascending.

    Args:
        gone: name of a tensor to the rows that go.
        sizes: name of a tensor to how many rows it has, and how many must stay.

    Raises:
        ValueError: if fewer do.
    """
    kept = {}
    for name, rows in gone.items():
        size, fewest = sizes[name]
        stays = torch.ones(size, dtype=torch.bool)
        stays[list(rows)] = False
        kept[name] = stays.nonzero().flatten()
        if len(kept[name]) < fewest:
            raise ValueError(
                f"as many experts must stay as a token is routed to, {fewest} of {name!r}, got {len(kept[name])}; ask for less."
            )
    return kept


def cut_rows(model: GraphModel, kept: Mapping[str, Tensor], weights: Mapping[str, Node]) -> None:
    """Take rows from the packed tensors of a graph, and from routers, whose logits get minus infinity there.

    Args:
        model: changed in place.
        kept: name of a tensor to the rows that stay.
        weights: name of a tensor to its node.
    """
    for name, rows in kept.items():
        node = weights[name]
        holder, _, key = name.rpartition(".")
        part, whole = model.get_submodule(holder), model.get_parameter(name)
        rows = rows.to(whole.device)
        setattr(part, key, nn.Parameter(whole.detach()[rows], requires_grad=whole.requires_grad))
        new = torch.full((len(whole),), len(rows), device=whole.device)
        new[rows] = torch.arange(len(rows), device=whole.device)
        for user in list(node.users) if _of_router(node) else []:
            if user.args[1] is node:
                _widen(model, user, _constant(model, f"{name}_place", new, user))
        for user in [user for user in node.users if user.target is aten.select.int]:
            place = int(new[number(user.args[2])])
            user.args = (*user.args[:2], min(place, len(rows) - 1))  # what nothing needs any more takes any
        for reader in [] if _of_router(node) else readers(node, whole.dim()) or []:
            told = told_by(reader)
            grouped = operator(reader) in GROUPED
            with model.graph.inserting_before(reader):
                constant = _constant(
                    model, f"{name}_{'rows' if grouped else 'place'}", rows if grouped else new, reader
                )
                if grouped:
                    here = model.graph.call_function(aten.index_select.default, (told, 0, constant))
                else:
                    here = model.graph.call_function(aten.index.Tensor, (constant, [told]))
            here.meta["val"] = told.meta.get("val")
            reader.args = tuple(
                here if x is told else [here] if isinstance(x, (list, tuple)) and told in x else x for x in reader.args
            )


def _of_router(weight: Node) -> bool:
    return any(user.target is aten.linear.default for user in weight.users)


def _widen(model: GraphModel, logits: Node, place: Node) -> None:
    """Put logits that are left in their old places, beside minus infinity; the node keeps its name, which the whole graph has."""
    name = logits.name
    with model.graph.inserting_after(place):
        fewer = model.graph.call_function(logits.target, logits.args, logits.kwargs)  # type: ignore[arg-type]
    with model.graph.inserting_after(fewer):
        padded = model.graph.call_function(aten.constant_pad_nd.default, (fewer, [0, 1], -torch.inf))
    with model.graph.inserting_after(padded):
        wide = model.graph.call_function(aten.index_select.default, (padded, -1, place))
    wide.meta, fewer.meta = logits.meta, {k: v for k, v in logits.meta.items() if k != "val"}
    logits.replace_all_uses_with(wide)
    model.graph.erase_node(logits)
    wide._rename(name)


def _constant(model: GraphModel, name: str, value: Tensor, before: Node) -> Node:
    holder, _, key = name.rpartition(".")
    model.get_submodule(holder).register_buffer(key, value)
    with model.graph.inserting_before(before):
        return model.graph.get_attr(name)


def _picks(user: Node, weight: Node) -> bool:
    """Whether an operator takes rows of a weight by number."""
    return user.target is aten.index.Tensor and user.args[0] is weight and len(user.args[1]) == 1  # type: ignore[arg-type]


def _keeps_first(user: Node, rank: int) -> bool:
    """Whether an operator changes the order of dimensions but for the first."""
    return user.target is aten.transpose.int and 0 not in {int(dim) % rank for dim in user.args[1:]}  # type: ignore[arg-type]


def _ranks_alone(choice: Node, logits: Node) -> bool:
    """Whether a choice is that of the largest logits, so that minus infinity is never among them."""
    node = choice.all_input_nodes[0] if choice.target is not aten.argmax.default else choice
    while node is not logits:
        if node.target not in RANKING and operator(node).removeprefix("aten.").split(".")[0] not in UNCHANGED:
            return False
        node = node.all_input_nodes[0]
    return True


def _agreed(trace: Trace, routers: Mapping[Node, Node], read: Mapping[Node, Mapping[str, Sequence[Node]]]) -> set[Node]:
    """Those of the nodes that say which expert is whose that say what they are told."""
    every = [(user, choice) for choice, names in read.items() for users in names.values() for user in users]
    sayings = {told_by(user): (operator(user) in GROUPED, choice) for user, choice in every}
    agreed: set[Node] = set()
    if not sayings:
        return agreed
    told = Told(trace, routers, 0)
    with torch.no_grad(), seeded():
        for node, value in told.steps(list(trace.values().values())):
            if node in sayings:
                grouped, choice = sayings[node]
                chosen = told.choices[choice].repeat_interleave(per_row(choice))
                if grouped:
                    expected = torch.bincount(chosen, minlength=experts(routers[choice])).cumsum(0)
                else:
                    value, expected = value.flatten().sort().values, chosen.sort().values
                if torch.equal(value.long(), expected):
                    agreed.add(node)
    return agreed
