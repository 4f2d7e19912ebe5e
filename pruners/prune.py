"""The verb: plan, cut, prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from estimators import count as count_cost
from pruners.allocation import Limits, check_allocation, check_reachable, fewest_kept
from pruners.alone import measured_ms
from pruners.analysis import analyse, prunable, several_names, split_inputs
from pruners.check import Masked, needs_copies
from pruners.configuration import configure
from pruners.costs import CostModel
from pruners.criteria import Loss
from pruners.every_size import serve_sizes
from pruners.groups import Group, dependency_groups
from pruners.importance import Criterion, check_importance
from pruners.latency import OperatorLatency
from pruners.plan import PruningPlan, describe_inputs, make_plan, unique_state
from pruners.progress import Progress, silent
from pruners.proof import prove, prove_in, verify
from pruners.replay import rebuild, replay
from pruners.rewrite import GraphModel, Removal, rewrite
from pruners.selection import Importance, Selection, check_steps
from pruners.served import serves
from pruners.surgery import build
from pruners.targets import (
    ATTEMPTS,
    LATENCY,
    TIGHTER,
    Estimator,
    Reading,
    approach,
    check_targets,
    counted_budgets,
    measured_targets,
    predicts_latency,
    search,
)

PLAN, WEIGHTS = "plan.json", "weights.safetensors"


@dataclass(frozen=True)
class Summary:
    """What a prune call did.

    Attributes:
        before: "macs", "params" and "weight_bytes" of the given model, macs on the example inputs, and measured targets.
        after: the same of the smaller model, counted and measured on it.
        targets: for each target what was "asked" as an absolute number, what was "predicted" (by the cost model, or by the last
            measurement of the search) and what was "measured" on the result.
        difference: largest difference of an output from the masked full model, relative; None if the check was off.
        difference_inside: the same over every tensor inside.
        form: "module" if the result is a cut copy of the module, "graph" if it is the rewritten exported graph.
        groups: group name to (indices before, indices after), for groups that lost any.
        unknown: operators without a rule; what they touch was left alone.
        configuration: None if the model has no Hugging Face configuration; True if the smaller model's describes it, so that
            `save_pretrained` and `from_pretrained` give it back; False if none can, so that only `PruneResult.save` saves it.
        reason: why the result is a graph: what the cut copy of the module raised, or that its outputs differ; None for a module.
        serves: of a graph, the shapes that it takes by the name of the input, as "NxL", in numbers and free sizes; None for a module.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    targets: Mapping[str, Mapping[str, float]]
    difference: float | None
    difference_inside: float | None
    form: str
    groups: Mapping[str, tuple[int, int]]
    unknown: Mapping[str, int]
    configuration: bool | None = None
    reason: str | None = None
    serves: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class PruneResult:
    """A smaller model, the plan that made it and a summary.

    Attributes:
        model: in eval mode; its weights are its own.
        plan: what was removed.
        summary: before, after and how far from the masked model.
    """

    model: nn.Module
    plan: PruningPlan
    summary: Summary

    def save(self, folder: str | Path) -> None:
        """Write the plan as JSON and the weights as safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(self.plan.to_json())
        save_file(unique_state(self.model), folder / WEIGHTS)


def prune(
    model: nn.Module,
    example_inputs: Any,
    targets: Mapping[str, float | str],
    *,
    estimators: Mapping[str, Estimator] | None = None,
    importance: str | Criterion = "l2",
    allocation: str = "global",
    ignore: str | Sequence[str] = (),
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    aggregate: str = "sum",
    normalise: str | None = None,
    round_to: int = 1,
    min_kept: int = 1,
    max_ratio: float = 0.9,
    steps: int = 1,
    schedule: str = "geometric",
    between: Callable[[nn.Module], None] | None = None,
    seed: int = 0,
    check: bool = True,
    check_dtype: torch.dtype | None = None,
    tolerance: float = 1e-4,
    progress: Progress = silent,
) -> PruneResult:
    """Remove channels, heads and other dimensions until every target is met, and prove the result.

    Args:
        model: any module that `torch.export` traces, in float32 or float64; it is left untouched.
        example_inputs: a tensor, a sequence of positional inputs or a dict of keyword inputs.
        targets: "macs", "params", "weight_bytes" (of parameters), "latency_ms" (the median on the example inputs, on this machine)
            or a name in `estimators` to what may remain: a fraction up to 1 of the full model's, or an absolute number above 1;
            milliseconds also as "0.8ms".
        estimators: further targets by name: functions of (model, inputs) to a positive number, larger for larger models, where
            inputs are a tuple of the positional or a dict of the keyword example inputs.
        importance: criterion, see `pruners.importance.CRITERIA`, or a function of the parameters by name that returns a score
            for each of their entries, larger = keep, for all or some of them.
        allocation: "global", "uniform", "isomorphic", "optimal" (the most importance that can stay) or "distortion" (the least
            change of the outputs, measured on `batches`); the last two under "latency_ms" within the latency that operators
            have by themselves, measured at a few widths first.
        ignore: names of groups, tensors or modules that lose nothing, or one name.
        batches: iterable of (inputs, targets), for what passes over data; inputs are a tensor, several in a tuple, or a dict by
            name, as the example inputs are; kept in memory if it is not a list or a loader.
        loss: loss(outputs, targets) of all that the model returns; if None, cross-entropy of the first tensor of it.
        aggregate: "sum", "mean" or "max" over the members of a group.
        normalise: scores of a group are divided by their "mean", "max" or "sum", or by nothing ("none"); if None, by the mean, and for
            "lamp", which compares groups already, by nothing.
        round_to: kept indices per group are a multiple of this.
        min_kept: fewest indices that stay in a group.
        max_ratio: largest fraction that a group loses.
        steps: times that importance is computed, on what is left; ratios are of the given model, and so is the one plan.
        schedule: how what remains shrinks with the steps, "geometric" or "linear".
        between: called with the smaller model of each step but the last, to repair it in place (batch statistics, fine-tuning)
            before it is scored. The result still has the weights of the given model.
        seed: of random choices.
        check: compare the result with the masked full model on the example inputs.
        check_dtype: type that the check computes in, such as `torch.float64`, on copies; the model's own if None.
        tolerance: largest relative difference that the check allows.
        progress: called as (name of a long step, done, total).

    Raises:
        ValueError: if an argument does not fit, a target cannot be reached, or the check fails.
    """
    limits = Limits(round_to, min_kept, max_ratio)
    check_steps(steps, schedule)
    check_targets(targets, estimators or {})
    check_importance(importance, aggregate, normalise, batches)
    check_allocation(allocation, batches is not None)
    ignore = several_names(ignore)
    args, kwargs = split_inputs(example_inputs)
    describe_inputs(args, kwargs)  # a plan must hold them in the end
    graph = analyse(model, args, kwargs)
    found = dependency_groups(graph)
    free = prunable(found, ignore)
    cost = CostModel(graph, model)
    asked = counted_budgets(targets, cost)
    aims = measured_targets(targets, estimators or {}, model, args, kwargs, graph.trace.written)
    check_reachable(free, cost, asked, limits)
    if predicts_latency(targets, estimators or {}, allocation, graph.trace):
        latency = OperatorLatency(graph, fewest_kept(free, limits), measured_ms, progress)
        cost = cost.predicting(LATENCY, latency) if latency.tables else cost
    least = check_reachable(free, cost, asked, limits)
    lever = next(name for name in (*cost.predicted, "macs", "params") if cost.of(name)({}))
    whole = cost.of(lever)({})
    data: Any = batches if batches is None or isinstance(batches, Sized) else list(batches)
    how = Importance(importance, data, loss, aggregate, normalise, seed)
    selection = Selection(graph, free, model, cost, how, allocation, limits, progress)
    guess = [whole * aim.fraction(model) for aim in aims] if steps > 1 else []
    last = asked | ({lever: min([asked.get(lever, whole), *guess])} if guess else {})
    ranking = selection.descend(last, least, steps, schedule, between)

    def removal_within(budgets: Mapping[str, float]) -> Removal:
        return Removal(graph, selection.choose(ranking, budgets))

    def built_within(budgets: Mapping[str, float]) -> nn.Module:
        removal = removal_within(budgets)
        return build(removal, model, rewrite(removal), tolerance).model

    budgets = dict(asked)
    predicted: dict[str, Reading] = {}
    if aims:
        top = min(whole, asked.get(lever, whole))
        find = approach if lever == LATENCY else search
        budgets[lever], predicted = find(lambda b: built_within({**asked, lever: b}), aims, least[lever], top, progress)
    for _ in range(ATTEMPTS):
        removal = removal_within(budgets)
        if needs_copies(removal):
            graph.trace = graph.trace.enlarged()
        rewritten = rewrite(removal)
        comparison = verify(removal, rewritten, found, model, tolerance) if check and check_dtype is None else None
        smaller, form, mended, reason = build(removal, model, rewritten, tolerance)
        readings = {aim.name: aim.read(smaller) for aim in aims}
        after = count(smaller, args, kwargs)
        routed_otherwise = graph.trace.choosing and after["macs"] > asked.get("macs", math.inf)
        if all(reading.met for reading in readings.values()) and not routed_otherwise:
            break
        budgets[lever] = max(least[lever], budgets[lever] - TIGHTER * whole)
    report = {
        name: {"asked": budget, "predicted": cost.of(name)(removal.counts), "measured": after[name]}
        for name, budget in asked.items()
    } | {
        name: {"asked": reading.limit, "predicted": predicted[name].value, "measured": reading.value}
        for name, reading in readings.items()
    }
    refuse_missed(report)
    plan = make_plan(graph, found, removal.keep, form, mended)
    if form == "graph" and isinstance(smaller, GraphModel):
        served = serve_sizes(removal, smaller, plan, model, tolerance, check)
        smaller, plan = served.model, served.plan
    outside = inside = None
    if comparison is not None:
        outside, inside = prove(smaller, Masked(removal), comparison, tolerance), comparison.inside
    elif check and check_dtype is not None:
        outside, inside = prove_in(check_dtype, smaller, model, plan, graph, tolerance)
    summary = Summary(
        before={**count(model, args, kwargs), **{name: reading.full for name, reading in readings.items()}},
        after={**after, **{name: reading.value for name, reading in readings.items()}},
        targets=report,
        difference=outside,
        difference_inside=inside,
        form=form,
        groups={g.name: (g.size, removal.counts[g.axis]) for g in found if g.axis in removal.counts},
        unknown=dict(graph.unknown),
        configuration=configure(smaller, model, removal),
        reason=reason,
        serves=serves(smaller),
    )
    return PruneResult(smaller, plan, summary)


def groups(model: nn.Module, example_inputs: Any) -> list[Group]:
    """What can be removed from a model and what is protected, and why.

    Args:
        model: any module that `torch.export` traces.
        example_inputs: a tensor, a sequence of positional inputs or a dict of keyword inputs.
    """
    return dependency_groups(analyse(model, *split_inputs(example_inputs)))


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """Rebuild a saved smaller model from a fresh instance of the full one.

    Args:
        folder: written by `PruneResult.save`.
        model: an instance of the model that was pruned, with any weights; it is left untouched.

    Raises:
        FileNotFoundError: if there is no plan.
        ValueError: if the plan is damaged or of another model, or the weights are not exactly those of the smaller model.
    """
    path = Path(folder) / PLAN
    if not path.exists():
        raise FileNotFoundError(f"no plan at {path}; give a folder that `PruneResult.save` wrote")
    plan = PruningPlan.from_json(path.read_bytes())
    removal = replay(plan, model)
    smaller = rebuild(plan, removal, model)
    _load_weights(smaller, Path(folder) / WEIGHTS)
    configure(smaller, model, removal)
    return smaller


def refuse_missed(report: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse a result that is beyond a target.

    Raises:
        ValueError: naming the targets.
    """
    missed = [
        f"{name} {found['measured']:,.6g} where {found['asked']:,.6g} is asked"
        for name, found in report.items()
        if found["measured"] > found["asked"]
    ]
    if missed:
        raise ValueError(
            f"`targets` must be met by the built model, got {', '.join(missed)}; ask for a little less. A count beyond its target "
            "means that the smaller model routes to larger experts or, which is worth a report, that an operator costs more than the "
            "cost model says; a measured one that the machine is too busy to measure."
        )


def count(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Macs on the example inputs, parameters and their bytes of a built model."""
    total = count_cost(model, kwargs or args).total
    return {"macs": total.macs, "params": total.params, "weight_bytes": total.weight_bytes}


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights must be a complete safetensors file, got {path.name}: {error}") from error
    expected = unique_state(model)
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    if missing or extra or wrong:
        raise ValueError(
            f"weights must be those of the smaller model, got missing {missing[:4]}, extra {extra[:4]}, other shapes "
            f"{wrong[:4]}; load them with the plan they were saved with."
        )
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
