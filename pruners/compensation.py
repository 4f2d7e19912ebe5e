"""Repair after removal without training: batch-norm statistics, and weights by least squares.

Shapes: N samples, C input channels, K kernel positions, Q = C K unfolded inputs, O outputs, P positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.check import Runner
from pruners.groups import dependency_groups, tie_axes
from pruners.plan import PruningPlan, example_inputs, kept_by
from pruners.rewrite import GraphModel, Removal, rewrite
from pruners.tracing import arguments, evaluating, trace

aten = torch.ops.aten
ENOUGH = 100_000  # positions per layer that a solution is based on


def recalibrate_(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every batch norm by their average over batches, each weighing the same.

    Args:
        model: changed in place; weights, gradients and mode stay.
        batches: iterable of inputs, or of (inputs, targets).

    Raises:
        ValueError: if there is no batch.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    seen = 0
    with evaluating(model), torch.no_grad():
        for layer in layers:
            layer.training = True
        for seen, batch in enumerate(batches, 1):
            for layer in layers:
                layer.momentum = 1 / seen  # a cumulative average: the first batch replaces what was there
            if isinstance(model, GraphModel):
                model.set_batch_norm(training=True, momentum=1 / seen)
            model(_inputs(batch))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    if isinstance(model, GraphModel):
        model.set_batch_norm(training=model.training, momentum=0.1)
    if not seen:
        raise ValueError("`batches` must hold at least one batch, got none; pass a list or a data loader.")


def least_squares_(
    smaller: nn.Module, model: nn.Module, plan: PruningPlan, batches: Iterable[Any], ridge: float = 1e-4
) -> int:
    """Solve every convolution and linear layer, in order of execution, for what the full model computes there.

    Each layer sees the inputs that the repaired layers before it produce, and aims at the full model's output on the
    channels that stay; where that output is added to a shortcut, the shortcut's error is part of the aim. A layer
    without a bias takes one from the batch norm that follows. All samples are held in memory at once.

    Args:
        smaller: the pruned model, changed in place.
        model: the full model that `plan` was made for.
        plan: what was removed.
        batches: iterable of inputs, or of (inputs, targets); a thousand images are plenty.
        ridge: weight of staying close to the weights as they are, relative to the mean square of the inputs.

    Returns:
        How many layers were solved.

    Reference: the reconstruction of He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017.
    Differs: ridge instead of selection; towards the old weights, not zero; shortcut error in the aim; sequential.
    """
    graph = tie_axes(trace(model, *example_inputs(plan.inputs)))
    if not graph.trace.batched:
        raise ValueError(
            "`model` must take batches of any size, got one traced for a fixed size; recalibrate it instead."
        )
    removal = Removal(graph, kept_by(plan, graph, dependency_groups(graph)))
    rewritten = rewrite(removal)
    rewritten.load_state_dict(smaller.state_dict(), strict=False)
    inputs = torch.cat([_inputs(batch) for batch in batches])
    repair = _Repair(removal, rewritten, inputs, ridge)
    with torch.no_grad():
        for _ in repair.steps([inputs]):
            pass
    smaller.load_state_dict(rewritten.state_dict(), strict=False)
    return repair.solved


class _Repair(Runner):
    """Runs the smaller graph beside the full one and solves each layer just before it runs."""

    def __init__(self, removal: Removal, rewritten: GraphModel, inputs: Tensor, ridge: float) -> None:
        super().__init__(rewritten)
        self.removal, self.ridge, self.solved = removal, ridge, 0
        self.full = Runner(removal.graph.trace.graph_module)
        values = removal.graph.trace.values()
        users = [name for name in values if name not in removal.graph.trace.tensors]
        self.full_steps = self.full.steps(list((values | dict.fromkeys(users, inputs)).values()))
        self.full_nodes = {node.name: node for node in removal.graph.trace.nodes}

    def run_node(self, node: Node) -> Any:
        """Solve the layer that this node is, if it is one, and run it."""
        if node.target in (aten.conv2d.default, aten.linear.default):
            self._solve(node)
        return super().run_node(node)

    def _solve(self, node: Node) -> None:
        a = arguments(node)
        weight = a["weight"]
        if weight.op != "get_attr" or len(weight.users) > 1 or a.get("groups", 1) != 1:
            return
        aim = self._full_value(node, next(value for n, value in self.full_steps if n.name == node.name))
        norm, other = _followers(node)
        if other is not None and other in self.env and self.full_nodes[other.name] in self.full.env:
            error = self._full_value(other, self.full.env[self.full_nodes[other.name]]) - self.env[other]
            if error.shape == aim.shape:
                aim = aim + (error if norm is None else error / self._slope(norm))
        parameter = self.fetch_attr(str(weight.target))
        has_bias = isinstance(a["bias"], Node)
        with_bias = has_bias or norm is not None
        bias = self.fetch_attr(a["bias"].target) if has_bias else parameter.new_zeros(len(parameter))
        old = torch.cat([parameter.flatten(1), bias[:, None]], 1) if with_bias else parameter.flatten(1)
        new = _solved(_columns(node, a, self.env[a["input"]], aim, parameter.shape[2:]), old, self.ridge, with_bias)
        if with_bias:
            new, shift = new[:, :-1], new[:, -1]
            if has_bias:
                bias.copy_(shift)
            elif norm is not None:
                self.fetch_attr(arguments(norm)["running_mean"].target).sub_(shift)
        parameter.copy_(new.view_as(parameter))
        self.solved += 1

    def _full_value(self, node: Node, value: Tensor) -> Tensor:
        """The full model's value at a node, on the channels that stay; the number of samples is what it is."""
        dims = self.removal.graph.dims(self.full_nodes[node.name])
        return self.removal.slice(value, dims)

    def _slope(self, norm: Node) -> Tensor:
        """What a batch norm multiplies by, shaped (C, 1, 1), away from zero."""
        a = arguments(norm)
        scale = (self.fetch_attr(a["running_var"].target) + a["eps"]).rsqrt()
        if isinstance(a["weight"], Node):
            scale = scale * self.fetch_attr(str(a["weight"].target))
        small = scale.abs() < 1e-2 * scale.abs().mean()
        return torch.where(small, torch.full_like(scale, float("inf")), scale)[:, None, None]


def _followers(node: Node) -> tuple[Node | None, Node | None]:
    """The batch norm that alone reads a node's value, and what is then added to it, where there are such."""
    norm = None
    user = _only_user(node)
    if user is not None and user.target is aten.batch_norm.default:
        norm, node, user = user, user, _only_user(user)
    if user is not None and user.target is aten.add.Tensor and not user.kwargs:
        other = next((x for x in user.all_input_nodes if x is not node), None)
        return norm, other
    return norm, None


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _columns(
    node: Node, a: dict[str, Any], x: Tensor, aim: Tensor, kernel: torch.Size
) -> Iterator[tuple[Tensor, Tensor]]:
    """Unfolded inputs (Q, P) and aims (O, P), some samples at a time."""
    for part, target in zip(x.split(64), aim.split(64), strict=True):
        if node.target is aten.linear.default:
            columns = part.reshape(-1, part.shape[-1]).t(), target.reshape(-1, target.shape[-1]).t()
        else:
            unfolded = F.unfold(part, kernel, a["dilation"], a["padding"], a["stride"])  # (N, Q, P)
            columns = unfolded.transpose(0, 1).flatten(1), target.flatten(2).transpose(0, 1).flatten(1)
        step = max(1, len(x) * columns[0].shape[1] // (len(part) * ENOUGH))
        yield columns[0][:, ::step], columns[1][:, ::step]


def _solved(columns: Iterator[tuple[Tensor, Tensor]], old: Tensor, ridge: float, with_bias: bool) -> Tensor:
    """Minimise |aim - W x|² + r |W - old|², with r relative to the mean of x²; the bias is not held back."""
    gram = old.new_zeros(old.shape[1], old.shape[1], dtype=torch.float64)
    cross = old.new_zeros(old.shape, dtype=torch.float64)
    for x, aim in columns:
        if with_bias:
            x = torch.cat([x, x.new_ones(1, x.shape[1])])
        gram += x @ x.t()
        cross += aim @ x.t()
    held = torch.full((len(gram),), ridge * float(gram.diagonal().mean()), dtype=gram.dtype, device=gram.device)
    if with_bias:
        held[-1] = 0
    gram += torch.diag(held + 1e-12)
    return torch.linalg.solve(gram, cross + old.double() * held, left=False).to(old.dtype)


def _inputs(batch: Any) -> Tensor:
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(inputs, Tensor):
        raise ValueError(f"`batches` must hold tensors or (tensor, targets), got {type(inputs).__name__}.")
    return inputs
