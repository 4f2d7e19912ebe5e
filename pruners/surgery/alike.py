"""What one integer of a forward governs must lose alike, or the module cannot express the smaller sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.fx import Node

from pruners.operators import Axis, arguments, find, leaves, owner
from pruners.surgery.attributes import attribute, integers, is_torchs, owned_axes
from pruners.surgery.rewrite import MENDS, Removal

EQUAL_PIECES = ("split", "chunk", "unsafe_split", "unsafe_chunk")


class Governed(NamedTuple):
    """Dimensions of one size that must keep one size.

    Attributes:
        what: governs them, as "blocks.0.half".
        axes: the dimensions; none where all of `whole` must stay.
        whole: elementary axes that must lose nothing.
    """

    what: str
    axes: tuple[Axis, ...] = ()
    whole: tuple[Axis, ...] = ()


def governed(removal: Removal, model: nn.Module, at: Sequence[str]) -> Iterator[list[Governed]]:
    """What must lose alike so that a module, and all of its class, can express the sizes of a removal; one step after the other.

    Pieces that are split equally come first, then sizes that equal an integer of the module, large ones first, then those of settings
    that modules share. Last, what the module works with stays whole.

    Args:
        removal: some of whose sizes differ where the forward has one number.
        model: the full model.
        at: names of the modules that cannot express them, the innermost first.
    """
    names = [name for name in at if _may_govern(model.get_submodule(name))]
    every = dict(model.named_modules())
    axes: dict[str, list[Axis]] = defaultdict(list)
    for name, axis in owned_axes(removal):
        if find(axis) not in map(find, axes[name]):
            axes[name].append(axis)
    alike = {
        name: [other for other, part in every.items() if type(part) is type(every[name])] or [name] for name in names
    }
    for name in names:
        yield [step for other in alike[name] for step in _equal_pieces(removal, other)]
    for frozen in (False, True):
        for name in names:
            own = [(key, size) for key, size in _sizes(every[name]) if "." not in key]
            for key, _ in sorted(own, key=lambda pair: -pair[1]):
                steps = (_conflict(removal, every[other], other, key, axes[other], frozen) for other in alike[name])
                yield [step for step in steps if step is not None]
        for name in names:
            for key, _ in (pair for pair in _sizes(every[name]) if "." in pair[0]):
                holder = attribute(every[name], key.partition(".")[0])
                sharing = [n for n, part in every.items() if any(value is holder for value in vars(part).values())]
                shared = [axis for other in sharing for axis in axes[other]]
                step = _conflict(removal, every[name], name, key, shared, frozen)
                yield [step] if step is not None else []
    for written_out in (True, False):
        for name in names:
            found = dict.fromkeys(leaf for other in alike[name] for leaf in _lost(removal, other, written_out))
            yield [Governed(f"numbers in the forward of {name or 'the model'}", whole=tuple(found))] if found else []


def _lost(removal: Removal, name: str, written_out: bool) -> Iterator[Axis]:
    """What loses indices among the axes of a module's own operators; of those that are given sizes where `written_out`."""
    for node in removal.graph.trace.nodes:
        if node.op == "call_function" and owner(node) == name and (_name(node) in MENDS or not written_out):
            for dims in removal.graph.results(node):
                yield from (leaf for axis in dims for leaf in leaves(axis) if removal.touched(leaf))


def _may_govern(part: nn.Module) -> bool:
    return not is_torchs(part) or isinstance(part, nn.MultiheadAttention)


def _sizes(part: nn.Module) -> Iterator[tuple[str, int]]:
    """Integers of a module and of its settings, also those in sequences."""
    for key, value in integers(part):
        for item in value if isinstance(value, (list, tuple)) else [value]:
            yield key, item


def _conflict(
    removal: Removal, part: nn.Module, name: str, key: str, axes: Sequence[Axis], frozen: bool
) -> Governed | None:
    """The dimensions that have the size of an integer, if they no longer have one size; those that never change where `frozen`."""
    value: Any = attribute(part, key) if _has(part, key) else ()
    sizes = {item for item in (value if isinstance(value, (list, tuple)) else [value]) if item > 1}
    for size in sorted(sizes, reverse=True):
        found = [
            axis for axis in axes if axis.size == size and (frozen or not all(leaf.frozen for leaf in leaves(axis)))
        ]
        if len({removal.size(axis) for axis in found}) > 1:
            return Governed(f"{name}.{key}".lstrip("."), tuple({find(axis): axis for axis in found}.values()))
    return None


def _has(part: nn.Module, key: str) -> bool:
    try:
        attribute(part, key)
    except AttributeError:
        return False
    return True


def _equal_pieces(removal: Removal, name: str) -> Iterator[Governed]:
    """The pieces of splits in a module that must be of one size, and are not."""
    for node in removal.graph.trace.nodes:
        if node.op == "call_function" and owner(node) == name and _name(node) in EQUAL_PIECES:
            dim = arguments(node)["dim"]
            pieces = [dims[dim] for dims in removal.graph.results(node)]
            if len({axis.size for axis in pieces}) == 1 < len({removal.size(axis) for axis in pieces}):
                yield Governed(f"equal pieces in {name or 'the model'}", tuple(pieces))


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else schema.name.split("::")[1]
