"""Recurrent layers by least squares: what enters each gate is linear in the input and in the hidden state before.

Shapes: N sequences, L steps, I inputs, H hidden units, P positions (steps of all sequences together).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruners.operators import arguments
from pruners.repair.lanes import APART, Lane
from pruners.repair.positions import MOST
from pruners.repair.solve import Solution, is_gain, solve
from pruners.repair.task import Part, Task
from pruners.surgery import Removal

aten = torch.ops.aten
RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
SATURATED = 5.0  # what enters a gate beyond this might as well be anything further beyond
ROUNDS = 2  # with the full model's hidden states, and with the repaired layer's own
ITERATIONS = 2
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer in a graph."""

    node: Node

    @property
    def weights(self) -> list[Node]:
        """Its tensors, layer by layer and direction by direction."""
        return list(arguments(self.node)["params"])

    @property
    def name(self) -> str:
        """Of its module."""
        return str(self.weights[0].target).rpartition(".")[0]


@dataclass(frozen=True)
class Direction:
    """One direction of one layer.

    Attributes:
        tensors: weights (gates x H, I) and (gates x H, H), biases if there are any, and a projection if there is one.
        backward: whether it runs from the last step to the first.
        state: which rows of the initial states are its own.
    """

    tensors: list[Tensor]
    backward: bool
    state: int


def directions(a: Arguments) -> list[list[Direction]]:
    """Layer by layer, its directions."""
    ways = 2 if a["bidirectional"] else 1
    per = len(a["params"]) // (int(a["num_layers"]) * ways)
    every = [
        Direction(list(a["params"][place * per : (place + 1) * per]), place % ways == 1, place)
        for place in range(int(a["num_layers"]) * ways)
    ]
    return [every[start : start + ways] for start in range(0, len(every), ways)]


def hidden(node: Node, a: Arguments, one: Direction, x: Tensor) -> Tensor:
    """Hidden states of one direction, (N, L, H), in the order of steps."""
    states = a["hx"] if isinstance(a["hx"], (list, tuple)) else [a["hx"]]
    states = [state[one.state : one.state + 1].contiguous() for state in states]
    x = x.flip(1) if one.backward else x
    given = states if isinstance(a["hx"], (list, tuple)) else states[0]
    run: Any = node.target
    y = run(x, given, one.tensors, a["has_biases"], 1, 0.0, False, False, True)[0]
    return y.flip(1) if one.backward else y


def earlier(a: Arguments, one: Direction, h: Tensor) -> Tensor:
    """The hidden state before each step, (N, L, H)."""
    first = (a["hx"][0] if isinstance(a["hx"], (list, tuple)) else a["hx"])[one.state].unsqueeze(1)
    return torch.cat([h[:, 1:], first], 1) if one.backward else torch.cat([first, h[:, :-1]], 1)


@dataclass
class _Run:
    """One lane: arguments, and the input (N, L, I) of the present layer, of the smaller model and of the full one."""

    own: Arguments
    full: Arguments
    x: Tensor
    full_x: Tensor
    lane: Lane

    def steps(self, held: bool, values: Tensor) -> Tensor | None:
        """The steps that are held out, or are not, of values of shape (N, L, ...), as (P, ...); None if there are none."""
        values = self.lane.once(values)
        if self.lane.held is not None:
            return values.flatten(0, 1) if self.lane.held == held else None
        cut = values.shape[1] - values.shape[1] // APART
        return (values[:, cut:] if held else values[:, :cut]).flatten(0, 1)


def repair_recurrent_(
    found: Recurrent,
    removal: Removal,
    own: Sequence[Arguments],
    full: Sequence[Arguments],
    lanes: Sequence[Lane],
    ridges: Sequence[float],
) -> Solution:
    """Solve the gates of a recurrent layer for what enters them in the full model; its tensors are changed in place.

    Layer by layer, direction by direction, all gates at once: columns are the input as the repaired layers before produce it and the
    hidden state before, at first that of the full model on the units that stay, then its own. The new gate of a GRU, where the reset
    gate stands between, is solved for what comes from the input and for what comes from the state. A direction takes the solution
    whose hidden states are nearest to the full model's on held-out examples; if that is none, it stays as it is.

    Args:
        found: the layer, in the smaller graph.
        removal: what stays of the full model.
        own: its arguments in the smaller model, for each lane.
        full: the same in the full model.
        lanes: which are held out.
        ridges: to choose among.

    Returns:
        The errors of its hidden states before and after, without weights.
    """
    batch_first = bool(own[0]["batch_first"])
    runs = []
    for a, b, lane in zip(own, full, lanes, strict=True):
        x, whole = (v["input"] if batch_first else v["input"].transpose(0, 1) for v in (a, b))
        runs.append(_Run(a, b, x, whole, lane))
    names = [str(weight.target) for weight in found.weights]
    before = after = 0.0
    per = len(names) // (len(directions(own[0])) * len(directions(own[0])[0]))
    for ours, theirs in zip(directions(own[0]), directions(full[0]), strict=True):
        for mine, whole in zip(ours, theirs, strict=True):
            rows, _ = (removal.stays(axis) for axis in removal.graph.tensors[names[mine.state * per]])
            _, units = (removal.stays(axis) for axis in removal.graph.tensors[names[mine.state * per + 1]])
            side = _Side(found.node, mine, whole, rows, units, runs)
            errors = side.repair_(ridges)
            before, after = before + errors[0], after + errors[1]
        for run in runs:
            run.x = torch.cat([hidden(found.node, run.own, mine, run.x) for mine in ours], -1)
            run.full_x = torch.cat([hidden(found.node, run.full, whole, run.full_x) for whole in theirs], -1)
    nothing = torch.empty(0)
    return Solution(nothing, nothing, before, after, after, after < before)


@dataclass
class _Side:
    """One direction that is repaired: its tensors and the full model's, and which of the latter's gate rows and units stay."""

    node: Node
    mine: Direction
    whole: Direction
    rows: Tensor
    units: Tensor
    runs: Sequence[_Run]

    def repair_(self, ridges: Sequence[float]) -> tuple[float, float]:
        """Change its tensors if that helps; returns the errors of hidden states on held-out steps before and after."""
        states = [hidden(self.node, run.full, self.whole, run.full_x) for run in self.runs]
        aims = [state[..., self.units.to(state.device)] for state in states]
        start = self._errors(aims)
        before = best = float(start.sum())
        if before == 0 or not start.isfinite().all():
            return before, before
        given = aims
        kept = [tensor.clone() for tensor in self.mine.tensors]
        for _ in range(ROUNDS):
            self._solve_(states, given, ridges)
            errors = self._errors(aims)
            if float(errors.sum()) < best and is_gain([start - errors]):
                best, kept = float(errors.sum()), [tensor.clone() for tensor in self.mine.tensors]
            given = [hidden(self.node, run.own, self.mine, run.x) for run in self.runs]
        for tensor, value in zip(self.mine.tensors, kept, strict=True):
            tensor.copy_(value)
        return before, best

    def _errors(self, aims: Sequence[Tensor]) -> Tensor:
        """Squared errors of hidden states at the steps held out, (P,)."""
        found = [torch.zeros(0, dtype=torch.float64)]
        for run, aim in zip(self.runs, aims, strict=True):
            if run.lane.held is not False:
                apart = run.steps(True, hidden(self.node, run.own, self.mine, run.x) - aim)
                assert apart is not None
                found.append(apart.double().square().sum(-1).cpu())
        return torch.cat(found)

    def _solve_(self, states: Sequence[Tensor], given: Sequence[Tensor], ridges: Sequence[float]) -> None:
        """Solve all gates, hidden states of the full model and those before each step being given."""
        inputs, hiddens = self.mine.tensors[0], self.mine.tensors[1]
        biases = self.mine.tensors[2:4] if self.runs[0].own["has_biases"] else []
        whole = self.whole.tensors
        wide = [whole[0], whole[1], *(whole[2:4] if biases else [None, None])]
        last = [earlier(run.full, self.whole, state) for run, state in zip(self.runs, states, strict=True)]
        before = [earlier(run.own, self.mine, state) for run, state in zip(self.runs, given, strict=True)]
        rows = self.rows.to(inputs.device)

        def from_input(place: int) -> Tensor:
            return torch.nn.functional.linear(self.runs[place].full_x, wide[0], wide[2])[..., rows]

        def from_state(place: int) -> Tensor:
            return torch.nn.functional.linear(last[place], wide[1], wide[3])[..., rows]

        size = len(inputs)
        joint = slice(0, size * 2 // 3) if self.node.target is aten.gru.input else slice(0, size)
        limits = (0.0, float("inf")) if self.node.target is aten.rnn_relu.input else (-SATURATED, SATURATED)
        weights = torch.cat([inputs[joint], hiddens[joint]], 1)
        both = lambda place: torch.cat([self.runs[place].x, before[place]], -1)  # noqa: E731
        shift = biases[0][joint] + biases[1][joint] if biases else None
        new, moved = self._solved(
            weights, shift, both, lambda place: (from_input(place) + from_state(place))[..., joint], limits, ridges
        )
        inputs[joint], hiddens[joint] = new[:, : inputs.shape[1]], new[:, inputs.shape[1] :]
        if biases:
            biases[0][joint] = moved - biases[1][joint]
        if joint.stop < size:
            alone = slice(joint.stop, size)
            parts = [(inputs, lambda place: self.runs[place].x, from_input), (hiddens, before.__getitem__, from_state)]
            for at, (tensor, columns, aim) in enumerate(parts):
                shift = biases[at][alone] if biases else None
                of_gate = partial(lambda place, aim: aim(place)[..., alone], aim=aim)
                tensor[alone], moved = self._solved(tensor[alone], shift, columns, of_gate, None, ridges)
                if biases:
                    biases[at][alone] = moved

    def _solved(
        self,
        weights: Tensor,
        shift: Tensor | None,
        columns: Callable[[int], Tensor],
        aim: Callable[[int], Tensor],
        limits: tuple[float, float] | None,
        ridges: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        """Weights (O, Q) and shift (O,) by which columns come nearest to the aim, (N, L, Q) and (N, L, O) for each lane."""
        work = torch.float64 if weights.dtype == torch.float64 else torch.float32
        total = sum(run.x.shape[0] * run.x.shape[1] for run in self.runs)
        thin = -(-total // MOST)

        def parts(held: bool) -> Iterator[Part]:
            for place, run in enumerate(self.runs):
                if run.lane.held in (held, None):
                    x, y = (run.steps(held, values(place)) for values in (columns, aim))
                    assert x is not None and y is not None
                    yield Part(*(value[::thin].to(work).t()[None].contiguous() for value in (x, y)))

        old = weights.to(work)[None]
        start = (
            torch.zeros(1, len(weights), dtype=work, device=weights.device) if shift is None else shift.to(work)[None]
        )
        stays = torch.zeros(1, len(weights), dtype=torch.bool, device=weights.device)
        task = Task(old, start, shift is not None, limits, stays, partial(parts, False), partial(parts, True))
        solution = solve(task, ridges, ITERATIONS)
        if solution is None or not solution.helps:
            return weights, start[0].to(weights.dtype)
        return solution.weights[0].to(weights.dtype), solution.shift[0].to(weights.dtype)
