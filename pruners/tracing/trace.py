"""A model as a graph of tensor operators, each with the module that owns it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from pruners.operators import Sizes, is_random, of_size, operator, owner, sizes_of
from pruners.tracing.exporting import CHOOSING, export, repeated

MOMENTUM = 0.1  # torch's default for batch norms


@dataclass(frozen=True)
class Trace:
    """A functional graph (no in-place operators) of a model in eval mode.

    Attributes:
        program: the exported program that owns the graph; its tensors are the model's own.
        args: example positional inputs.
        kwargs: example keyword inputs, likewise.
        copies: how many copies of the given example the graph was traced with (2 where a batch of 1 was given).
        tensors: placeholder name to the tensor's name in the model (parameter, buffer or constant).
        constants: names in `tensors` that are in no state_dict of the model.
        free: which inputs, counted one by one, have a first dimension that is free in the graph: the batch.
        sizes: what tensors the graph takes.
        weights: tensors by name that stand in place of the program's.
    """

    program: ExportedProgram
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: Mapping[str, str]
    constants: frozenset[str] = field(default_factory=frozenset)
    free: frozenset[int] = frozenset()
    copies: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def batched(self) -> bool:
        """Whether the graph takes batches of any size."""
        return bool(self.free)

    @property
    def graph_module(self) -> GraphModule:
        return self.program.graph_module

    @property
    def choosing(self) -> bool:
        """Whether the model chooses rows by their values; in the graph something is chosen everywhere."""
        return bool(self.graph_module.meta.get(CHOOSING))

    @property
    def written(self) -> frozenset[str]:
        """Names of the parameters and buffers that the model writes to as it runs: an embedding with `max_norm` does."""
        kinds = (OutputKind.PARAMETER_MUTATION, OutputKind.BUFFER_MUTATION)
        specs = self.program.graph_signature.output_specs
        return frozenset(spec.target for spec in specs if spec.kind in kinds and spec.target is not None)

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes in order of execution."""
        return list(self.program.graph.nodes)

    @property
    def random(self) -> list[str]:
        """Operators that draw random numbers in evaluation, too, with their modules: outputs do not follow from inputs alone."""
        return [f"{operator(node)} of module {owner(node)!r}" for node in self.nodes if is_random(node)]

    def returned(self, outputs: Sequence[Any]) -> list[Any]:
        """Of the graph's outputs those that the model returns; the others are what it writes to its own buffers."""
        specs = self.program.graph_signature.output_specs
        return [x for x, spec in zip(outputs, specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT]

    def tensor(self, name: str) -> torch.Tensor:
        """The parameter, buffer or constant called `name`."""
        if name in self.weights:
            return self.weights[name]
        if name in self.program.state_dict:
            return self.program.state_dict[name]
        constant = self.program.constants[name]
        assert isinstance(constant, torch.Tensor)
        return constant

    def enlarged(self) -> Trace:
        """The same trace with an example of the size that it was traced with."""
        args, kwargs = repeated(self.args, dict(self.kwargs), self.free, self.copies)
        return replace(self, args=args, kwargs=kwargs, copies=1)

    def resized(self, sizes: Mapping[str, int]) -> Trace:
        """The same trace with an example of other free sizes, by name, in which the given one is repeated or cut."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        names = [node.name for node in self.nodes if node.op == "placeholder" and node.name not in self.tensors]
        for place, name in enumerate(names):
            for dim, size in enumerate(self.sizes.shapes.get(name, ())):
                if isinstance(size, str):
                    leaves[place] = of_size(leaves[place], dim, sizes[size])
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return replace(self, args=args, kwargs=kwargs, copies=1)

    def values(self) -> dict[str, Any]:
        """Placeholder name to the value it takes on the example inputs."""
        user = iter(pytree.tree_leaves((self.args, dict(self.kwargs))))
        return {
            node.name: self.tensor(self.tensors[node.name]) if node.name in self.tensors else next(user)
            for node in self.program.graph.nodes
            if node.op == "placeholder"
        }


def trace(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    every_size: bool = False,
    seconds: float = math.inf,
) -> Trace:
    """Trace a model in eval mode with `torch.export`.

    A batch norm that averages over all batches (`momentum=None`), which a graph cannot count, is traced with torch's 0.1.

    The first dimension of the inputs, the batch, is dynamic where the model allows it. An input whose first dimension
    has another size than that of the first input has no batch: a time step, or positions that all samples share. A
    batch of 1 looks like a dimension that broadcasts, so it is traced as two copies of itself, unless the model treats
    two samples in another way.

    Args:
        model: any module; it is left untouched.
        args: example positional inputs.
        kwargs: example keyword inputs.
        every_size: trace as free every dimension of the inputs that the model allows, not the first only, but for those of size 1.
        seconds: that tracing with every size free may take.

    Raises:
        ValueError: if the example inputs do not fit the model, or `torch.export` cannot trace it.
        TooSlow: if it takes longer than it may.
    """
    args, kwargs = tuple(args), dict(kwargs or {})
    program, free, copies = export(model, args, kwargs, every_size, seconds)
    _refuse_untieable(program)
    _give_momenta(program, model)
    signature = program.graph_signature
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **constants}
    known = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    first_name = {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}
    for placeholder, name in tensors.items():  # tied weights go by their first name
        tensors[placeholder] = first_name.get(id(program.state_dict.get(name)), name)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name not in tensors]
    sizes = sizes_of(inputs, free)
    return Trace(program, args, kwargs, tensors, frozenset(set(tensors.values()) - known), free, copies, sizes)


def _give_momenta(program: ExportedProgram, model: nn.Module) -> None:
    modules = dict(model.named_modules())
    for node in program.graph.nodes:
        is_norm = node.op == "call_function" and "batch_norm" in operator(node)
        if is_norm and getattr(modules.get(owner(node)), "momentum", MOMENTUM) is None:
            place = [argument.name for argument in node.target._schema.arguments].index("momentum")
            node.update_arg(place, MOMENTUM)


def _refuse_untieable(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        place = f"{operator(node)} of module {owner(node)!r}"
        if "vmap" in operator(node):
            raise ValueError(
                f"a model must not call torch.vmap in its forward, got {place}; write the batch dimension out."
            )
        if node.op == "get_attr":
            raise ValueError(
                f"what a model computes must not depend on values, got a branch or a loop of its own, {node.name} in module "
                f"{owner(node)!r}; choose between results by torch.where, and write loops out."
            )
