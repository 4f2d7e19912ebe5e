"""Layer by layer in order of execution: the smaller model runs beside the full one, and each layer is solved just before it runs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruners.operators import arguments, chooses, operator, owner
from pruners.progress import Progress
from pruners.repair.followers import Followers, alone, followers
from pruners.repair.full import Full, read
from pruners.repair.lanes import InStep, Lane
from pruners.repair.norms import affine, keep_statistics_, scales_channels
from pruners.repair.positions import Layer, parts_of
from pruners.repair.readers import ELEMENTWISE, Reader, is_tensor, reader
from pruners.repair.recurrent import RECURRENT, Recurrent, repair_recurrent_
from pruners.repair.scores import Aims, aims_by_scores, scored_layers
from pruners.repair.solve import Solution, is_exact, solve
from pruners.repair.task import Task
from pruners.surgery import FIRST_OF_TWO, GraphModel, Removal

aten = torch.ops.aten
FAR = 2.0  # held-out error, relative to that of the fit, which says that there are too few examples
NO_BETTER = "no better on held-out examples"


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        solved: layers with new weights.
        left_out: layers that stay as they are though they compute something else than before, each with the reason.
        more_examples: whether more examples would help: there are fewer positions than columns, or errors on examples held out are
            far above those on the others.
        used: how many of how many examples it used, where memory was too little for all; None where it used all.
    """

    solved: int
    left_out: tuple[str, ...] = ()
    more_examples: bool = False
    used: tuple[int, int] | None = None


class Repair(InStep):
    """Runs the smaller graph beside the full one and solves each layer just before it runs."""

    def __init__(
        self,
        removal: Removal,
        rewritten: GraphModel,
        found: Sequence[Lane],
        ridges: Sequence[float],
        iterations: int,
        max_bytes: int | None,
        deadline: float,
        progress: Progress,
    ) -> None:
        names = [node.name for node in rewritten.graph.nodes if node.op == "placeholder"]
        super().__init__(rewritten, [dict(zip(names, lane.inputs, strict=True)) for lane in found])
        self.rewritten, self.lanes = rewritten, found
        self.ridges, self.iterations, self.max_bytes = ridges, iterations, max_bytes
        self.deadline, self.progress = deadline, progress
        self.left_out: dict[str, str] = {}
        self.layers: dict[Node, tuple[Reader, Followers]] = {}
        self.recurrent: dict[Node, Recurrent] = {}
        sources = (source for node in self.graph.nodes for source in node.all_input_nodes)
        self.uses = Counter(source.target for source in sources if is_tensor(source))
        self.whole = {node.name: node for node in removal.graph.trace.nodes}
        self._find({node.name for node in removal.graph.trace.nodes if chooses(node)})
        self.pending: set[Node] = set()  # layers that wait for the other term of their sum
        self.solved = self.seen = 0
        self.gaps: list[tuple[float, float]] = []  # errors held out and fitted, relative to those before
        self.few = False
        self.full = Full(removal, found)
        for node, (_, after) in self.layers.items():
            self.full.wanted.update(_wanted(node, after))
        self.full.reads.update(node.name for node in self.recurrent)
        scored = scored_layers(list(self.graph.nodes))
        self.scored = {node: found for node, found in scored.items() if node in self.layers}
        self.full.reads.update(found.attention.name for found in self.scored.values())
        self.whole = {node.name: node for node in removal.graph.trace.nodes}

    def _find(self, apart: set[str]) -> None:
        """Layers that can be solved, and names of those that cannot."""
        scales: set[Node | None] = set()
        for node in self.graph.nodes:
            layer = reader(node)
            if node.target in RECURRENT:
                found = Recurrent(node)
                if not self._are_own(found.weights):
                    self.left_out[found.name] = "its weights are shared"
                else:
                    self.recurrent[node] = found
            elif layer is None or node in scales:
                if node.target in (aten.einsum.default, aten.bilinear.default) and any(
                    map(is_tensor, node.all_input_nodes)
                ):
                    self.left_out[owner(node)] = f"{operator(node).split('.')[1]} is not solved"
            elif not self._is_layer(layer):
                continue
            elif not self._are_own([layer.weight, *([layer.bias] if layer.bias is not None else [])]):
                self.left_out[owner(node)] = "its weights are shared"
            elif node.meta.get(FIRST_OF_TWO):
                continue  # the second of them is solved
            elif node.name not in self.whole:
                self.left_out[layer.name] = "it chooses among fewer experts"
            elif node.name in apart:
                self.left_out[layer.name] = "it sees what is routed to it"  # the full model chooses other rows
            else:
                after = followers(node)
                if after.norm is not None and not self._are_own(after.norm.all_input_nodes):
                    after = alone(node)
                scales.add(after.norm)
                self.layers[node] = layer, after

    def _are_own(self, nodes: Iterable[Node]) -> bool:
        """Whether tensors of the model are read in one place only."""
        return all(self.uses[node.target] == 1 for node in nodes if is_tensor(node))

    def _is_layer(self, layer: Reader) -> bool:
        weight = self.fetch_attr(str(layer.weight.target))
        if not weight.is_floating_point() or weight.is_complex() or not isinstance(weight, nn.Parameter):
            return False
        a = arguments(layer.node)
        if a.get("beta", 1) != 1 or a.get("alpha", 1) != 1:
            return False
        return weight.dim() == (1 if layer.is_affine else 2) or "conv" in operator(layer.node)

    def repair(self) -> Repaired:
        """Repair layer by layer."""
        total, last = len(self.layers) + len(self.recurrent), last_solved(self.rewritten)
        for node in self.advance():
            if node in self.layers or node in self.recurrent:
                self.seen += 1
                self.progress("least squares", self.seen, total)
            if node.name == last:
                break
        held, fitted = (sum(errors) for errors in zip(*self.gaps, strict=True)) if self.gaps else (0.0, 0.0)
        named = tuple(f"{name or 'the model'} ({why})" for name, why in self.left_out.items())
        return Repaired(self.solved, named, self.few or held > FAR * fitted)

    def before(self, node: Node) -> None:
        """Solve the layer at this node, if there is one, and give a batch norm its statistics."""
        if node in self.envs[0]:
            return
        if node in self.layers:
            self.pending.add(node)
            layer, after = self.layers[node]
            self._note(layer.name, self._repaired(layer, after))
            scored = [self.scored[node].attention.name] if node in self.scored else []
            self.full.done(_wanted(node, after), scored)
            self.pending.remove(node)
        elif node in self.recurrent:
            found = self.recurrent[node]
            self._note(found.name, self._repaired_recurrent(found))
            self.full.done([], [node.name])
        elif node.target is aten.batch_norm.default and self._are_own(node.all_input_nodes):
            keep_statistics_(self, node)

    def _note(self, name: str, why: str | None) -> None:
        if why:
            self.left_out[name] = why

    def _judged(self, solution: Solution | None) -> str | None:
        """Why a solution is not taken, or None."""
        if solution is None or not math.isfinite(solution.before):
            return "its system has no solution" if solution is None else "its values are not finite"
        if solution.before > 0:
            self.gaps.append((solution.after / solution.before, solution.fitted / solution.before))
        return None if solution.helps else NO_BETTER

    def _repaired_recurrent(self, found: Recurrent) -> str | None:
        if time.monotonic() > self.deadline:
            return "no time was left"
        own, whole = [read(found.node, env) for env in self.envs], self.full.read_by(found.node.name)
        if not any(values["input"].numel() for values in own):
            return "no example reaches it"
        solution = repair_recurrent_(found, self.full.removal, own, whole, self.lanes, self.ridges)
        if solution.before == 0:
            return None
        why = self._judged(solution)
        self.solved += why is None
        return why

    def _repaired(self, layer: Reader, after: Followers) -> str | None:
        """Solve one layer; returns why it stays as it is, or None."""
        if time.monotonic() > self.deadline:
            return "no time was left"
        weight = self.fetch_attr(str(layer.weight.target))
        work = torch.float64 if weight.dtype == torch.float64 else torch.float32
        old = layer.matrix(weight.to(work))
        groups, count, _ = old.shape
        bias = self.fetch_attr(str(layer.bias.target)) if layer.bias is not None else None
        shape = self.full.aim(layer.node.name)[0].shape
        if not scales_channels(self, after.norm, shape, layer.form.channel(shape)):
            after = alone(layer.node)
        slope, shift = affine(self, after.norm, weight.new_ones(groups * count, dtype=work))
        end, aims, others = self._aims(layer, after)
        scores = self._scores(layer.node, aims) if end is layer.node else None
        if scores is not None:
            aims = scores.values
        inputs = self.values(layer.input)
        if layer.form is ELEMENTWISE and any(x.shape != aim.shape for x, aim in zip(inputs, aims, strict=True)):
            return None
        if not any(aim.numel() for aim in aims):
            return "no example reaches it"
        is_norm = after.norm is not None and after.norm.target is aten.batch_norm.default
        held_back = slope.abs() <= 1e-2 * slope.abs().mean()  # channels that their norm all but switches off stay
        described = Layer(
            layer,
            weight,
            inputs,
            aims,
            others,
            self.lanes,
            work,
            by_size=after.addition is end and layer.form.channel(aims[0].shape) == -1,
        )
        fit, held, dual = parts_of(described, self.max_bytes)
        task = Task(
            old * slope.view(groups, count, 1),
            (shift + slope * (0 if bias is None else bias.to(work))).view(groups, count),
            bias is not None or is_norm,
            after.limits if end is after.end else None,
            held_back.view(groups, count),
            fit,
            held,
            dual,
            None if scores is None else scores.metric,
        )
        if is_exact(task):
            return None
        self.few |= described.fit_positions < old.shape[-1]
        solution = solve(task, self.ridges, self.iterations)
        why = self._judged(solution)
        if why is not None or solution is None:
            return why
        moves = ~held_back
        safe = torch.where(moves, slope, 1.0)
        new = torch.where(moves.view(groups, count, 1), solution.weights / safe.view(groups, count, 1), old)
        moved = ((solution.shift.flatten() - shift) / safe)[moves]
        weight.copy_(layer.weights(new, weight.shape))
        if bias is not None:
            bias[moves] = moved.to(bias.dtype)
        elif is_norm:
            assert after.norm is not None
            mean = self.fetch_attr(str(arguments(after.norm)["running_mean"].target))
            mean[moves] -= moved.to(mean.dtype)
        self.solved += 1
        return None

    def _scores(self, node: Node, aims: list[Tensor]) -> Aims | None:
        """What a layer of queries or keys aims at in place of its plain aims, if anything."""
        if node not in self.scored:
            return None
        attention, side = self.scored[node]
        read_there = self.full.read_by(attention.name)
        return aims_by_scores(self.full.removal, self.whole[attention.name], read_there, side, aims)

    def _aims(self, layer: Reader, after: Followers) -> tuple[Node, list[Tensor], list[Tensor] | None]:
        """Where the aim stands, the full model's values there, and what is added to the layer's own before."""
        own = after.norm or layer.node
        if after.other is not None and self._reach(after.other):
            others, shaped, aims = self.values(after.other), self.full.aim(own.name), self.full.aim(after.end.name)
            if all(map(_broadcasts, others, shaped, aims)):
                return after.end, aims, [other.expand(aim.shape) for other, aim in zip(others, aims, strict=True)]
        return own, self.full.aim(own.name), None

    def _reach(self, node: Node) -> bool:
        """Compute a value that the order of execution may reach only later; False if it hangs on a layer being solved."""
        if node in self.envs[0]:
            return True
        if node in self.pending or node.op == "output" or not all(map(self._reach, node.all_input_nodes)):
            return False
        self.before(node)
        self.run_all(node)
        return True


def last_solved(graph: GraphModel) -> str:
    """Name of the last operator that needs all examples: a layer with weights of its own, or a batch norm; else the last of all."""
    sources = [source for node in graph.graph.nodes for source in node.all_input_nodes if is_tensor(source)]
    uses = Counter(source.target for source in sources)
    name = ""
    for node in graph.graph.nodes:
        layer = reader(node)
        own = layer is not None and uses[layer.weight.target] == 1
        if own or (node.op == "output" and not name) or node.target in (*RECURRENT, aten.batch_norm.default):
            name = node.name
    return name


def _wanted(node: Node, after: Followers) -> list[str]:
    return list(dict.fromkeys(n.name for n in (node, after.norm, after.end) if n is not None))


def _broadcasts(other: object, own: Tensor, aim: Tensor) -> bool:
    """Whether a sum of a layer's output and another term has the output's shape."""
    if not isinstance(other, Tensor) or own.shape != aim.shape or other.dim() > aim.dim():
        return False
    return all(have in (1, want) for have, want in zip(other.shape[::-1], aim.shape[::-1], strict=False))
