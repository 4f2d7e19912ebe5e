"""What a prune call gives back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from estimators import count as count_cost
from estimators.latency import compare_on_example
from pruners.allocation import MILLISECONDS
from pruners.surgery import PruningPlan, unique_state
from pruners.untouched import untouched
from search_spaces.core import save_tensors

PLAN, WEIGHTS = "plan.json", "weights.safetensors"
RUNTIMES = {"eager": "PyTorch", "onnxruntime": "ONNX Runtime"}
TARGETS = {runtime: target for target, runtime in MILLISECONDS.items()}
FASTER = 0.97  # of the given model's milliseconds; more may be noise


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
            `save_pretrained` and `from_pretrained` give it back; False if none can: a module then comes back by
            `pruners.load_pretrained`, and a graph by `pruners.load` only.
        reason: why the result is a graph: what the cut copy of the module raised, or that its outputs differ; None for a module.
        serves: of a graph, the shapes that it takes by the name of the input, as "NxL", in numbers and free sizes; None for a module.
        blocks: names of the residual blocks that are left out; groups inside them are gone, too, and not in `groups`.
        milliseconds: runtime, "eager" or "onnxruntime", to the milliseconds of the given and of the smaller model for the example
            inputs on this machine, lower quartiles of runs in turns; empty where they were not asked for.
        chosen: what `auto` stood for, by setting, with the reason.
        notes: what a reader should know, a sentence each: of how many examples a pass used how many, where time or size bounded it;
            a runtime in which the smaller model is no faster, or which does not run it.
        fixed: why a graph serves no other sizes than the example's, but for the batch; None if it does, or for a module.
        form_before: of a model that itself is the result of a prune, what form that had; else None.
        lacks: of a graph, what it lacks of the module, and the setting that may give a module; empty for a module.
        alike: what the module form took: "governed" (names of what lost alike), "groups" (how many), "whole" (names of groups that
            stayed whole), and the share of all importance that was "lost", beside the share "lost_freely" where every group loses
            by itself; None where nothing had to lose alike.
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
    blocks: tuple[str, ...] = ()
    milliseconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fixed: str | None = None
    form_before: str | None = None
    lacks: tuple[str, ...] = ()
    alike: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Summary:
        """What `to_dict` gave, also where it has been JSON, which has no tuples."""
        pairs = {name: {key: tuple(pair) for key, pair in data[name].items()} for name in ("groups", "milliseconds")}
        several = {name: tuple(data[name]) for name in ("blocks", "notes", "lacks")}
        return cls(**{**data, **pairs, **several})


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
        """Write the plan as JSON and the weights as safetensors, with a digest of them that `load` checks."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(self.plan.to_json())
        save_tensors(folder / WEIGHTS, unique_state(self.model))


def count(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Macs on the example inputs, parameters and their bytes of a built model."""
    total = count_cost(model, kwargs or args).total
    return {"macs": total.macs, "params": total.params, "weight_bytes": total.weight_bytes}


def timed(
    model: nn.Module,
    smaller: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    written: Collection[str] | None = None,
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Milliseconds of two models in each of `RUNTIMES`, and what a reader should know of them.

    Both take turns; each is given its lower quartile, as other work only adds to a time.

    Args:
        model: the given model.
        smaller: the smaller one.
        args: positional example inputs.
        kwargs: keyword example inputs.
        written: what the model writes to itself, see `pruners.untouched`.
    """
    found: dict[str, tuple[float, float]] = {}
    notes = []
    both = {"before": model, "after": smaller}
    for runtime, title in RUNTIMES.items():
        try:
            with untouched(model, written), untouched(smaller, written):
                times = compare_on_example(both, args, kwargs, runtime)
        except ValueError as error:
            notes.append(f"no milliseconds in {title}: {error}")
            continue
        found[runtime] = times["before"].p25_ms, times["after"].p25_ms
    return found, [*notes, *slower(found)]


def slower(milliseconds: Mapping[str, Sequence[float]]) -> list[str]:
    """What a reader is warned of: the runtimes in which the smaller model is no faster, by `Summary.milliseconds`."""
    return [
        f"the smaller model is no faster in {RUNTIMES[runtime]}: {after:.3g} ms where the given one takes {before:.3g} ms; a target of "
        f"`{TARGETS[runtime]}` asks for time itself"
        for runtime, (before, after) in milliseconds.items()
        if after > FASTER * before
    ]
