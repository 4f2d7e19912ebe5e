"""What a graph lacks of the module that it was made from, and what would give a module."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Sequence

from torch import nn

from pruners.groups import Group
from pruners.surgery.attributes import is_torchs
from pruners.surgery.module import Built

MOST = 5  # names in one line


def lacks(model: nn.Module, built: Built, groups: Sequence[Group]) -> tuple[str, ...]:
    """What the users of a model would miss in its graph, one line each, and last the settings that may give a module.

    Args:
        model: the full model.
        built: what was made of it.
        groups: of the model.
    """
    if built.form == "module":
        return ()
    found = [
        ("its modules, with their hooks", _hooked(model)),
        ("branches on `training`", _branching(model)),
        ("methods", _methods(model)),
    ]
    missing = [
        what if not names else f"{what} ({_some(names)})" for what, names in found if names or what.startswith("its")
    ]
    lines = [f"a graph lacks {', '.join(missing)}"]
    name = next((n for n in built.at if not is_torchs(model.get_submodule(n))), None)
    inside = [] if name is None else [group.name for group in groups if not group.protected and _is_in(group, name)]
    protecting = f", or by `ignore` of {_some(inside)}" if inside else ""
    where = f", which fails in {name or 'its own forward'}" if built.at and name is not None else ""
    return (*lines, f'a module{where}, may come by `form="module"`{protecting}')


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _hooked(model: nn.Module) -> list[str]:
    """Modules with hooks of their forward or backward."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        name or "the model" for name, part in model.named_modules() if any(part.__dict__.get(kind) for kind in kinds)
    ]


def _branching(model: nn.Module) -> list[str]:
    """Classes whose forward reads `training`, but for torch's own."""
    kinds = dict.fromkeys(type(part) for part in model.modules() if not is_torchs(part))
    return [kind.__name__ for kind in kinds if any(True for _ in _reads_training(kind))]


def _reads_training(kind: type) -> Iterator[str]:
    code = getattr(getattr(kind, "forward", None), "__code__", None)
    for step in dis.get_instructions(code) if code is not None else ():
        if step.opname.startswith("LOAD_ATTR") and step.argval == "training":
            yield step.argval


def _methods(model: nn.Module) -> list[str]:
    """Public methods that the class of a model has beside those of torch."""
    known = set(dir(nn.Module))
    return [
        name
        for name in dir(type(model))
        if name not in known and not name.startswith("_") and callable(getattr(type(model), name, None))
    ]


def _is_in(group: Group, module: str) -> bool:
    return not module or any(member.tensor.startswith(f"{module}.") for member in group.members)
