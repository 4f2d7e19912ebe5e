"""Relevance of channels for the decision of a classifier, by layer-wise relevance propagation as a modified gradient.

The relevance of a value is the value times a gradient. Propagation rules change the gradient of an operator alone: its result
stays what it is. With the plain gradient everywhere, relevance is input times gradient, which already is the rule for ReLU,
batch normalisation (its shift absorbs relevance), pooling and additions, where each term gets its share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruners.groups import Group
from pruners.operators import leaves, operator
from pruners.surgery import GraphModel, Removal
from pruners.tracing import Batch, Runner

GATES = ("gelu", "silu", "hardswish", "mish")  # relevance passes them whole
TINY = 1e-9


class Relevance(Runner):
    """Runs a graph so that values times gradients are relevance.

    Args:
        model: a rewritten graph.
        positive: use the z+ rule for convolutions, which follows what excites, rather than epsilon.
        epsilon: of the epsilon rule, in root mean squares of a layer's output; 0 leaves the gradient.
    """

    def __init__(self, model: GraphModel, positive: bool = False, epsilon: float = 0.01) -> None:
        super().__init__(model)
        self.positive, self.epsilon = positive, epsilon

    def run_node(self, node: Node) -> Any:
        """Run one operator with its rule."""
        result = super().run_node(node)
        name = short_name(node)
        if isinstance(result, nn.Parameter):
            return result.detach().requires_grad_()
        if name.startswith("conv") and self.positive:
            return _passing(result, self._positive_parts(node), TINY)
        if reads_weight(node):
            return _passing(result, result, self.epsilon * float(result.detach().square().mean().sqrt()))
        if name in GATES:
            return _passing(result, self.env[node.all_input_nodes[0]], TINY)
        return result

    def _positive_parts(self, node: Node) -> Tensor:
        """The convolution of positive inputs with positive weights, and of negative ones with negative ones."""
        (x, weight, _, *rest), kwargs = self.fetch_args_kwargs_from_env(node)
        assert callable(node.target)
        parts = [node.target(x.clamp(min=0), weight.clamp(min=0), None, *rest, **kwargs)]
        if x.min() < 0:
            parts.append(node.target(x.clamp(max=0), weight.clamp(max=0), None, *rest, **kwargs))
        return torch.stack(parts).sum(0)


def relevance(
    base: Removal,
    groups: Sequence[Group],
    model: GraphModel,
    batches: Iterable[Batch],
    positive: bool = False,
    epsilon: float = 0.01,
) -> dict[str, list[Tensor]]:
    """Relevance of every index for the true classes, once per layer that puts a group's indices out.

    Per sample the relevance of an index is added up with its sign; samples add up without.

    Args:
        base: the traced full model with its axes, and what stays of it.
        groups: groups to score.
        model: the rewritten graph of what stays.
        batches: with labels of shape (N,) as targets; the first tensor that the model returns are logits of shape (N, classes).
        positive: z+ for convolutions.
        epsilon: see `Relevance`.

    Returns:
        Group name to scores of the group's shape, larger = keep; an empty list where no layer puts the group out.

    Reference: Yeom et al., Pruning by explaining, Pattern Recognition 2021; rules of Bach et al., PLoS ONE 2015.
    Differs: relevance starts as the logit of the true class rather than as 1, so that no sample is divided by a small logit.
    """
    nodes = {node.name: node for node in base.graph.trace.nodes if reads_weight(node)}
    found: dict[str, list[Tensor]] = {group.name: [] for group in groups}
    totals: dict[tuple[str, int], Tensor] = {}
    for batch in batches:
        for name, scores in _of_layers(Relevance(model, positive, epsilon), set(nodes), batch).items():
            for dim in range(1, scores.dim()):
                others = [d for d in range(1, scores.dim()) if d != dim]
                vector = (scores.sum(others) if others else scores).abs().sum(0)
                totals[name, dim] = totals.get((name, dim), torch.zeros_like(vector)) + vector
    for group in groups:
        for (name, dim), vector in totals.items():
            dims = base.graph.dims(nodes[name])
            if group.axis in leaves(dims[dim]):
                places, index = base.units(dims, dim, group)
                if len(places) == 1:
                    index = index.to(vector.device)
                    scores = vector.new_zeros(math.prod(group.shape)).index_add(
                        0, index[index >= 0], vector[index >= 0]
                    )
                    found[group.name].append(scores.float().view(group.shape))
    return found


def reads_weight(node: Node) -> bool:
    """Whether an operator multiplies by weights as a convolution or a linear layer."""
    return short_name(node).startswith(("conv", "linear"))


def short_name(node: Node) -> str:
    """The operator's name in torch's words, without its library and overload."""
    return operator(node).removeprefix("aten.").partition(".")[0] if node.op == "call_function" else ""


def _of_layers(run: Relevance, layers: set[str], batch: Batch) -> dict[str, Tensor]:
    """Relevance of the outputs of some layers, of the shapes of these outputs."""
    labels = batch.targets
    if not isinstance(labels, Tensor):
        raise ValueError("`importance='lrp'` needs `batches` of (inputs, labels), got no labels.")
    values = {}
    with torch.enable_grad():
        for node, value in run.steps(batch.inputs):
            if node.name in layers:
                values[node.name] = value
        logits = next((x for x in value if isinstance(x, Tensor)), torch.tensor(0))
        if not _classified(logits, labels):
            raise ValueError(
                f"`importance='lrp'` needs logits (N, classes) as the first tensor that the model returns and labels (N,) of these "
                f"classes, got {tuple(logits.shape)} and {tuple(labels.shape)} of {labels.dtype}, such as "
                f"{labels.flatten()[:8].tolist()}; use 'taylor' with a `loss` for other outputs."
            )
        chosen = logits.gather(1, labels.long()[:, None]).sum()
        gradients = torch.autograd.grad(chosen, list(values.values()), allow_unused=True)
    return {
        name: (value * gradient).detach()
        for (name, value), gradient in zip(values.items(), gradients, strict=True)
        if gradient is not None
    }


def _classified(logits: Tensor, labels: Tensor) -> bool:
    """Whether labels (N,) are among the classes of logits (N, classes)."""
    fits = logits.dim() == 2 and labels.shape == logits.shape[:1] and not labels.is_floating_point()
    return fits and labels.numel() > 0 and int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]


def _passing(result: Tensor, surrogate: Tensor, stabiliser: float) -> Tensor:
    """The result, with the gradient of `surrogate` scaled so that as much relevance passes as there is."""
    ratio = (result / (surrogate + stabiliser * torch.where(surrogate < 0, -1, 1))).detach() if stabiliser else 1
    passed = surrogate * ratio
    return passed + (result - passed).detach()
