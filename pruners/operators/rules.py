"""How each operator ties the axes of its inputs, weights and outputs: one function per kind, a table per family.

A rule gets the graph of axes so far, the node, and its arguments by name. It ties the axes that the operator computes
on together. It returns the axes of the output: a list with one axis per dimension, or a list of such lists if the
operator returns several tensors. Shapes in comments: N batch, C channels, L length, E width.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from pruners.operators.contractions import CONTRACTIONS
from pruners.operators.lookups import CHOICES, LOOKUPS
from pruners.operators.moves import MOVES
from pruners.operators.moves import slice_bounds as slice_bounds
from pruners.operators.pointwise import COPIES, POINTWISE, elementwise
from pruners.operators.rearrangements import SPACE_MOVES
from pruners.operators.reductions import ALONG, NORMS, REDUCTIONS, SPATIAL
from pruners.operators.rule import Dims as Dims
from pruners.operators.rule import Rule as Rule
from pruners.operators.rule import frozen as frozen

RULES: dict[str, Rule] = {
    **CONTRACTIONS,
    **NORMS,
    **REDUCTIONS,
    **ALONG,
    **SPATIAL,
    **MOVES,
    **SPACE_MOVES,
    **COPIES,
    **POINTWISE,
    **LOOKUPS,
    **CHOICES,
}


def rule(node: Node) -> Rule | None:
    """The rule of a node's operator, or None if it is unknown."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = target._schema.name.split("::")[1]
    found = RULES.get(name)
    if torch.Tag.pointwise in target.tags and (found is None or name in ALONG):  # `max` of two tensors, say
        return elementwise
    return found
