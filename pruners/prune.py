"""The verb: plan, cut, prove."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruners.allocation import (
    ALLOCATIONS,
    ATTEMPTS,
    LATENCY,
    MILLISECONDS,
    ONNX_RUNTIME,
    TIGHTER,
    CostModel,
    Estimator,
    Evidence,
    Measured,
    ModuleForm,
    OperatorLatency,
    Rankings,
    Reading,
    Selection,
    aligned,
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
from pruners.chosen import choose
from pruners.config import CutConfig
from pruners.groups import Group, analyse, dependency_groups, prunable, refuse_nothing, split_inputs, uncompiled
from pruners.half import batches_in_float32, in_float32, in_own_types, inputs_in_float32, is_half, wider_targets
from pruners.importance import AUTO, Loss, check_one_of, criterion_entry
from pruners.operators import Axis
from pruners.progress import Batches, Progress, silent
from pruners.repair import NONE, REPAIRS, best_repair
from pruners.result import PLAN, WEIGHTS, PruneResult, Summary, count, timed
from pruners.surgery import (
    Proved,
    PruningPlan,
    Removal,
    Surgery,
    configure,
    describe_inputs,
    follow,
    form_of,
    ignored,
    lacks,
    remember,
    removable_blocks,
    serves,
    unique_state,
)
from pruners.vocabulary import VOCABULARY, Vocabulary, cut_rows
from search_spaces.core import first_line, load_tensors, nested, of_file, parse, read_bytes, takes

SHALLOW = 0.7  # what a target leaves at least where no block is left out by default


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
    recover: str = AUTO,
    rankings: Rankings | None = None,
    progress: Progress = silent,
    config: CutConfig | None = None,
    **settings: Any,
) -> PruneResult:
    """Remove channels, heads, blocks and other parts until every target is met, prove the result, and repair it.

    Args:
        model: any module that `torch.export` traces; it is left untouched. One in half precision (float16, bfloat16) keeps its
            types: scores, cut, measurements and proof are those of a copy in float32, whose plan is then carried out on the model.
            One that `torch.compile` wrapped is pruned as the module inside.
        example_inputs: a tensor, a sequence of positional inputs or a dict of keyword inputs.
        targets: "macs", "params", "weight_bytes" (of parameters), "latency_ms" (lower quartile, example inputs, this machine),
            "onnxruntime_ms" (the same in ONNX Runtime) or a name in `estimators` to what may remain: a fraction up to 1 of the full
            model's, or an absolute number above 1; milliseconds also as "0.8ms".
        estimators: further targets by name: functions of (model, inputs) to a positive number, larger for larger models, where
            inputs are a tuple of the positional or a dict of the keyword example inputs.
        batches: iterable of (inputs, targets), for what passes over data; inputs are a tensor, several in a tuple, or a dict by
            name, as the example inputs are; kept in memory if it is not a list or a loader.
        loss: loss(outputs, targets) of all that the model returns; if None, cross-entropy of the first tensor of it.
        between: called with the smaller model of each step but the last, to repair it in place (batch statistics, fine-tuning)
            before it is scored. The result does not have what it changed.
        recover: repair once removing is proved to equal masking, on `batches` or on synthetic inputs: a name in
            `pruners.repair.REPAIRS`, "none", or "auto", which is "least-squares" where there are examples that it can solve on, else
            "calibrate" or "none".
        rankings: keeps what each of several steps is taken by, see `pruners.allocation.Rankings`; for the same call that goes on.
        progress: called as (name of a long step, done, total).
        config: all settings at once, in place of keywords.
        settings: by keyword; `importance` may also be a function of the parameters by name that returns a score for each of their
            entries, larger = keep, for all or some of them; with several `steps`, ratios are of the given model, and so is the one
            plan:{settings}

    Raises:
        ValueError: if an argument does not fit, a target cannot be reached, or the check fails.
    """
    config = cut_config(config, settings)
    check_targets(targets, estimators or {})
    config.importance.check_data(batches is not None)
    check_data(config.allocation, batches is not None)
    _check_recover(recover, config, batches is not None)
    model = uncompiled(model)
    data: Any = batches if batches is None or isinstance(batches, Sized) else list(batches)
    if is_half(model):
        wide = in_float32(model)
        result = prune(
            wide,
            inputs_in_float32(example_inputs),
            wider_targets(targets, model, wide),
            estimators=estimators,
            batches=None if data is None else batches_in_float32(data),
            loss=loss,
            between=between,
            recover=NONE,
            rankings=rankings,
            progress=progress,
            config=config,
        )
        result = in_own_types(result, model, example_inputs)
        refuse_missed(result.summary.targets)
        repaired = _repaired(recover, result, model, data, progress, config.bounds.max_bytes)
        return replace(result, summary=replace(result.summary, chosen={**result.summary.chosen, **repaired}))
    args, kwargs = split_inputs(example_inputs)
    describe_inputs(args, kwargs)  # a plan must hold them in the end
    graph = analyse(model, args, kwargs)
    found = dependency_groups(graph)
    every = removable_blocks(graph)
    blocks = [block for block in every if not ignored(block, config.ignore)]
    free = prunable(found, config.ignore, model, [block.name for block in every])
    if not blocks:
        refuse_nothing(found, free)
    cost = CostModel(graph, model)
    asked = counted_budgets(targets, cost)
    timing = bool(config.milliseconds) or any(
        name in targets for name in MILLISECONDS if name not in (estimators or {})
    )
    limits, rounded, note = aligned(config.limits, graph, free, cost, asked, timing)
    aims = measured_targets(targets, estimators or {}, model, args, kwargs, graph.trace.written)
    config, data, chosen = choose(config, model, args, kwargs, data, progress)
    every_block = {Axis(1): block for block in blocks}
    deep = every_block if _may_leave_out(config, asked, cost, aims, model) else {}
    if not deep:
        refuse_nothing(found, free)
    check_reachable(free, cost.with_blocks(every_block), asked, limits, deep, () if deep else every_block)
    cost = cost.with_blocks(deep)
    if predicts_latency(targets, estimators or {}, config.allocation, graph.trace):
        latency = OperatorLatency(graph, fewest_kept(free, limits), measured_ms, progress, deep)
        cost = cost.predicting(LATENCY, latency) if latency.tables else cost
    least = check_reachable(free, cost, asked, limits, deep)
    lever = next(name for name in (*cost.predicted, "macs", "params") if cost.of(name)({}))
    whole = cost.of(lever)({})
    said: list[str] = []
    evidence = Evidence(data, loss, config.seed, config.bounds, said.append)
    selection = Selection(
        graph, free, model, cost, config.importance, config.allocation, limits, evidence, progress, deep
    )
    guess = [whole * aim.fraction(model) for aim in aims] if config.steps > 1 else []
    last = asked | ({lever: min([asked.get(lever, whole), *guess])} if guess else {})
    ranking = selection.descend(last, least, config.steps, config.schedule, between, rankings)

    surgery = Surgery(model, graph, found, config.tolerance, config.check, config.checked_in)
    as_module = ModuleForm(surgery, selection, ranking) if config.form == "module" else None

    def built_within(budgets: Mapping[str, float]) -> nn.Module:
        if as_module is not None:
            return as_module.cut(budgets).built.model
        return surgery.build(*selection.choose(ranking, budgets)).model

    budgets = dict(asked)
    predicted: dict[str, Reading] = {}
    if aims:
        top = min(whole, asked.get(lever, whole))
        find = approach if lever == LATENCY or ONNX_RUNTIME in targets else search
        budgets[lever], predicted = find(lambda b: built_within({**asked, lever: b}), aims, least[lever], top, progress)
    for _ in range(ATTEMPTS):
        cut = surgery.cut(*selection.choose(ranking, budgets)) if as_module is None else as_module.cut(budgets)
        readings = {aim.name: aim.settle(cut.built.model) for aim in aims}
        after = count(cut.built.model, args, kwargs)
        routed_otherwise = graph.trace.choosing and after["macs"] > asked.get("macs", math.inf)
        if all(reading.met for reading in readings.values()) and not routed_otherwise:
            break
        budgets[lever] = max(least[lever], budgets[lever] - TIGHTER * whole)
    left_out = {axis: 0 for axis, block in deep.items() if block in cut.left_out}
    counts = {**cut.removal.counts, **left_out}
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
    repaired = _repaired(recover, proved, model, data, progress, config.bounds.max_bytes)
    milliseconds, notes = (
        timed(model, proved.model, args, kwargs, graph.trace.written) if config.milliseconds else ({}, [])
    )
    summary = Summary(
        before={**count(model, args, kwargs), **{name: reading.full for name, reading in readings.items()}},
        after={**after, **{name: reading.value for name, reading in readings.items()}},
        targets=report,
        difference=proved.difference,
        difference_inside=proved.inside,
        form=cut.built.form,
        groups={g.name: (g.size, counts[g.axis]) for g in found if g.axis in cut.removal.counts},
        unknown=dict(graph.unknown),
        configuration=configure(proved.model, model, cut.removal),
        reason=cut.built.reason,
        serves=serves(proved.model),
        blocks=tuple(proved.plan.blocks),
        milliseconds=milliseconds,
        chosen={**chosen, **({"round_to": rounded} if rounded else {}), **repaired},
        notes=(*([note] if note else []), *dict.fromkeys(said), *notes),
        fixed=proved.fixed,
        form_before=form_of(model),
        lacks=lacks(model, cut.built, found),
        alike=None if alike is None else alike._asdict(),
    )
    return PruneResult(proved.model, proved.plan, summary)


def _may_leave_out(
    config: CutConfig, asked: Mapping[str, float], cost: CostModel, aims: Sequence[Measured], model: nn.Module
) -> bool:
    """Whether blocks may be left out: if told so, or if a target is tight and the criterion can price them.

    Raises:
        ValueError: if it is told so and nothing can price them.
    """
    priced = criterion_entry(config.importance.criterion).of_outputs and ALLOCATIONS[config.allocation].knapsack
    if config.depth and not priced:
        raise ValueError(
            "`depth` needs `importance` curvature and `allocation` optimal, with `batches`, which price blocks beside groups, got "
            f"{config.importance.criterion!r} and {config.allocation!r}; leave them out, and give `batches`."
        )
    if config.depth is not None or not priced:
        return bool(config.depth)
    fractions = [budget / max(cost.of(name)({}), 1) for name, budget in asked.items()]
    fractions += [aim.fraction(model) for aim in aims]
    return min(fractions) < SHALLOW


def _repaired(
    recover: str,
    proved: Proved | PruneResult,
    model: nn.Module,
    data: Batches | None,
    progress: Progress,
    max_bytes: int,
) -> dict[str, str]:
    """Repair the proved model in place, and say how."""
    if recover == NONE:
        return {}
    if data is None and recover != AUTO:
        raise _needs_batches(recover)
    if data is None:
        return {"recover": "none: no examples were given"}
    repair = best_repair if recover == AUTO else REPAIRS[recover].repair
    return {"recover": repair(proved.model, model, proved.plan, data, progress, max_bytes)}


def _check_recover(recover: str, config: CutConfig, has_batches: bool) -> None:
    """Refuse a repair that is none, or one on examples that there will not be."""
    check_one_of("recover", recover, (AUTO, NONE, *REPAIRS))
    if recover in REPAIRS and not has_batches and config.importance.criterion != AUTO:
        raise _needs_batches(recover)


def _needs_batches(recover: str) -> ValueError:
    return ValueError(f"`recover={recover!r}` needs `batches`, an iterable of inputs; give some, or take none.")


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
    return dependency_groups(analyse(in_float32(uncompiled(model)), *split_inputs(inputs_in_float32(example_inputs))))


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """Rebuild a saved smaller model from a fresh instance of the full one.

    Args:
        folder: written by `PruneResult.save`; with a `vocabulary.json` in it, the plan is of the model with those rows only.
        model: an instance of the model that was pruned, with any weights; it is left untouched. After several prunes, each of the
            last one's result, it is the original, or any of the models on the way.

    Raises:
        FileNotFoundError: if there is no plan.
        ValueError: if the plan is damaged or of another model, or the weights are not exactly those of the smaller model.
    """
    path = Path(folder) / PLAN
    if not path.exists():
        raise FileNotFoundError(f"no plan at {path}; give a folder that `PruneResult.save` wrote")
    with of_file(path, "prune the model again"):
        plan = PruningPlan.from_json(read_bytes(path))
    if (Path(folder) / VOCABULARY).exists():
        model = cut_rows(model, Vocabulary.load(folder).kept)
    with of_file(path, "prune the model again"):
        smaller, full, removal = _followed(plan, model)
    _load_weights(smaller, Path(folder) / WEIGHTS)
    configure(smaller, full, removal)
    remember(smaller, plan)
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


def _followed(plan: PruningPlan, model: nn.Module) -> tuple[nn.Module, nn.Module, Removal]:
    """`follow` for a plan of a file, of which only the form was checked."""
    try:
        return follow(plan, model)
    except Exception as error:  # names of parts that the model lacks raise whatever they lead to
        raise ValueError(f"the plan must be of the model, got: {first_line(error)}") from error


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        state = load_tensors(path).tensors
    except (ValueError, OSError) as error:
        raise ValueError(
            f"weights must be a complete safetensors file, got {path}: {error}; prune the model again, or load them with the {PLAN} "
            "they were saved with"
        ) from error
    expected = unique_state(model)
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    if missing or extra or wrong:
        raise ValueError(
            f"the weights in {path} must be those of the smaller model, got missing {missing[:4]}, extra {extra[:4]}, other shapes "
            f"{wrong[:4]}; load them with the {PLAN} they were saved with."
        )
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
