"""The verb: plan, cut, prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pruners.allocation import (
    ATTEMPTS,
    LATENCY,
    TIGHTER,
    CostModel,
    Estimator,
    Evidence,
    ModuleForm,
    OperatorLatency,
    Reading,
    Selection,
    approach,
    check_data,
    check_reachable,
    check_targets,
    counted_budgets,
    fewest_kept,
    measured_ms,
    measured_targets,
    predicts_latency,
    search,
)
from pruners.config import CutConfig
from pruners.groups import Group, analyse, dependency_groups, prunable, split_inputs
from pruners.importance import Loss
from pruners.progress import Progress, silent
from pruners.result import PLAN, WEIGHTS, PruneResult, Summary, count
from pruners.surgery import (
    PruningPlan,
    Removal,
    Surgery,
    build,
    configure,
    describe_inputs,
    lacks,
    rebuild,
    replay,
    rewrite,
    serves,
    unique_state,
)
from search_spaces.core import nested, parse, takes


@takes(CutConfig)
def prune(
    model: nn.Module,
    example_inputs: Any,
    targets: Mapping[str, float | str],
    *,
    estimators: Mapping[str, Estimator] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    between: Callable[[nn.Module], None] | None = None,
    progress: Progress = silent,
    config: CutConfig | None = None,
    **settings: Any,
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
        batches: iterable of (inputs, targets), for what passes over data; inputs are a tensor, several in a tuple, or a dict by
            name, as the example inputs are; kept in memory if it is not a list or a loader.
        loss: loss(outputs, targets) of all that the model returns; if None, cross-entropy of the first tensor of it.
        between: called with the smaller model of each step but the last, to repair it in place (batch statistics, fine-tuning)
            before it is scored. The result still has the weights of the given model.
        progress: called as (name of a long step, done, total).
        config: all settings at once, in place of keywords.
        settings: by keyword; `importance` may also be a function of the parameters by name that returns a score for each of their
            entries, larger = keep, for all or some of them; with several `steps`, ratios are of the given model, and so is the one
            plan:{settings}

    Raises:
        ValueError: if an argument does not fit, a target cannot be reached, or the check fails.
    """
    config = cut_config(config, settings)
    limits = config.limits
    check_targets(targets, estimators or {})
    config.importance.check_data(batches is not None)
    check_data(config.allocation, batches is not None)
    args, kwargs = split_inputs(example_inputs)
    describe_inputs(args, kwargs)  # a plan must hold them in the end
    graph = analyse(model, args, kwargs)
    found = dependency_groups(graph)
    free = prunable(found, config.ignore)
    cost = CostModel(graph, model)
    asked = counted_budgets(targets, cost)
    aims = measured_targets(targets, estimators or {}, model, args, kwargs, graph.trace.written)
    check_reachable(free, cost, asked, limits)
    if predicts_latency(targets, estimators or {}, config.allocation, graph.trace):
        latency = OperatorLatency(graph, fewest_kept(free, limits), measured_ms, progress)
        cost = cost.predicting(LATENCY, latency) if latency.tables else cost
    least = check_reachable(free, cost, asked, limits)
    lever = next(name for name in (*cost.predicted, "macs", "params") if cost.of(name)({}))
    whole = cost.of(lever)({})
    data: Any = batches if batches is None or isinstance(batches, Sized) else list(batches)
    evidence = Evidence(data, loss, config.seed)
    selection = Selection(graph, free, model, cost, config.importance, config.allocation, limits, evidence, progress)
    guess = [whole * aim.fraction(model) for aim in aims] if config.steps > 1 else []
    last = asked | ({lever: min([asked.get(lever, whole), *guess])} if guess else {})
    ranking = selection.descend(last, least, config.steps, config.schedule, between)

    surgery = Surgery(model, graph, found, config.tolerance, config.check, config.checked_in)
    as_module = ModuleForm(surgery, selection, ranking) if config.form == "module" else None

    def built_within(budgets: Mapping[str, float]) -> nn.Module:
        if as_module is not None:
            return as_module.cut(budgets).built.model
        removal = Removal(graph, selection.choose(ranking, budgets))
        return build(removal, model, rewrite(removal), config.tolerance).model

    budgets = dict(asked)
    predicted: dict[str, Reading] = {}
    if aims:
        top = min(whole, asked.get(lever, whole))
        find = approach if lever == LATENCY else search
        budgets[lever], predicted = find(lambda b: built_within({**asked, lever: b}), aims, least[lever], top, progress)
    for _ in range(ATTEMPTS):
        cut = surgery.cut(selection.choose(ranking, budgets)) if as_module is None else as_module.cut(budgets)
        readings = {aim.name: aim.read(cut.built.model) for aim in aims}
        after = count(cut.built.model, args, kwargs)
        routed_otherwise = graph.trace.choosing and after["macs"] > asked.get("macs", math.inf)
        if all(reading.met for reading in readings.values()) and not routed_otherwise:
            break
        budgets[lever] = max(least[lever], budgets[lever] - TIGHTER * whole)
    counts = cut.removal.counts
    report = {
        name: {"asked": budget, "predicted": cost.of(name)(counts), "measured": after[name]}
        for name, budget in asked.items()
    } | {
        name: {"asked": reading.limit, "predicted": predicted[name].value, "measured": reading.value}
        for name, reading in readings.items()
    }
    refuse_missed(report)
    proved = surgery.prove(cut)
    alike = None if as_module is None else as_module.report(cut, budgets)
    summary = Summary(
        before={**count(model, args, kwargs), **{name: reading.full for name, reading in readings.items()}},
        after={**after, **{name: reading.value for name, reading in readings.items()}},
        targets=report,
        difference=proved.difference,
        difference_inside=proved.inside,
        form=cut.built.form,
        groups={g.name: (g.size, counts[g.axis]) for g in found if g.axis in counts},
        unknown=dict(graph.unknown),
        configuration=configure(proved.model, model, cut.removal),
        reason=cut.built.reason,
        serves=serves(proved.model),
        lacks=lacks(model, cut.built, found),
        alike=None if alike is None else alike._asdict(),
    )
    return PruneResult(proved.model, proved.plan, summary)


def cut_config(config: CutConfig | None, settings: Mapping[str, Any]) -> CutConfig:
    """The settings of a cut, given as a whole or by keyword.

    Raises:
        ValueError: both are given, or a setting does not fit.
    """
    if config is not None and settings:
        raise ValueError(
            f"`config` brings all settings, got {', '.join(settings)} as well; leave out one or the other."
        )
    return config or parse(CutConfig, nested(CutConfig, settings))


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
