"""A plan's removal, found again in a model, and the smaller graph that it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pruners.groups import dependency_groups, tie_axes, uncompiled
from pruners.surgery.attributes import alike, attribute, attribute_changes
from pruners.surgery.blocks import Block, named_blocks
from pruners.surgery.bypass import bypass, passed_on
from pruners.surgery.folding import multiply_
from pruners.surgery.huggingface import configure
from pruners.surgery.layers import leave_out
from pruners.surgery.low_rank import low_rank_
from pruners.surgery.module import cut_module
from pruners.surgery.plan import OtherModel, PruningPlan, example_inputs, kept_by
from pruners.surgery.repeats import named_repeats, repeat_
from pruners.surgery.rewrite import GraphModel, Removal, rewrite
from pruners.tracing import trace


def replay(plan: PruningPlan, model: nn.Module) -> Removal:
    """Trace a model and find what a plan removes from it.

    Args:
        plan: made for a model of the same structure; weights may differ.
        model: on any device; it is left untouched.

    Raises:
        ValueError: if the plan was made for another model.
    """
    model = uncompiled(model)
    inputs = example_inputs(plan.inputs)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), inputs)
    graph = tie_axes(trace(model, args, kwargs, plan.every_size))
    return Removal(graph, kept_by(plan, graph, dependency_groups(graph)))


def follow(plan: PruningPlan, model: nn.Module) -> tuple[nn.Module, nn.Module, Removal]:
    """Make a smaller model, plan by plan of the chain: it, the model that the last plan was made for, and what that removes.

    Args:
        plan: made for a model of the same structure, or for what earlier plans, which it holds, made of one.
        model: the original, or what some of the earlier plans made of it; it is left untouched.

    Raises:
        ValueError: if the plan was made for another model.
    """
    full = uncompiled(model)
    first, removal = _first_of(plan.chain, full)
    smaller = rebuild(plan.chain[first], removal, full)
    for step in plan.chain[first + 1 :]:
        configure(smaller, full, removal)
        full, removal = smaller, replay(step, smaller)
        smaller = rebuild(step, removal, full)
    return smaller, full, removal


def _first_of(chain: Sequence[PruningPlan], model: nn.Module) -> tuple[int, Removal]:
    """Which plan of a chain was made for a model, and what it removes."""
    refused: OtherModel | None = None
    for place, step in enumerate(chain):
        try:
            return place, replay(step, model)
        except OtherModel as error:
            refused = refused or error
    assert refused is not None
    raise refused


def smaller_graph(plan: PruningPlan, removal: Removal) -> GraphModel:
    """The rewritten graph of a plan: what `removal` keeps, without some blocks, with others twice, and with layers of low rank.

    Raises:
        ValueError: if the plan names a block that the model does not have.
    """
    rewritten = rewrite(removal, plan.least)
    gone = left_out(plan, removal)
    bypass(rewritten, gone)
    repeat_(rewritten, named_repeats(removal.graph, plan.repeated), passed_on(gone))
    low_rank_(rewritten, plan.ranks)
    return rewritten


def left_out(plan: PruningPlan, removal: Removal) -> list[Block]:
    """The blocks of the model that a plan leaves out.

    Raises:
        ValueError: if the plan names a block that the model does not have.
    """
    return named_blocks(removal.graph, plan.blocks)


def rebuild(plan: PruningPlan, removal: Removal, model: nn.Module) -> nn.Module:
    """The smaller model of a plan, in the form that it was saved in, with the weights of the model.

    Raises:
        ValueError: if the plan names a block that the model does not have.
    """
    if plan.form == "graph":
        return smaller_graph(plan, removal)
    graph_model = smaller_graph(replace(plan, ranks={}), removal)
    multiply_(graph_model, plan.folded)
    changes = attribute_changes(removal, model)
    mended = {name: new for name, new in changes.items() if plan.mended is None or name in plan.mended}
    for name, new in plan.attributes.items():
        kept = attribute(model, name)
        mended[name] = alike(kept, new) if isinstance(kept, (list, tuple)) and isinstance(new, Sequence) else new
    module = cut_module(removal, model, graph_model, mended)
    if plan.blocks:
        module, _ = leave_out(module, removal, left_out(plan, removal), plan.dropped, graph_model)
    low_rank_(module, plan.ranks, plan.full_name)
    return module
