"""The one way from what stays to a smaller model with a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from pruners.groups import AxisGraph, Group
from pruners.operators import Axis
from pruners.surgery.blocks import Block
from pruners.surgery.bypass import Bypassed, bypass, bypassed_outputs, passed_on, unneeded
from pruners.surgery.every_size import serve_sizes
from pruners.surgery.factors import prove_factors_, refused_factors
from pruners.surgery.layers import build_without
from pruners.surgery.low_rank import Known
from pruners.surgery.masked import Comparison, needs_copies
from pruners.surgery.module import Built, build
from pruners.surgery.plan import PruningPlan, full_name, make_plan, remember, remembered
from pruners.surgery.proof import prove, prove_in, verify
from pruners.surgery.repeats import Twice, repeat_
from pruners.surgery.rewrite import GraphModel, Removal, rewrite

WAS_A_MODULE = "the given model, the result of an earlier prune, still was a module"


class Cut(NamedTuple):
    """A smaller model whose graph is verified, and which is not yet proved itself.

    Attributes:
        removal: what stays.
        left_out: blocks that are left out.
        built: the smaller model.
        comparison: what the masked full model returned; None if nothing is checked, or in another type.
        ranks: name of a layer that is yet to become two to the rank of these.
        repeated: blocks that run twice.
    """

    removal: Removal
    left_out: Sequence[Block]
    built: Built
    comparison: Comparison | None
    ranks: Mapping[str, int] = MappingProxyType({})
    repeated: Sequence[Twice] = ()


class Proved(NamedTuple):
    """A smaller model, the plan that leads to it, and how far it is from the masked one: outputs, and every tensor inside.

    Attributes:
        fixed: of a graph that serves no other sizes than the example's, but for the batch: why.
    """

    model: nn.Module
    plan: PruningPlan
    difference: float | None
    inside: float | None
    fixed: str | None = None


@dataclass(frozen=True)
class Surgery:
    """Cuts one model, and proves each cut.

    Attributes:
        model: the full model; it is not changed.
        graph: its trace with the axes of every tensor.
        groups: its dependency groups.
        tolerance: largest relative difference allowed.
        check: whether anything is proved.
        check_dtype: the type that the proof computes in, on copies; the model's own if None.
    """

    model: nn.Module
    graph: AxisGraph
    groups: Sequence[Group]
    tolerance: float
    check: bool = True
    check_dtype: torch.dtype | None = None

    def cut(
        self,
        keep: Mapping[Axis, torch.Tensor],
        left_out: Sequence[Block] = (),
        ranks: Mapping[str, int] = MappingProxyType({}),
        repeated: Sequence[Twice] = (),
    ) -> Cut:
        """Verify that removing equals masking in the graph, and build the smaller model.

        Args:
            keep: what stays of each elementary axis.
            left_out: blocks that go as a whole; what `keep` says of indices inside them means nothing.
            ranks: name of a layer that `prove` makes two of to their rank; a module whose forward does not take that becomes a graph.
            repeated: blocks that run twice, which takes a graph.

        Raises:
            ValueError: if the trace is not the model, or removing does not equal masking.
        """
        removal = self.removal(keep, left_out)
        if needs_copies(removal):
            self.graph.trace = self.graph.trace.enlarged()
        rewritten = rewrite(removal)
        comparison = None
        if self.check and self.check_dtype is None:
            comparison = verify(removal, rewritten, self.groups, self.model, self.tolerance)
        if repeated:
            self._change_blocks_(rewritten, left_out, repeated)
            built = Built(rewritten, "graph", reason="its forward runs each block once")
        elif not left_out:
            built = build(removal, self.model, rewritten, self.tolerance)
            earlier = remembered(self.model)
            if built.form == "graph" and earlier is not None and earlier.form == "module":
                built = built._replace(reason=f"{built.reason}; {WAS_A_MODULE}")
        else:
            built = build_without(removal, self.model, rewritten, left_out, self.tolerance)
        if comparison is not None and (left_out or repeated):
            again = [twice.part for twice in repeated]
            comparison = replace(comparison, reference=tuple(bypassed_outputs(removal, left_out, again)))
        if ranks and built.form == "module":
            named = partial(full_name, dropped=built.dropped)
            reason = refused_factors(built.model, ranks, named, self.graph.trace, self.tolerance)
            built = built if reason is None else Built(rewritten, "graph", reason=reason)
        return Cut(removal, tuple(left_out), built, comparison, ranks, repeated)

    def build(self, keep: Mapping[Axis, torch.Tensor], left_out: Sequence[Block] = ()) -> Built:
        """Build the smaller model without verifying anything; arguments as of `cut`."""
        removal = self.removal(keep, left_out)
        if not left_out:
            return build(removal, self.model, rewrite(removal), self.tolerance)
        return build_without(removal, self.model, rewrite(removal), left_out, self.tolerance)

    def slice(
        self, keep: Mapping[Axis, torch.Tensor], left_out: Sequence[Block] = (), repeated: Sequence[Twice] = ()
    ) -> tuple[Removal, GraphModel]:
        """What stays, and the graph of it: the shortest way, without another form, and without a proof; arguments as of `cut`."""
        removal = self.removal(keep, left_out)
        rewritten = rewrite(removal)
        self._change_blocks_(rewritten, left_out, repeated)
        return removal, rewritten

    def _change_blocks_(self, rewritten: GraphModel, left_out: Sequence[Block], repeated: Sequence[Twice]) -> None:
        """Take blocks out of a graph, and let others run twice."""
        if left_out:
            bypass(rewritten, left_out)
        if repeated:
            repeat_(rewritten, repeated, passed_on(left_out))

    def removal(self, keep: Mapping[Axis, torch.Tensor], left_out: Sequence[Block] = ()) -> Removal:
        """What stays of the axes that are not wholly inside blocks that are left out."""
        _, gone = unneeded(self.graph.trace, left_out)
        inside = {group.axis for group in self.groups if gone.issuperset(member.tensor for member in group.members)}
        return Removal(self.graph, {axis: kept for axis, kept in keep.items() if axis not in inside})

    def prove(self, cut: Cut, every_size: bool = True, known: Mapping[str, Known] = MappingProxyType({})) -> Proved:
        """Let a graph serve what the model does, and prove that the smaller model returns what the masked one does.

        Layers become two last: then it is proved that both return what one does whose weight is their product.

        Args:
            cut: of this model.
            known: what data say of layers that become two, by name.
            every_size: let a graph serve every size of the inputs that the model allows, which takes another trace and proof; else
                it serves any batch of the example's sizes.

        Raises:
            ValueError: if the difference exceeds the tolerance.
        """
        removal, built = cut.removal, cut.built
        plan = make_plan(self.graph, self.groups, removal.keep, built.form, built.mended)
        earlier = remembered(self.model)
        before = () if earlier is None else earlier.chain
        left_out = tuple(block.name for block in cut.left_out)
        plan = replace(
            plan,
            blocks=left_out,
            repeated=tuple(twice.block.name for twice in cut.repeated),
            dropped=built.dropped,
            attributes=dict(built.attributes),
            folded=dict(built.folded),
            before=before,
        )
        smaller, fixed = built.model, None
        if built.form == "graph" and isinstance(smaller, GraphModel):
            served = serve_sizes(removal, smaller, plan, self.model, self.tolerance, self.check, every_size)
            smaller, plan, fixed = served.model, served.plan, served.fixed
        apart, inside = None, None
        if cut.comparison is not None:
            masked = Bypassed(removal, cut.left_out, [twice.part for twice in cut.repeated])
            apart = prove(smaller, masked, cut.comparison, self.tolerance)
            inside = cut.comparison.inside
        elif self.check and self.check_dtype is not None:
            apart, inside = prove_in(self.check_dtype, smaller, self.model, plan, self.graph, self.tolerance)
        if cut.ranks:
            plan = replace(plan, ranks=dict(cut.ranks))
            of_factors = prove_factors_(
                smaller, cut.ranks, known, plan.full_name, self.graph.trace, self.tolerance if self.check else None
            )
            apart = None if apart is None else max(apart, of_factors)
        remember(smaller, plan)
        return Proved(smaller, plan, apart, inside, fixed)
