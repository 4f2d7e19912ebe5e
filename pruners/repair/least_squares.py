"""Repair after removal without training: every layer's weights by least squares, in order of execution.

Shapes as in `pruners.importance.matrix_form`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruners.importance import bounds, is_product, sampled
from pruners.operators import arguments, chooses
from pruners.progress import Progress, silent
from pruners.surgery import GraphModel, PruningPlan, Removal, multiplied, replay, smaller_graph
from pruners.tracing import Runner, like_example

aten = torch.ops.aten


def least_squares_(
    smaller: nn.Module,
    model: nn.Module,
    plan: PruningPlan,
    batches: Iterable[Any],
    ridge: float = 1e-4,
    iterations: int = 5,
    progress: Progress = silent,
) -> int:
    """Solve every convolution and linear layer, in order of execution, for what the full model computes there.

    Convolutions with groups, in three dimensions or transposed, layers that share their weights, and experts that see the
    tokens routed to them stay as they are.

    Layers are solved in order. Each sees the inputs that the repaired layers before it produce. Its targets are the
    full model's values on the channels that stay, after the batch norm if one follows, whose mean takes up the shift;
    after the addition of a shortcut, whose error is thereby part of the aim; and after a ReLU, in that a value which
    the full model cuts off may lie anywhere beyond the cut. That last aim is met by solving again for the nearest
    allowed values. Batch norms get the statistics of the repaired model, and scales and shifts that keep its outputs.
    So training on data like `batches` starts from what the model computes. All samples are held in memory at once.

    Args:
        smaller: the pruned model, changed in place.
        model: the full model that `plan` was made for.
        plan: what was removed.
        batches: iterable of inputs, or of (inputs, targets); a thousand images are plenty.
        ridge: weight of staying close to the weights as they are, relative to the mean square of the inputs.
        iterations: how often a layer before a ReLU is solved again.
        progress: called as ("least squares", layers done, all layers).

    Returns:
        How many layers were solved.

    Raises:
        ValueError: if the model only takes batches of one size, or a batch does not fit it or is not finite.

    Reference: He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017 (reconstruction); Zhang
        et al., Accelerating very deep convolutional networks for classification and detection, TPAMI 2016 (aims behind
        the ReLU, inputs of the approximated layers).
    Differs: ridge towards the old weights; shortcut error in the aim; the values behind a ReLU are relaxed by
        projection, which lowers the error in every iteration, in place of a penalty method.
    """
    removal = replay(plan, model)
    if not removal.graph.trace.batched:
        raise ValueError(
            "`model` must take batches of any size, got one traced for a fixed size; recalibrate it instead."
        )
    rewritten = smaller_graph(plan, removal)
    rewritten.load_state_dict(multiplied(smaller.state_dict(), plan.folded, inverse=True), strict=False)
    given = zip(*(batch.inputs for batch in like_example(batches, removal.graph.trace)), strict=True)
    inputs = [_joined(values, place in removal.graph.trace.free) for place, values in enumerate(given)]
    if not all(values.isfinite().all() for values in inputs if isinstance(values, Tensor)):
        raise ValueError("`batches` must be finite, got NaN or infinity; weights solved on them would be NaN.")
    repair = _Repair(removal, rewritten, inputs, ridge, iterations, progress)
    with torch.no_grad():
        for _ in repair.steps(inputs):
            pass
    smaller.load_state_dict(multiplied(rewritten.state_dict(), plan.folded), strict=False)
    return repair.solved


def _joined(values: Sequence[Any], free: bool) -> Any:
    """One input, joined over all batches; an input without a batch dimension is taken once."""
    if free:
        return torch.cat(list(values))
    first = values[0]
    if isinstance(first, Tensor) and not all(torch.equal(first, other) for other in values):
        raise ValueError(
            f"`batches` must share what holds no samples, got an input of shape {tuple(first.shape)} that differs; repair on those "
            "batches in which it is the same."
        )
    return first


@dataclass(frozen=True)
class Followers:
    """What happens to a layer's output until another layer reads it.

    Attributes:
        norm: the batch norm that alone reads it.
        addition: the sum that alone reads that.
        other: the other term of the sum.
        end: the last of these operators.
        limits: the range that the activation behind `end` lets through.
    """

    norm: Node | None
    addition: Node | None
    other: Node | None
    end: Node
    limits: tuple[float, float] | None


def followers(node: Node) -> Followers:
    """Look at what follows a layer."""
    norm = addition = other = None
    end, user = node, _only_user(node)
    if user is not None and user.target is aten.batch_norm.default:
        norm = end = user
        user = _only_user(user)
    if user is not None and user.target is aten.add.Tensor and not user.kwargs:
        terms = [x for x in user.all_input_nodes if x is not end]
        if len(terms) == 1 and len(user.args) == 2:
            addition, other, end, user = user, terms[0], user, _only_user(user)
    return Followers(norm, addition, other, end, bounds(user))


class _Repair(Runner):
    """Runs the smaller graph beside the full one and solves each layer just before it runs."""

    def __init__(
        self,
        removal: Removal,
        rewritten: GraphModel,
        inputs: list[Any],
        ridge: float,
        iterations: int,
        progress: Progress,
    ) -> None:
        super().__init__(rewritten)
        self.removal, self.ridge, self.iterations, self.solved = removal, ridge, iterations, 0
        self.progress = progress
        apart = {node.name for node in removal.graph.trace.nodes if chooses(node)}  # the full model chooses other rows
        nodes = [node for node in self.graph.nodes if _is_solvable(node) and node.name not in apart]
        self.layers = {node: followers(node) for node in nodes}
        self.pending: set[Node] = set()  # layers that wait for the other term of their sum
        self.aims: dict[str, Tensor] = {}
        self.wanted = {n.name for node, f in self.layers.items() for n in (node, f.norm, f.end) if n is not None}
        values = removal.graph.trace.values()
        users = [name for name in values if name not in removal.graph.trace.tensors]
        full = Runner(removal.graph.trace.graph_module)
        self.full_steps = full.steps(list((values | dict(zip(users, inputs, strict=True))).values()))

    def run_node(self, node: Node) -> Any:
        """Solve the layer at this node, if there is one, and run it. A node that ran before its turn is left."""
        if node in self.env:
            return self.env[node]
        if node in self.layers:
            self.pending.add(node)
            self._solve(node, self.layers[node])
            self.pending.remove(node)
        if node.target is aten.batch_norm.default:
            self._adjust(node)
        return super().run_node(node)

    def _solve(self, node: Node, after: Followers) -> None:
        a = arguments(node)
        weight = self.fetch_attr(str(a["weight"].target))
        slope, shift = self._affine(after.norm, weight)
        has_bias = isinstance(a["bias"], Node)
        bias = self.fetch_attr(a["bias"].target) if has_bias else weight.new_zeros(len(weight))
        other = self._early(after.other)
        end = after.end if other is not None else after.norm or node
        aim = self._aim(end)
        if other is not None and other.shape != aim.shape:
            end, other = after.norm or node, None
            aim = self._aim(end)
        outputs = [aim] if other is None else [aim, other]
        limits = after.limits if end is after.end else None
        old = torch.cat([weight.flatten(1), bias[:, None]], 1) * slope[:, None]
        old[:, -1] += shift
        shifted = has_bias or after.norm is not None
        kernel = weight.shape[2:]
        parts = list(sampled(node, self.env[a["input"]], kernel, outputs))
        new = _solved(parts, old, self.ridge, shifted, limits, self.iterations)
        change = slope.abs() > 1e-2 * slope.abs().mean()  # channels that their norm all but switches off stay
        weight[change] = (new[:, :-1] / slope[:, None]).view_as(weight)[change].to(weight.dtype)
        moved = ((new[:, -1] - shift) / slope)[change].to(weight.dtype)
        if has_bias:
            bias[change] = moved
        elif after.norm is not None:
            self.fetch_attr(arguments(after.norm)["running_mean"].target)[change] -= moved
        self.solved += 1
        self.progress("least squares", self.solved, len(self.layers))

    def _adjust(self, norm: Node) -> None:
        """Give a batch norm the statistics of its inputs, and scale and shift by which it computes the same as before.

        Then training, which normalises by the statistics of its batches, starts from what the repaired model computes.
        """
        a = arguments(norm)
        if not all(isinstance(a[name], Node) and len(a[name].users) == 1 for name in ("weight", "bias")):
            return
        channels = self.env[a["input"]].transpose(0, 1).flatten(1)
        slope, shift = self._affine(norm, channels)
        variance, mean = torch.var_mean(channels, 1)
        used = variance > 0  # a constant channel has no spread to be scaled by
        for name, new in (
            ("weight", slope * (variance + a["eps"]).sqrt()),
            ("bias", shift + slope * mean),
            ("running_mean", mean),
            ("running_var", variance),
        ):
            self.fetch_attr(str(a[name].target))[used] = new[used]

    def _early(self, node: Node | None) -> Tensor | None:
        """A value that the order of execution may reach only later; None if it hangs on a layer being solved."""
        if node is None:
            return None
        if node not in self.env:
            if node in self.pending or node.op == "output":
                return None
            if any(self._early(source) is None for source in node.all_input_nodes):
                return None
            self.env[node] = self.run_node(node)
        value: Tensor = self.env[node]
        return value

    def _aim(self, node: Node) -> Tensor:
        """The full model's value at a node, on the channels that stay."""
        while node.name not in self.aims:
            full, value = next(self.full_steps)
            if full.name in self.wanted:
                tensor = (
                    value[0] if isinstance(value, (tuple, list)) else value
                )  # a batch norm of the exporter returns three
                self.aims[full.name] = self.removal.slice(tensor, self.removal.graph.results(full)[0])
        return self.aims[node.name]

    def _affine(self, norm: Node | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch norm multiplies by and adds, shapes (C,), for a tensor whose first dimension is C."""
        if norm is None:
            return like.new_ones(len(like)), like.new_zeros(len(like))
        a = arguments(norm)
        mean, variance = (self.fetch_attr(a[name].target) for name in ("running_mean", "running_var"))
        slope = (variance + a["eps"]).rsqrt()
        if isinstance(a["weight"], Node):
            slope = slope * self.fetch_attr(str(a["weight"].target))
        shift = -mean * slope
        if isinstance(a["bias"], Node):
            shift = shift + self.fetch_attr(str(a["bias"].target))
        return slope, shift


def _is_solvable(node: Node) -> bool:
    if not is_product(node):
        return False
    weight = arguments(node)["weight"]
    return isinstance(weight, Node) and weight.op == "get_attr" and len(weight.users) == 1


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _solved(
    parts: list[tuple[Tensor, ...]],
    old: Tensor,
    ridge: float,
    shifted: bool,
    limits: tuple[float, float] | None,
    iterations: int,
) -> Tensor:
    """Minimise |aim - other - W x|² + r |W - old|², with r relative to the mean of x²; the shift is not held back.

    Args:
        parts: columns x (Q, P), aims (O, P) and, where a shortcut is added, the other term (O, P).
        old: weights with the shift as the last column, (O, Q + 1).
        ridge: r.
        shifted: whether the layer has a shift to solve for.
        limits: aims at or beyond these count as met by any value beyond.
        iterations: how often to solve again for aims moved within the limits.

    Returns:
        Weights and shift, (O, Q + 1).
    """
    fixed = old[:, -1:]
    if not shifted:
        old = old[:, :-1]
    gram = old.new_zeros(old.shape[1], old.shape[1], dtype=torch.float64)
    cross = old.new_zeros(old.shape, dtype=torch.float64)
    if shifted:
        parts = [(torch.cat([x, x.new_ones(1, x.shape[1])]), *rest) for x, *rest in parts]
    for x, aim, *rest in parts:
        gram += x @ x.t()
        cross += (aim - rest[0] if rest else aim) @ x.t()
    held = torch.full((len(gram),), ridge * float(gram.diagonal().mean()), dtype=gram.dtype, device=gram.device)
    if shifted:
        held[-1] = 0
    factor = torch.linalg.lu_factor(gram + torch.diag(held + 1e-12))

    def solve(cross: Tensor) -> Tensor:
        return torch.linalg.lu_solve(*factor, cross + old.double() * held, left=False)

    new = solve(cross)
    for _ in range(iterations if limits else 0):
        assert limits is not None
        cross.zero_()
        for x, aim, *rest in parts:
            other = rest[0] if rest else torch.zeros(())
            now = new.to(x.dtype) @ x + other
            moved = torch.where(aim <= limits[0], now.clamp(max=limits[0]), aim)
            moved = torch.where(aim >= limits[1], now.clamp(min=limits[1]), moved)
            cross += (moved - other) @ x.t()
        new = solve(cross)
    return new if shifted else torch.cat([new, fixed], 1)
