"""What happens to a layer's output until another layer reads it: where the aim of a repair stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from pruners.importance import bounds
from pruners.operators import arguments
from pruners.repair.readers import is_tensor

aten = torch.ops.aten
PASSING = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
)  # what hands on its input as it is, in evaluation


@dataclass(frozen=True)
class Followers:
    """What follows a layer.

    Attributes:
        norm: the batch norm, or product with a scale per channel, that alone reads it.
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


def alone(node: Node) -> Followers:
    """A layer whose aim is its own output."""
    return Followers(None, None, None, node, None)


def followers(node: Node) -> Followers:
    """Look at what follows a layer."""
    norm = addition = other = None
    end = node
    last, user = _next(node)
    if user is not None and (_is_norm(user) or _is_scale(user, last)):
        norm = end = user
        last, user = _next(user)
    if user is not None and user.target is aten.add.Tensor and not user.kwargs:
        terms = [x for x in user.all_input_nodes if x is not last]
        if len(terms) == 1 and len(user.args) == 2:
            addition, other, end = user, terms[0], user
            _, user = _next(user)
    return Followers(norm, addition, other, end, bounds(user))


def _next(node: Node) -> tuple[Node, Node | None]:
    """The only operator that does something with a value, and which of its arguments that is; None if there are several."""
    user = _only_user(node)
    while user is not None and user.target in PASSING:
        node, user = user, _only_user(user)
    return node, user


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_norm(node: Node) -> bool:
    """Whether an operator normalises by running statistics."""
    return node.target is aten.batch_norm.default and is_tensor(arguments(node)["running_mean"])


def _is_scale(node: Node, value: Node) -> bool:
    """Whether a value is multiplied by a tensor of the model."""
    if node.target is not aten.mul.Tensor:
        return False
    a = arguments(node)
    return (a["self"] is value and is_tensor(a["other"])) or (a["other"] is value and is_tensor(a["self"]))
