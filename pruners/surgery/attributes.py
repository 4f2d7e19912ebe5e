"""Which integers of a module's own hold sizes: proposed by the axes, decided by where the module goes wrong without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import Node

from pruners.operators import Axis, leaves, owner, tensors_in
from pruners.surgery.masked import difference, run_example
from pruners.surgery.rewrite import GraphModel, Removal
from pruners.tracing import Runner, Trace
from search_spaces.core import first_line

TRIALS = 64  # ways to change the integers of one module that are tried, at most

Options = Mapping[str, Mapping[str, Sequence[Any]]]  # module to its attributes, each to what it may become


class Failure(NamedTuple):
    """Where a module first goes wrong.

    Attributes:
        chain: names of the modules that ran when it did, the innermost first.
        reason: the error, or that outputs differ.
        passed: how many calls of modules were right before.
    """

    chain: tuple[str, ...]
    reason: str
    passed: int


class _Wrong(Exception):
    """A module returns what its graph does not compute."""


def size_changes(removal: Removal) -> dict[str, dict[int, set[int]]]:
    """For each module, the sizes that its own operators work with and what they become."""
    changes: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name, axis in owned_axes(removal):
        changes[name][axis.size].add(removal.size(axis))
    return changes


def owned_axes(removal: Removal) -> Iterator[tuple[str, Axis]]:
    """The axes that operators work with, and everything that they are made of, by the module whose operator it is."""
    for node in removal.graph.trace.nodes:
        if node.op != "call_function":
            continue
        for source in (node, *node.all_input_nodes):
            for dims in removal.graph.results(source):
                for axis in _parts(dims):
                    yield owner(node), axis


def _parts(dims: list[Axis]) -> Iterator[Axis]:
    """The axes of a tensor and everything that they are made of."""
    for axis in dims:
        yield axis
        yield from leaves(axis)


def attribute_changes(removal: Removal, model: nn.Module) -> dict[str, Any]:
    """New values for integer attributes of modules that seem to hold a size.

    An attribute is proposed if it equals a size that its module's operators work with, and if that size changes to one
    number only.

    Nothing says whether an attribute means that size: the comparison with the graph decides. Of torch's own layers, only
    attention has sizes that do not follow from the tensors that they hold themselves.
    """
    pairs = size_changes(removal)
    changes = {}
    for name, part in model.named_modules():
        if is_torchs(part) and not isinstance(part, nn.MultiheadAttention):
            continue
        changed = {old: new - {old} for old, new in pairs.get(name, {}).items() if old > 1}
        certain = {old: next(iter(new)) for old, new in changed.items() if len(new) == 1}
        for key, value in vars(part).items():
            new = _replaced(value, certain)
            if not key.startswith("_") and new is not value and new != value:
                changes[f"{name}.{key}".lstrip(".")] = new
    return changes


def attribute_options(removal: Removal, model: nn.Module) -> dict[str, dict[str, list[Any]]]:
    """All that integers of modules, and of the settings that they hold, may become where they equal a size that changes."""
    found: dict[str, dict[str, list[Any]]] = {}
    pairs = size_changes(removal)
    for name, part in model.named_modules():
        if is_torchs(part) and not isinstance(part, nn.MultiheadAttention):
            continue
        changed = {old: sorted(new - {old}) for old, new in pairs.get(name, {}).items() if old > 1 and new != {old}}
        options = {f"{name}.{key}".lstrip("."): _options(value, changed) for key, value in integers(part)}
        found[name] = {key: ways for key, ways in options.items() if ways}
    return found


def integers(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes of a module that are integers or sequences of them, and those of settings objects that it holds, dotted."""
    for key, value in vars(part).items():
        if key.startswith("_"):
            continue
        if _is_integers(value):
            yield key, value
        elif is_settings(value):
            inside = ((name, item) for name, item in vars(value).items() if not name.startswith("_"))
            yield from ((f"{key}.{name}", item) for name, item in inside if _is_integers(item))


def is_settings(value: Any) -> bool:
    """Whether an attribute is a plain object with attributes, such as a configuration."""
    kind = type(value)
    plain = (
        hasattr(value, "__dict__") and not isinstance(value, (nn.Module, torch.Tensor, type)) and not callable(value)
    )
    return plain and kind.__module__.split(".")[0] not in ("torch", "builtins", "collections", "functools")


def set_attribute(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute by its dotted name, through modules and settings."""
    holder, _, key = name.rpartition(".")
    setattr(attribute(module, holder), key, value)


def attribute(module: nn.Module, name: str) -> Any:
    """An attribute by its dotted name, through modules and settings; the module itself for ""."""
    found: Any = module
    for part in name.split(".") if name else ():
        found = getattr(found, part)
    return found


def settle(
    module: nn.Module, options: Options, expected: Mapping[str, Sequence[torch.Tensor]], trace: Trace, tolerance: float
) -> tuple[dict[str, Any], Failure | None]:
    """Change as few attributes of a cut module as make it compute what its graph does, in order of execution.

    Where a module goes wrong, ways to change its own integers are tried, few at a time, then those of the modules around it.
    What helped in one module is tried first in others of its class.

    Args:
        module: with the graph's tensors; it is changed.
        options: what attributes may become, by module.
        expected: module to the tensors that its operators compute.
        trace: of the full model, for the example.
        tolerance: largest relative difference allowed.

    Returns:
        The changes, and where the module still goes wrong.
    """
    changed: dict[str, Any] = {}
    habits: dict[type, dict[frozenset[str], None]] = defaultdict(dict)
    found = first_failure(module, expected, trace, tolerance)
    while found is not None:
        for name in found.chain:
            kind = type(module.get_submodule(name))
            best, change = _improved(
                module, name, options.get(name, {}), list(habits[kind]), found, expected, trace, tolerance
            )
            if change:
                habits[kind][frozenset(key.removeprefix(name).lstrip(".") for key in change)] = None
                changed |= change
                found = best
                break
        else:
            return changed, found
    return changed, None


def _improved(
    module: nn.Module,
    name: str,
    options: Mapping[str, Sequence[Any]],
    habits: Sequence[frozenset[str]],
    found: Failure,
    expected: Mapping[str, Sequence[torch.Tensor]],
    trace: Trace,
    tolerance: float,
) -> tuple[Failure | None, dict[str, Any]]:
    """The change of one module's attributes after which most goes right, made; none if nothing helps."""
    best: Failure | None = found
    change: dict[str, Any] = {}
    before = {key: attribute(module, key) for key in options}
    for trial in islice(_ways(name, options, before, habits), TRIALS):
        for key, new in trial.items():
            set_attribute(module, key, new)
        now = first_failure(module, expected, trace, tolerance)
        for key in trial:
            set_attribute(module, key, before[key])
        if now is None or (best is not None and now.passed > best.passed):
            best, change = now, trial
            if now is None or name not in now.chain:
                break
    for key, new in change.items():
        set_attribute(module, key, new)
    return best, change


def _ways(
    name: str, options: Mapping[str, Sequence[Any]], before: Mapping[str, Any], habits: Sequence[frozenset[str]]
) -> Iterator[dict[str, Any]]:
    """Changes of some attributes: those that helped elsewhere first, then few before many."""
    open_ = {key: [new for new in ways if new != before[key]] for key, ways in options.items()}
    open_ = {key: ways for key, ways in open_.items() if ways}
    usual = [[key for key in open_ if key.removeprefix(name).lstrip(".") in habit] for habit in habits]
    sets = [*usual, *(list(keys) for size in range(1, len(open_) + 1) for keys in combinations(open_, size))]
    for keys in sets:
        for values in product(*(open_[key] for key in keys)) if keys else ():
            yield dict(zip(keys, values, strict=True))


def first_failure(
    module: nn.Module, expected: Mapping[str, Sequence[torch.Tensor]], trace: Trace, tolerance: float
) -> Failure | None:
    """Where a cut module raises, or returns what its graph does not compute; None if nowhere."""
    active: list[str] = []
    passed = 0

    def entered(name: str) -> Any:
        return lambda part, args, kwargs: active.append(name)

    def left(name: str) -> Any:
        def check(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal passed
            candidates = [*expected.get(name, ()), *tensors_in((args, kwargs))]
            if name in expected and not all(_is_among(x, candidates, tolerance) for x in tensors_in(output)):
                raise _Wrong("its outputs differ")
            active.pop()
            passed += 1

        return check

    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(entered(name), prepend=True, with_kwargs=True))
        hooks.append(part.register_forward_hook(left(name), with_kwargs=True))
    try:
        run_example(module, trace)
    except Exception as error:  # whatever a forward says of sizes that it does not expect
        return Failure(tuple(reversed(active)) or ("",), first_line(error), passed)
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _is_among(x: torch.Tensor, candidates: Sequence[torch.Tensor], tolerance: float) -> bool:
    return any(x.shape == y.shape and difference([x], [y]) <= tolerance for y in candidates)


def expected_values(graph_model: GraphModel, trace: Trace) -> dict[str, list[torch.Tensor]]:
    """The tensors that the operators inside each module compute on the example inputs, by the module's name."""
    inputs = [value for name, value in trace.values().items() if name not in trace.tensors]
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    with torch.no_grad():
        for node, value in Runner(graph_model).steps(inputs):
            for name in _modules_around(node):
                found[name] += tensors_in(value)
    return found


def _modules_around(node: Node) -> set[str]:
    if node.op != "call_function":
        return set()
    stack = node.meta.get("nn_module_stack") or {}
    return {name.split("@")[0] for name, _ in stack.values()} | {""}


def is_torchs(part: nn.Module) -> bool:
    """Whether a module is one of torch's own."""
    return type(part).__module__.startswith("torch.nn.modules")


def _is_integers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(type(item) is int for item in value)
    return type(value) is int


def _replaced(value: Any, sizes: Mapping[int, int]) -> Any:
    """An integer, or some of a sequence of integers, in their new sizes; anything else as it is."""
    if type(value) is int:
        return sizes.get(value, value)
    if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
        return alike(value, [sizes.get(item, item) for item in value])
    return value


def _options(value: Any, sizes: Mapping[int, Sequence[int]]) -> list[Any]:
    """What an integer, or some of a sequence of integers, may become, itself left out."""
    if type(value) is int:
        return list(sizes.get(value, ()))
    ways = islice(product(*([item, *sizes.get(item, ())] for item in value)), TRIALS)
    return [alike(value, items) for items in ways if list(items) != list(value)]


def alike(value: Any, items: Sequence[int]) -> Any:
    """Items in a sequence like another."""
    make = getattr(value, "_make", type(value))  # a named tuple's takes all of them in one argument
    return make(items)
