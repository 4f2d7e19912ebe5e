"""What two models compute at the same places: their outputs, and what modules of the same names return."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from itertools import product
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn

from pruners.operators import tensors_in
from pruners.surgery import GraphModel
from pruners.tracing import Batch

States = dict[str, Tensor]
Pairs = dict[str, str]
"""Name of a state in the smaller model to its name in the unpruned one."""
OUTPUT = "output:"
"""What names of outputs begin with, by which they differ from names of modules."""
NUMBER = re.compile(r"^(.*?\.?)(\d+)$")


class Watched:
    """A model that tells what its modules return; a context, which in the end takes its hooks off.

    Told of are modules with modules inside: a block, a layer, an attention. Of a graph, the last operator of each such module.

    Args:
        model: run as it is, in the mode that it is in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen: States = {}
        graph = isinstance(model, GraphModel)
        self.model: Callable[..., Any] = _telling(model, self._keep) if isinstance(model, GraphModel) else model
        inner = {} if graph else {name: part for name, part in model.named_modules() if name and any(part.children())}
        self._hooks = [part.register_forward_hook(self._hook(name)) for name, part in inner.items()]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(self, batch: Batch) -> States:
        """Outputs and states by name, all floating-point tensors; outputs first."""
        self._seen.clear()
        found = {OUTPUT + name: x for name, x in named_outputs(self.model(*batch.args, **batch.kwargs)).items()}
        found |= {name: x for name, x in self._seen.items() if x.is_floating_point()}
        self._seen.clear()
        return found

    def _keep(self, name: str, returned: Any) -> None:
        for x in tensors_in(returned)[:1]:
            self._seen[name] = x

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, returned: self._keep(name, returned)


def named_outputs(returned: Any) -> States:
    """The floating-point tensors of what a model returns, by the name or place that they have in it."""
    if isinstance(returned, Mapping):
        parts = {str(name): value for name, value in returned.items()}
    elif isinstance(returned, (tuple, list)):
        parts = {str(place): value for place, value in enumerate(returned)}
    else:
        parts = {"": returned}
    found = {}
    for name, value in parts.items():
        tensors = tensors_in(value)
        for place, x in enumerate(tensors):
            if x.is_floating_point():
                found[name if len(tensors) == 1 else f"{name}.{place}"] = x
    return found


def shared_states(smaller: States, full: States) -> Pairs:
    """States that both models have, in one shape and under one name, each once, outputs left out.

    Where the smaller model has fewer of some numbered layers, they are matched in order with those whose states are nearest.

    Args:
        smaller: what the smaller model tells on some samples.
        full: what the unpruned one tells on the same.
    """
    renamed = _renumbered(smaller, full)
    known = {id(x) for name, x in full.items() if name.startswith(OUTPUT)}
    pairs = {}
    for name, x in smaller.items():
        other = _moved(name, renamed)
        aim = full.get(other)
        if not name.startswith(OUTPUT) and aim is not None and aim.shape == x.shape and id(aim) not in known:
            known.add(id(aim))
            pairs[name] = other
    return pairs


def _moved(name: str, renamed: Mapping[str, str]) -> str:
    """A name with the number of the layer that it is in changed."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        head = ".".join(parts[:end])
        if head in renamed:
            return ".".join([renamed[head], *parts[end:]])
    return name


def _renumbered(smaller: States, full: States) -> dict[str, str]:
    """Layers of the smaller model to those of the full one, where there are fewer under the same name."""
    few, many = _layers(smaller), _layers(full)
    renamed: dict[str, str] = {}
    for stem, own in few.items():
        theirs = many.get(stem, [])
        if len(own) < len(theirs):
            pairs = list(product(own, theirs))
            if all(smaller[stem + str(a)].shape == full[stem + str(b)].shape for a, b in pairs):
                far = [[_distance(smaller[stem + str(a)], full[stem + str(b)]) for b in theirs] for a in own]
                renamed |= {stem + str(own[a]): stem + str(theirs[b]) for a, b in enumerate(_in_order(far))}
    return renamed


def _layers(states: States) -> dict[str, list[int]]:
    """The numbers of the states that are named alike but for a number at the end."""
    found: dict[str, list[int]] = {}
    for name in states:
        if (parts := NUMBER.match(name)) and not name.startswith(OUTPUT):
            found.setdefault(parts[1], []).append(int(parts[2]))
    return {stem: sorted(numbers) for stem, numbers in found.items()}


def _distance(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean() / y.square().mean().clamp_min(torch.finfo(y.dtype).tiny))


def _in_order(far: list[list[float]]) -> list[int]:
    """For each row a column, ascending, so that the sum of what stands there is least; rows are no more than columns."""
    rows, columns = len(far), len(far[0])
    best: list[list[tuple[float, list[int]]]] = [[(0.0, [])] * (columns + 1)]
    for row in range(rows):
        line: list[tuple[float, list[int]]] = [(float("inf"), [])]
        for column in range(columns):
            total, taken = best[row][column]
            here = (total + far[row][column], [*taken, column])
            line.append(min(line[-1], here, key=lambda one: one[0]))
        best.append(line)
    return best[rows][columns][1]


def _telling(model: GraphModel, keep: Callable[[str, Any], None]) -> fx.GraphModule:
    """A graph over the same weights that tells what the last operator of each module with modules inside returns."""
    graph = copy.deepcopy(model.graph)
    last: dict[str, fx.Node] = {}
    inner: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_function":
            names = [name.split("@")[0] for name, _ in (node.meta.get("nn_module_stack") or {}).values()]
            last |= dict.fromkeys(names, node)
            inner |= {outer for outer, part in zip(names, names[1:], strict=False) if part.startswith(f"{outer}.")}
    for name in inner - {""}:
        with graph.inserting_after(last[name]):
            graph.call_function(_teller(keep, name), (last[name],))
    return fx.GraphModule(model, graph)


def _teller(keep: Callable[[str, Any], None], name: str) -> Callable[[Any], None]:
    def tell(value: Any) -> None:
        keep(name, value)

    tell.__name__ = tell.__qualname__ = f"tell_{re.sub(r'[^0-9a-zA-Z]', '_', name)}"
    return tell


def mean_square(x: Tensor, counts: Tensor | None) -> Tensor:
    """The mean square of a state (samples, ...), where given over those (samples, positions, ...) that count; a scalar."""
    if counts is None:
        return x.square().mean()
    return (x.square().reshape(*counts.shape, -1).mean(2) * counts).sum() / counts.sum()


def variance(x: Tensor, counts: Tensor | None) -> Tensor:
    """The mean square of a state around its mean over samples, and over positions that count; a scalar."""
    x = x.float()
    if counts is None:
        return mean_square(x - x.mean(0), None)
    weights = counts.reshape(*counts.shape, *[1] * (x.dim() - 2))
    return mean_square(x - (x * weights).sum((0, 1)) / counts.sum(), counts)
