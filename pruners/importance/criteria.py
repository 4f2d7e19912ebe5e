"""Criteria: a score for every weight, "larger = keep".

Those of weights alone map tensors by name to scores of the same shapes. Those of data take a model and batches as well. `lamp`
is of indices instead. None changes a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.errors import fitting
from pruners.importance.relevance import reads_weight
from pruners.operators import operator
from pruners.surgery import GraphModel
from pruners.tracing import Batch, Runner
from pruners.untouched import untouched
from search_spaces.core import first_line

Tensors = Mapping[str, torch.Tensor]
Scores = dict[str, torch.Tensor]
Loss = Callable[[Any, Any], torch.Tensor]


def l1(tensors: Tensors) -> Scores:
    """Absolute value of each weight."""
    return {name: tensor.abs() for name, tensor in tensors.items() if tensor.dim() > 1}


def l2(tensors: Tensors) -> Scores:
    """Square of each weight; the root is left out, which changes no order."""
    return {name: tensor.square() for name, tensor in tensors.items() if tensor.dim() > 1}


def lamp(scores: torch.Tensor) -> torch.Tensor:
    """Squared norm of each index, divided by the sum of all squared norms that are at least as large.

    Args:
        scores: squared norms of the indices of a group, of any shape.

    Reference: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021.
    Differs: of squared norms of indices rather than of single squared weights.
    """
    squares, order = scores.double().flatten().sort(stable=True)
    at_least = squares.flip(0).cumsum(0).flip(0)
    shares = squares / at_least.clamp_min(torch.finfo(squares.dtype).tiny)
    return torch.empty_like(squares).scatter(0, order, shares).view_as(scores).to(scores.dtype)


def taylor(model: nn.Module, batches: Iterable[Batch], loss: Loss, tensors: Tensors) -> Scores:
    """First-order change of the loss when a weight goes: |weight x gradient|, added up over the batches.

    Reference: Molchanov et al., Importance estimation for neural network pruning, CVPR 2019.
    Differs: the absolute value is taken per weight, so that opposite signs do not cancel inside an index.
    """
    return _from_gradients(model, batches, loss, tensors, lambda weight, gradient: (weight * gradient).abs())


def fisher(model: nn.Module, batches: Iterable[Batch], loss: Loss, tensors: Tensors) -> Scores:
    """Half of weight squared times the squared gradient, one sample at a time: optimal brain damage.

    Reference: LeCun et al., Optimal brain damage, NeurIPS 1989; the Hessian's diagonal by squared gradients.
    """
    samples = (batch.part(i, i + 1) for batch in batches for i in range(_count(batch)))
    return _from_gradients(model, samples, loss, tensors, lambda w, g: 0.5 * w.square() * g.square())


def activation(model: GraphModel, batches: Iterable[Batch], tensors: Tensors) -> Scores:
    """|weight| times the root mean square of the input feature it reads, over the batches.

    Reference: Sun et al., A simple and effective pruning approach for large language models (Wanda), ICLR 2024.
    Differs: scores are summed per index over all members rather than compared inside each output row.
    """
    norms: dict[str, torch.Tensor] = {}
    run = Runner(model)
    with torch.no_grad():
        for batch in batches:
            for node, _ in run.steps(batch.inputs):
                if not reads_weight(node) or "transpose" in operator(node):
                    continue
                source, weight = node.args[:2]
                if isinstance(source, Node) and isinstance(weight, Node) and weight.target in tensors:
                    x = run.env[source].float().movedim(1 - tensors[str(weight.target)].dim(), -1)  # features last
                    rows = x.reshape(-1, x.shape[-1])  # none where no token is routed to an expert
                    squares = rows.square().sum(0) / max(len(rows), 1)
                    norms[str(weight.target)] = norms.get(str(weight.target), 0) + squares
    result = {}
    for name, squares in norms.items():
        weight = tensors[name]
        per_row = squares.sqrt()
        if weight.shape[1] != len(per_row):  # grouped: each row reads the features of its own group
            rows = per_row.view(-1, weight.shape[1])
            per_row = rows.repeat_interleave(len(weight) // len(rows), 0)
        result[name] = weight.abs() * per_row.view(*per_row.shape, *[1] * (weight.dim() - 2))
    return result


def cross_entropy(outputs: Any, targets: Any) -> torch.Tensor:
    """The loss where none is given: cross-entropy of the first tensor that the model returns.

    Args:
        outputs: what the model returns, with logits (N, classes) in front.
        targets: labels (N,), or whatever else `torch.nn.functional.cross_entropy` takes.

    Raises:
        ValueError: if they do not fit.
    """
    first = first_tensor(outputs)
    try:
        return nn.functional.cross_entropy(first, targets)
    except Exception as error:
        raise ValueError(
            f"without a `loss`, the model must return logits (N, classes) first, for labels (N,), got {_shape(first)} and "
            f"{_shape(targets)}: {first_line(error)}; give `loss`, a function of (outputs, targets)."
        ) from error


def first_tensor(outputs: Any) -> Any:
    """The first tensor among what a model returns, None if there is none."""
    return next((x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)), None)


def _from_gradients(model: nn.Module, batches: Iterable[Batch], loss: Loss, tensors: Tensors, score: Any) -> Scores:
    """Sum score(weight, gradient) over batches; gradients of the caller are left as they were."""
    parameters = {name: p for name, p in model.named_parameters() if name in tensors and p.is_floating_point()}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    before = {name: p.requires_grad for name, p in parameters.items()}
    try:
        for p in parameters.values():
            p.requires_grad_(True)
        for batch in batches:
            with untouched(model, ()), torch.enable_grad():
                value = _one_number(loss(_forward(model, batch), _targets(batch)))
                gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                if gradient is not None:
                    total[name] += score(p.detach(), gradient)
    finally:
        for name, p in parameters.items():
            p.requires_grad_(before[name])
    return {name: scores.float() for name, scores in total.items()}


def _forward(model: nn.Module, batch: Batch) -> Any:
    if isinstance(model, GraphModel):
        *_, (_, outputs) = Runner(model).steps(batch.inputs)
        return model.graph.process_outputs(outputs)
    with fitting(batch.args, batch.kwargs, "batches"):
        return model(*batch.args, **batch.kwargs)


def _targets(batch: Batch) -> Any:
    if batch.targets is None:
        raise ValueError("`importance` by gradients needs `batches` of (inputs, targets), got no targets.")
    return batch.targets


def _count(batch: Batch) -> int:
    """How many samples a batch has: as many as its targets."""
    targets = first_tensor(_targets(batch))
    if targets is None or not targets.dim():
        raise ValueError(
            f"`importance='fisher'` needs targets in tensors, a sample in each row, got {_shape(batch.targets)}; use 'taylor'."
        )
    return len(targets)


def _one_number(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and value.requires_grad:
        return value
    found = f"{_shape(value)} without a gradient" if isinstance(value, torch.Tensor) else _shape(value)
    raise ValueError(
        f"`loss` must return a tensor of one number that depends on the outputs, got {found}; take the mean, and detach nothing."
    )


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
