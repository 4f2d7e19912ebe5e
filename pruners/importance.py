"""How much each index of a group matters: a criterion scores every weight, a group adds up what its members say.

A criterion maps the model's tensors to one score per entry, "larger = keep". Scores of entries that belong to one index
are summed inside each member, aggregated over members, and normalised inside the group, so that groups can be ranked
together. Scores never change a weight. Groups are scored on the axes they have; shapes below: n indices of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.axes import units
from pruners.groups import AxisGraph, Group, Member
from pruners.tracing import arguments, evaluating, operator

Tensors = Mapping[str, torch.Tensor]
Scores = dict[str, torch.Tensor]
Loss = Callable[[Any, Any], torch.Tensor]
AGGREGATIONS = ("sum", "mean", "max")
NORMALISATIONS = ("mean", "max", "sum", "none")


def l1(tensors: Tensors) -> Scores:
    """Absolute value of each weight."""
    return {name: tensor.abs() for name, tensor in tensors.items() if tensor.dim() > 1}


def l2(tensors: Tensors) -> Scores:
    """Square of each weight; the root is left out, which changes no order."""
    return {name: tensor.square() for name, tensor in tensors.items() if tensor.dim() > 1}


def lamp(tensors: Tensors) -> Scores:
    """Square of each weight over the sum of all squares in its layer that are not smaller.

    Reference: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021.
    """
    result = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1:
            squares, order = tensor.square().flatten().sort(stable=True)
            at_least = squares.flip(0).cumsum(0).flip(0)
            scores = squares / at_least.clamp_min(torch.finfo(squares.dtype).tiny)
            result[name] = torch.empty_like(squares).scatter(0, order, scores).view_as(tensor)
    return result


def taylor(model: nn.Module, batches: Iterable[Any], loss: Loss, tensors: Tensors) -> Scores:
    """First-order change of the loss when a weight goes: |weight x gradient|, added up over the batches.

    Reference: Molchanov et al., Importance estimation for neural network pruning, CVPR 2019.
    Differs: the absolute value is taken per weight, so that opposite signs do not cancel inside an index.
    """
    return _from_gradients(model, batches, loss, tensors, lambda weight, gradient: (weight * gradient).abs())


def fisher(model: nn.Module, batches: Iterable[Any], loss: Loss, tensors: Tensors) -> Scores:
    """Half of weight squared times the squared gradient, one sample at a time: optimal brain damage.

    Reference: LeCun et al., Optimal brain damage, NeurIPS 1989; the Hessian's diagonal by squared gradients.
    """
    samples = (sample for batch in batches for sample in _samples(batch))
    return _from_gradients(model, samples, loss, tensors, lambda w, g: 0.5 * w.square() * g.square())


def activation(model: nn.Module, batches: Iterable[Any], tensors: Tensors) -> Scores:
    """|weight| times the root mean square of the input feature it reads, over the batches.

    Reference: Sun et al., A simple and effective pruning approach for large language models (Wanda), ICLR 2024.
    Differs: scores are summed per index over all members rather than compared inside each output row.
    """
    norms: dict[str, torch.Tensor] = {}
    layers = {f"{name}.weight": module for name, module in model.named_modules() if _reads_features(module)}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0].detach().float()
            x = x.transpose(1, -1) if not isinstance(module, nn.Linear) else x
            squares = x.reshape(-1, x.shape[-1]).square().mean(0)
            norms[name] = norms.get(name, torch.zeros_like(squares)) + squares

        return hook

    hooks = [module.register_forward_pre_hook(record(name)) for name, module in layers.items() if name in tensors]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                _forward(model, batch)
    finally:
        for handle in hooks:
            handle.remove()
    result = {}
    for name, squares in norms.items():
        weight = tensors[name]
        per_row = squares.sqrt()
        if weight.shape[1] != len(per_row):  # grouped: each row reads the features of its own group
            rows = per_row.view(-1, weight.shape[1])
            per_row = rows.repeat_interleave(len(weight) // len(rows), 0)
        result[name] = weight.abs() * per_row.view(*per_row.shape, *[1] * (weight.dim() - 2))
    return result


WEIGHT_CRITERIA: dict[str, Callable[[Tensors], Scores]] = {"l1": l1, "l2": l2, "lamp": lamp}
CRITERIA = (*WEIGHT_CRITERIA, "bn_scale", "fpgm", "random", "taylor", "fisher", "activation")


def score_groups(
    graph: AxisGraph,
    groups: Sequence[Group],
    criterion: str = "l2",
    *,
    model: nn.Module | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    aggregate: str = "sum",
    normalise: str = "mean",
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Score every index of every group; larger = keep.

    Args:
        graph: the traced model with its axes.
        groups: groups to score.
        criterion: one of `CRITERIA`.
        model: the model itself, for criteria that pass over data.
        batches: iterable of (inputs, targets), or of inputs for "activation".
        loss: loss(outputs, targets), cross-entropy if None.
        aggregate: "sum", "mean" or "max" over the members of a group.
        normalise: what the scores of a group are divided by: "mean", "max", "sum" or "none".
        seed: of the "random" criterion.

    Returns:
        Group name to scores of shape (n,), float32.
    """
    for name, value, allowed in (
        ("importance", criterion, CRITERIA), ("aggregate", aggregate, AGGREGATIONS), ("normalise", normalise, NORMALISATIONS)
    ):  # fmt: skip
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return {group.name: torch.rand(group.size, generator=generator) for group in groups}
    tensors = {name: graph.trace.tensor(name).detach().float() for name in graph.tensors if _is_weight(graph, name)}
    if criterion in WEIGHT_CRITERIA:
        entries = WEIGHT_CRITERIA[criterion](tensors)
    elif criterion == "bn_scale":
        entries = {name: tensors[name].abs() for name in batch_norm_scales(graph) if name in tensors}
    elif criterion == "fpgm":
        entries = {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1}
    else:
        if batches is None or model is None:
            raise ValueError(f"`importance={criterion!r}` needs `batches`, an iterable of (inputs, targets).")
        if criterion == "activation":
            entries = activation(model, batches, tensors)
        else:
            entries = {"taylor": taylor, "fisher": fisher}[criterion](
                model, batches, loss or nn.functional.cross_entropy, tensors
            )
    result = {}
    for group in groups:
        found = [_score_member(m, group, entries[m.tensor], criterion) for m in group.members if m.tensor in entries]
        if not found:  # nothing that the criterion speaks of (no batch norm, only vectors): squared weights
            found = [unit_sums(tensors[m.tensor].square(), m, group) for m in group.members if m.tensor in tensors]
        result[group.name] = _normalised(_aggregated(found, group.size, aggregate), normalise)
    return result


def batch_norm_scales(graph: AxisGraph) -> list[str]:
    """Names of the scales of all batch norms."""
    scales = (arguments(node).get("weight") for node in graph.trace.nodes if "batch_norm" in operator(node))
    names = (graph.trace.tensors.get(scale.name) for scale in scales if isinstance(scale, Node))
    return [name for name in names if name]


def unit_sums(entries: torch.Tensor, member: Member, group: Group) -> torch.Tensor:
    """Sum a member's entries per index of the group: shape (n,)."""
    other = [d for d in range(entries.dim()) if d != member.dim]
    vector = entries.sum(other) if other else entries
    index = units(member.axis, group.axis).to(vector.device)
    return vector.new_zeros(group.size).index_add(0, index[index >= 0], vector[index >= 0])


def _score_member(member: Member, group: Group, entries: torch.Tensor, criterion: str) -> torch.Tensor:
    if criterion != "fpgm":
        return unit_sums(entries, member, group)
    rows = entries.movedim(member.dim, 0).flatten(1)
    index = units(member.axis, group.axis)
    order = index[index >= 0].argsort(stable=True)
    vectors = rows[index >= 0][order].view(group.size, -1)  # all entries of one index side by side
    return _distances(vectors)


def _distances(vectors: torch.Tensor) -> torch.Tensor:
    """Sum of distances of each vector to all others; shape (n,).

    Reference: He et al., Filter pruning via geometric median, CVPR 2019.
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def _aggregated(found: list[torch.Tensor], size: int, aggregate: str) -> torch.Tensor:
    if not found:
        return torch.ones(size)
    stacked = torch.stack(found)
    return {"sum": stacked.sum(0), "mean": stacked.mean(0), "max": stacked.amax(0)}[aggregate]


def _normalised(scores: torch.Tensor, normalise: str) -> torch.Tensor:
    if normalise == "none":
        return scores
    by = {"mean": scores.mean(), "max": scores.max(), "sum": scores.sum()}[normalise]
    return scores / by if by > 0 else scores


def _from_gradients(model: nn.Module, batches: Iterable[Any], loss: Loss, tensors: Tensors, score: Any) -> Scores:
    """Sum score(weight, gradient) over batches; gradients of the caller are left as they were."""
    parameters = {name: p for name, p in model.named_parameters() if name in tensors and p.is_floating_point()}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    before = {name: p.requires_grad for name, p in parameters.items()}
    seen = 0
    try:
        for p in parameters.values():
            p.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                value = loss(_logits(_forward(model, batch)), batch[1])
                gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                    if gradient is not None:
                        total[name] += score(p.detach(), gradient)
                seen += 1
    finally:
        for name, p in parameters.items():
            p.requires_grad_(before[name])
    if not seen:
        raise ValueError("`batches` must hold at least one batch, got none; pass a list or a data loader.")
    return {name: scores.float() for name, scores in total.items()}


def _samples(batch: Any) -> Iterable[Any]:
    inputs, targets = batch
    size = len(targets)
    return ((pytree.tree_map(lambda x, i=i: x[i : i + 1], inputs), targets[i : i + 1]) for i in range(size))


def _forward(model: nn.Module, batch: Any) -> Any:
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _logits(outputs: Any) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else pytree.tree_leaves(outputs)[0]


def _reads_features(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _is_weight(graph: AxisGraph, name: str) -> bool:
    return isinstance(graph.trace.tensor(name), nn.Parameter)
