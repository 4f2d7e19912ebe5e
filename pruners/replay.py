"""A plan's removal, found again in a model."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pruners.groups import dependency_groups, tie_axes
from pruners.plan import PruningPlan, example_inputs, kept_by
from pruners.rewrite import Removal
from pruners.tracing import trace


def replay(plan: PruningPlan, model: nn.Module) -> Removal:
    """Trace a model and find what a plan removes from it.

    Args:
        plan: made for a model of the same structure; weights may differ.
        model: on any device; it is left untouched.

    Raises:
        ValueError: if the plan was made for another model.
    """
    inputs = example_inputs(plan.inputs)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), inputs)
    graph = tie_axes(trace(model, args, kwargs))
    return Removal(graph, kept_by(plan, graph, dependency_groups(graph)))
