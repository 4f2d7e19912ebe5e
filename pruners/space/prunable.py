"""A trained model as a search space: how many indices each group keeps, and which residual blocks stay."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from pruners.allocation import CostModel, Evidence, Ranking, Selection, fewest_kept, importance_lost
from pruners.chosen import COST
from pruners.config import WidthsConfig
from pruners.groups import (
    Group,
    analyse,
    curve,
    dependency_groups,
    keep_highest,
    prunable,
    refuse_nothing,
    split_inputs,
    uncompiled,
)
from pruners.importance import (
    Directions,
    Importance,
    Loss,
    Moments,
    criterion_entry,
    placeholder_values,
    qualified_name,
    second_moments,
)
from pruners.operators import Axis
from pruners.progress import Batches, Progress, silent
from pruners.repair import Shares, best_repair, repair_at_once_
from pruners.result import PruneResult, Summary, count
from pruners.space.choices import KEEP, LEAVE_OUT, REPEAT, choices_of, labels_of
from pruners.space.levels import levels_of
from pruners.space.ranks import Ranks, rank_name
from pruners.surgery import (
    Block,
    Known,
    Removal,
    Surgery,
    Twice,
    configure,
    dense_layers,
    describe_inputs,
    factor_,
    fingerprint,
    form_of,
    ignored,
    multiplied,
    removable_blocks,
    repeatable,
    serves,
    truncate_,
    unneeded,
    without_those_that_stay,
)
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Value, exists, nested, parse

FRONT = 16  # architectures of a front
ALL = 1.0  # damage of outputs that say nothing any more: a squared error as large as their variance
HALVINGS = 6  # of the budgets in search of that
MOMENTS = 128  # samples that second moments are gathered on


class PrunableSpace:
    """The smaller models inside a model, as a search space whose costs need no building.

    There is a choice per residual block (`keep` or `leave out`, with `repeats` also `repeat`: it runs twice), one per group of indices
    (how many stay, those with the highest scores), and with `low_rank` one per layer for its rank. A choice of what is part of a block
    exists only while that block is there.

    With `batches`, scores say what the outputs lose. So a whole front of architectures is known before any is tried (`front`), what
    each loses is estimated without building it (`damage`), and it is built in a moment, its layers repaired from what one pass over
    the batches gave for all of them (`candidate`).

    Args:
        model: any module that `torch.export` traces. It is left untouched, and must not be trained while the space is used.
        example_inputs: a tensor, a sequence of positional inputs or a dict of keyword inputs.
        batches, loss: see `pruners.prune`.
        name: of the search space.
        milliseconds: whether milliseconds of this machine are what it is searched for, so that `round_to` auto is measured.
        progress: called as (name of a long step, done, total).
        settings: of `pruners.config.WidthsConfig`, by keyword; `importance` may be a function as in `pruners.prune`, and `ignore` may
            name blocks too.

    Attributes:
        note: what a reader should know of the scores; empty where there is nothing.
        space: the search space; its labels have a digit per choice, 1 for the smallest value and "-" where it does not exist.
        groups: those that may lose indices.
        whole: the architecture that the model itself is.
        blocks: name to residual block that may be left out.
        levels: how many indices of each group may stay; `levels.recorded` is the setting `round_to` that gives them anywhere.

    Raises:
        ValueError: if an argument does not fit, or nothing can be removed.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        batches: Iterable[Any] | None = None,
        loss: Loss | None = None,
        name: str = "pruned",
        milliseconds: bool = False,
        progress: Progress = silent,
        **settings: Any,
    ) -> None:
        config = parse(WidthsConfig, nested(WidthsConfig, settings))
        config.importance.check_data(batches is not None)
        ignore = config.ignore
        model = uncompiled(model)
        self.model, self.tolerance = model, config.tolerance
        self.args, self.kwargs = split_inputs(example_inputs)
        describe_inputs(self.args, self.kwargs)  # a plan must hold them in the end
        self.graph = analyse(model, self.args, self.kwargs)
        self.found = dependency_groups(self.graph)
        every = removable_blocks(self.graph)
        dense = dense_layers(self.graph, model) if config.low_rank else []
        of_others = {block.name for block in every} | {rank_name(layer) for layer in dense}
        named = [given for given in ignore if given not in of_others]
        blocks = without_those_that_stay(every)
        free = prunable(self.found, named, model)
        self.blocks = {block.name: block for block in blocks if config.depth and not ignored(block, ignore)}
        able = repeatable(self.graph, self.blocks.values()) if config.repeats else []
        self.repeatable = {twice.block.name: twice for twice in able}
        self._axes = {Axis(1): block for block in self.blocks.values()}
        self.cost = CostModel(self.graph, model)
        levels = levels_of(config, self.graph, free, self.cost, milliseconds)
        assert isinstance(levels.round_to, int)
        self.ranks = Ranks.of(self.graph, dense, ignore, config.steps, levels.round_to)
        self.cost = self.ranks.spare(self.cost)
        self.levels = levels.model_copy(update={"ranks": self.ranks.kept})
        data: Any = batches if batches is None or isinstance(batches, Sized) else list(batches)
        self.batches: Batches | None = data
        scoring = config.importance.by_name(data is not None)
        self.note = COST if data is None and scoring != config.importance else ""
        self.of_outputs = data is not None and criterion_entry(scoring.criterion).of_outputs
        self._selection = Selection(
            self.graph, free, model, self.cost.with_blocks(self._axes) if self.of_outputs else self.cost,
            Importance(criterion=scoring.criterion, normalise="none"), "optimal" if self.of_outputs else "global",
            self.levels, Evidence(data, loss, config.seed), progress, self._axes if self.of_outputs else {},
        )  # fmt: skip
        self.groups = free
        self._every = [*free, *self.ranks.groups]
        self._before = count(model, self.args, self.kwargs)
        if not self.blocks and not self.ranks.layers:
            refuse_nothing(self.found, free)
        choices = tuple(choices_of(self._every, list(self.blocks.values()), self.levels, self.repeatable))
        made_of = {
            "model": fingerprint(self.graph), "weights": _digest(model.state_dict().values()), "seed": config.seed,
            "importance": qualified_name(scoring.criterion), "examples": _digest(tree_leaves(data)),
        }  # fmt: skip
        self.space = SearchSpace(name, choices, labels=labels_of(choices), options=made_of)
        self.steps = config.steps
        self.whole = self.uniform(self.steps)

    def uniform(self, step: int) -> Architecture:
        """The architecture in which every block stays and every group keeps the same share of its indices, `step` / `steps`.

        Layers keep their rank.
        """
        kept = {group.name: self.levels.at(group, step) for group in self.groups}
        kept |= {group.name: group.size for group in self.ranks.groups}
        return self.space.architecture({**dict.fromkeys(self.blocks, KEEP), **kept})

    def costs(self, arch: Architecture) -> dict[str, int]:
        """ "macs" on the example inputs, "params" and "weight_bytes" of an architecture, without building it."""
        left_out = self._left_out(arch)
        nodes, _ = unneeded(
            self.graph.trace, [block for block in left_out if block.route is None]
        )  # tokens go elsewhere
        _, tensors = unneeded(self.graph.trace, left_out)
        rows = {Axis(1): block for block in left_out if block.rows}
        again = {Axis(1): twice.block for twice in self._repeated(arch)}
        cost = self.cost.with_blocks(rows | again).without(nodes, tensors)
        counts = {**Removal(self.graph, self._keep(arch)).counts, **dict.fromkeys(rows, 0), **self.ranks.counts(arch)}
        macs = cost.macs({**counts, **dict.fromkeys(again, 2)})
        return {"macs": macs, "params": cost.params(counts), "weight_bytes": cost.weight_bytes(counts)}

    def damage(self, arch: Architecture) -> float:
        """What the outputs lose, as far as what each group and block loses adds up: an estimate that runs no model; 0 of the whole.

        Raises:
            ValueError: scores are no changes of the outputs, as there were no batches or another criterion was asked for.
        """
        self._needs_outputs("damage")
        groups = sum(
            self._lost[group.name][group.size - kept]
            for group in self._every
            if isinstance(kept := arch.get(group.name), int)
        )
        again = sum(self._again[twice.block.name] for twice in self._repeated(arch))
        return float(groups + sum(self._prices[block.name] for block in self._left_out(arch)) + again)

    def front(self, number: int = FRONT, cost: str = "macs") -> list[Architecture]:
        """Architectures from the whole model down, each the one that loses least within a budget, as `damage` says.

        The last one loses about all that the outputs say, or is the least that can be reached.

        Args:
            number: of budgets, which fall evenly in their logarithm; some may have the same architecture.
            cost: macs, params or weight_bytes.

        Raises:
            ValueError: as `damage`.
        """
        self._needs_outputs("front")
        known = self._selection.cost.of(cost)
        fewest = {**fewest_kept(self._every, self.levels), **dict.fromkeys(self._axes, 0)}
        whole, least = math.log(known({})), math.log(max(known(fewest), 1))

        def within(budget: float) -> Architecture:
            return self._within({cost: math.ceil(math.exp(budget))})

        end, high = least, whole
        if self.damage(within(least)) > ALL:
            for _ in range(HALVINGS):
                middle = (end + high) / 2
                end, high = (middle, high) if self.damage(within(middle)) > ALL else (end, middle)
        front: list[Architecture] = []
        for arch in (*map(within, np.linspace(end, whole, number)[:-1]), self.whole):  # the smallest first
            if not front or self.damage(arch) < self.damage(front[-1]):  # else it is larger and no better
                front.append(arch)
        return front[::-1]

    def candidate(self, arch: Architecture, every_size: bool = False) -> nn.Module:
        """The smaller model of an architecture in a moment, as a graph that serves the example's sizes in any batch.

        With batches, each layer makes up for what it lost, see `pruners.repair.repair_at_once_`; batch norms have their old
        statistics. It is not proved: `build` does that.

        Args:
            arch: of `space`.
            every_size: give it the form that `build` does, which serves every size of the inputs, and takes longer.

        Raises:
            ValueError: if the architecture is of another space.
        """
        self.space.check(arch)
        surgery = Surgery(self.model, self.graph, self.found, self.tolerance)
        removal, smaller = surgery.slice(self._keep(arch), self._left_out(arch), self._repeated(arch))
        repair_at_once_(smaller, removal, self._moments)
        ranks = self.ranks.within(arch, removal.counts)
        factor_(smaller, truncate_(smaller, ranks, self._known(removal, ranks)))
        if not every_size:
            return smaller
        result = self.build(arch, check=False)
        _take_(result, smaller)
        return result.model

    def finished(self, arch: Architecture, every_size: bool = False) -> PruneResult:
        """`build`, proved, with the weights of its `candidate`; batch norms have their old statistics."""
        result = self.build(arch, every_size=every_size)
        _take_(result, self.candidate(arch))
        return result

    def shared(
        self, arch: Architecture, every_size: bool = False
    ) -> tuple[nn.Module, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
        """A smaller model, and its tensors as a function of the full model's by name: for training that many smaller models share.

        Gradients pass through the function, but to no statistics of batch norms. As in `candidate`, layers make up for what they lost;
        how they do stays what it was.

        Args:
            arch: of `space`; its layers are taken with their full ranks.
            every_size: see `build`.
        """
        arch = self._of({**arch, **{name: layer.group.size for name, layer in self.ranks.layers.items()}})
        result = self.build(arch, check=False, every_size=every_size)
        removal = Surgery(self.model, self.graph, self.found, self.tolerance).removal(
            self._keep(arch), self._left_out(arch)
        )
        shares, plan = Shares(removal, self._moments), result.plan
        trained = {name for name, _ in result.model.named_parameters(remove_duplicate=False)}
        names = {name: plan.full_name(name) for name in result.model.state_dict()}

        def parts(full: Mapping[str, Tensor]) -> dict[str, Tensor]:
            own = multiplied(shares(full), plan.folded)
            given = {name: own[source] for name, source in names.items() if source in own}
            return {name: x if name in trained else x.detach() for name, x in given.items()}

        return result.model, parts

    def with_weights(self, weights: Mapping[str, Tensor]) -> PrunableSpace:
        """The same space of a copy of the model with other weights: its scores, and how layers make up, stay what they were.

        Args:
            weights: of the model's tensors, some or all, by name.
        """
        self.scores, self._moments, self._lost, self._prices, self._again, self._directions  # noqa: B018  of the weights as they are now
        other = copy.copy(self)
        other.model, other.graph = copy.deepcopy(self.model), copy.copy(self.graph)
        own = dict(other.model.named_parameters(remove_duplicate=False)) | dict(other.model.named_buffers())
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)
        other.graph.trace = replace(self.graph.trace, weights=own)
        return other

    def repaired(
        self, arch: Architecture, batches: Batches, every_size: bool = False, progress: Progress = silent
    ) -> PruneResult:
        """`build`, then repaired on examples as `prune` does by default: what leaves a search.

        Args:
            arch: of `space`.
            batches: examples, with or without labels.
            every_size: see `build`.
            progress: told how far it is.
        """
        result = self.build(arch, every_size=every_size)
        if result.plan.ranks:  # of layers that have made up for what was cut before they became two
            _take_(result, self.candidate(arch))
        words = best_repair(result.model, self.model, result.plan, batches, progress)
        return replace(result, summary=replace(result.summary, chosen={"recover": words}))

    def build(self, arch: Architecture, check: bool = True, every_size: bool = True) -> PruneResult:
        """The smaller model of an architecture, with the weights of the model.

        Its form is as `prune` says, a module also without blocks where the forward can do without them.

        Args:
            arch: of `space`.
            check: prove on the example inputs that removing equals masking, and leaving out equals bypassing.
            every_size: let a graph serve every size of the inputs that the model allows, as `prune` does, which takes another
                trace and proof; else it serves any batch of the example's sizes.

        Raises:
            ValueError: if the architecture is of another space, or the check fails.
        """
        self.space.check(arch)
        keep, left_out = self._keep(arch), self._left_out(arch)
        surgery = Surgery(self.model, self.graph, self.found, self.tolerance, check)
        ranks = self.ranks.within(arch, surgery.removal(keep, left_out).counts)
        cut = surgery.cut(keep, left_out, ranks, self._repeated(arch))
        proved = surgery.prove(cut, every_size, self._known(cut.removal, ranks))
        summary = Summary(
            before=self._before,
            after=count(proved.model, self.args, self.kwargs),
            targets={},
            difference=proved.difference,
            difference_inside=proved.inside,
            form=cut.built.form,
            groups={
                **{g.name: (g.size, cut.removal.counts[g.axis]) for g in self.groups if g.axis in cut.removal.counts},
                **{
                    f"{name}.rank": (self.ranks.layers[f"{name}.rank"].group.size, rank) for name, rank in ranks.items()
                },
            },
            unknown=dict(self.graph.unknown),
            configuration=configure(proved.model, self.model, cut.removal),
            reason=cut.built.reason,
            serves=serves(proved.model),
            blocks=tuple(proved.plan.blocks),
            fixed=proved.fixed,
            form_before=form_of(self.model),
        )
        return PruneResult(proved.model, proved.plan, summary)

    @cached_property
    def scores(self) -> dict[Group, torch.Tensor]:
        """What each index of the groups that may lose some is worth, from one pass over the batches when it is first asked for."""
        return {group: self._ranking.scores[group.name].cpu() for group in self.groups}

    @cached_property
    def _ranking(self) -> Ranking:
        found = self._selection.rank({}, self.model)
        return replace(found, scores={**found.scores, **self.ranks.scores(self._directions)})

    @cached_property
    def _directions(self) -> Mapping[str, Directions]:
        """What directions of the outputs of layers are worth, of those whose rank may be chosen."""
        return self.ranks.measured(self._selection) if self.of_outputs else {}

    def _known(self, removal: Removal, ranks: Mapping[str, int]) -> dict[str, Known]:
        """What data say of what stays of layers of low rank."""
        return self.ranks.known(removal, ranks, self._moments, self._directions) if ranks else {}

    @cached_property
    def _moments(self) -> Mapping[Node, Moments]:
        """Of the inputs of all layers of the full model; none without batches."""
        if self.batches is None:
            return {}
        return second_moments(Removal(self.graph, {}), placeholder_values(self.graph.trace, self.batches, MOMENTS))

    @cached_property
    def _lost(self) -> dict[str, np.ndarray]:
        """Group name to what the outputs lose with 0, 1, ... of its indices."""
        return {group.name: importance_lost(curve(self._ranking.scores[group.name])) for group in self._every}

    @cached_property
    def _prices(self) -> dict[str, float]:
        """Name of a block to what the outputs lose without it."""
        return {priced.block.name: priced.damage for priced in self._ranking.blocks}

    @cached_property
    def _again(self) -> dict[str, float]:
        """Name of a block to what the outputs lose where it runs twice."""
        unit = self._ranking.unit
        found = self._selection.running_again(list(self.repeatable.values())) if self.repeatable else {}
        return {name: damage / unit for name, damage in found.items()}

    def _needs_outputs(self, what: str) -> None:
        if not self.of_outputs:
            raise ValueError(
                f"`{what}` needs scores that are changes of the outputs; give `batches`, some hundred unlabelled examples, and leave "
                "`importance` at auto or curvature."
            )

    def _within(self, budgets: Mapping[str, float]) -> Architecture:
        """The architecture that loses least within budgets."""
        chosen = replace(self._selection, groups=self._every).choose(self._ranking, budgets)
        left_out = {block.name for block in chosen.left_out}
        kept = {group.name: group.size for group in self._every}
        for group in self._every:
            if group.axis in chosen.keep:
                kept[group.name] -= int((~chosen.keep[group.axis]).sum(-1).max())
        return self._of(kept | {name: LEAVE_OUT if name in left_out else KEEP for name in self.blocks})

    def _of(self, wanted: Mapping[str, Value]) -> Architecture:
        """The architecture with a value for each of its choices, of which some may not exist."""
        values: dict[str, Value] = {}
        for choice in self.space.choices:
            if exists(choice, values):
                values[choice.name] = wanted[choice.name]
        return self.space.architecture(values)

    def _left_out(self, arch: Architecture) -> list[Block]:
        return [block for name, block in self.blocks.items() if arch.get(name) == LEAVE_OUT]

    def _repeated(self, arch: Architecture) -> list[Twice]:
        return [twice for name, twice in self.repeatable.items() if arch.get(name) == REPEAT]

    def _keep(self, arch: Architecture) -> dict[Axis, torch.Tensor]:
        keep = {}
        for group, scores in self.scores.items():
            kept = arch.get(group.name, group.size)
            assert isinstance(kept, int)
            if kept < group.size:
                keep[group.axis] = keep_highest(scores, group.size - kept)
        return keep


def _take_(result: PruneResult, smaller: nn.Module) -> None:
    """Give a built model the weights of a candidate of the same architecture."""
    now, own = multiplied(smaller.state_dict(), result.plan.multiplied), result.model.state_dict()
    for name, tensor in own.items():
        if (full := result.plan.full_name(name)) in now:
            tensor.copy_(now[full])


def _digest(values: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits of the tensors among some values."""
    digest = hashlib.sha256()
    for tensor in values:
        if isinstance(tensor, torch.Tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
