"""Targets: what may remain of a model, counted from shapes or measured on built models."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from estimators.latency import check_onnx, compare_on_example
from pruners.allocation.costs import CostModel
from pruners.progress import Progress, silent
from pruners.untouched import untouched

COUNTED = ("macs", "params", "weight_bytes")
LATENCY = "latency_ms"
ONNX_RUNTIME = "onnxruntime_ms"
MILLISECONDS = {LATENCY: "eager", ONNX_RUNTIME: "onnxruntime"}  # measured on this machine: name of a target -> runtime
Estimator = Callable[[nn.Module, Any], float]
Compare = Callable[[nn.Module], tuple[float, float]]  # what a full model's value is, and a smaller one's
HALVINGS = 12  # of the range of macs that a measured target is searched in
STEPS = 2**HALVINGS
TIGHTER = 0.02  # of all macs or predicted milliseconds, taken off where the last measurement misses
ATTEMPTS = 6
APPROACHES = 8  # measurements between the smallest and the largest budget of predicted milliseconds
AIM = 0.985  # of what may remain, which noise may exceed
NEAR = 0.97  # of what may remain, which is near enough
RUNS = 50  # of each model in a measurement, fewer where they are slow


@dataclass(frozen=True)
class Reading:
    """A measurement of a smaller model.

    Attributes:
        full: the full model's value, measured with it.
        value: the smaller model's.
        limit: what it may be.
    """

    full: float
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the smaller model is within the limit."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Measured:
    """A target that only a built model can tell.

    Attributes:
        name: of the target.
        asked: what may remain.
        relative: whether `asked` is a fraction of the full model's value.
        compare: the values of the full model and of a smaller one.
    """

    name: str
    asked: float
    relative: bool
    compare: Compare

    def fraction(self, model: nn.Module) -> float:
        """What may remain as a fraction of the full model's value."""
        return self.asked if self.relative else min(1.0, self.asked / self.read(model).full)

    def read(self, smaller: nn.Module) -> Reading:
        """Measure a smaller model.

        Raises:
            ValueError: if the estimator returns no positive number.
        """
        full, value = self.compare(smaller)
        for result in (full, value):
            if not (result > 0 and math.isfinite(result)):
                raise ValueError(f"the estimator of {self.name!r} must return a positive number, got {result}.")
        return Reading(full, value, self.asked * full if self.relative else self.asked)

    def settle(self, smaller: nn.Module) -> Reading:
        """Measure a smaller model; where it misses, three times, of which the middle counts: noise must not cost channels."""
        first = self.read(smaller)
        if first.met:
            return first
        three = [first, self.read(smaller), self.read(smaller)]
        return sorted(three, key=lambda each: each.value / each.limit)[1]


def check_targets(targets: Any, estimators: Mapping[str, Estimator]) -> None:
    """Refuse targets that are none, that nothing tells, that need a package that is missing, or that are no amounts.

    Args:
        targets: name to what may remain.
        estimators: name to a function that tells it.
    """
    known = ", ".join(dict.fromkeys((*COUNTED, *MILLISECONDS, *estimators)))
    if not isinstance(targets, Mapping):
        raise ValueError(
            f"`targets` must be a mapping from {known} to what may remain, got {targets!r}; write {{'macs': 0.5}}."
        )
    if not targets:
        raise ValueError(f"`targets` must name at least one of {known}, got none.")
    if taken := set(estimators) & set(COUNTED):
        raise ValueError(
            f"`estimators` must have names of their own, got {', '.join(sorted(taken))}, counted already; rename."
        )
    for name, value in targets.items():
        if name not in (*COUNTED, *MILLISECONDS, *estimators):
            raise ValueError(f"`targets` must be among {known}, got {name!r}; give a function for it in `estimators`.")
        parse_target(name, value)
    if ONNX_RUNTIME in targets and ONNX_RUNTIME not in estimators:
        check_onnx()


def counted_budgets(targets: Mapping[str, float | str], cost: CostModel) -> dict[str, float]:
    """Counted targets as numbers of macs, parameters or bytes; fractions are of the whole model."""
    budgets = {}
    for name in COUNTED:
        if name in targets:
            value, relative = parse_target(name, targets[name])
            budgets[name] = value * cost.of(name)({}) if relative else value
    return budgets


def measured_targets(
    targets: Mapping[str, float | str],
    estimators: Mapping[str, Estimator],
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    written: Collection[str] | None = None,
) -> list[Measured]:
    """Targets beyond the counted ones, all of which `check_targets` knows.

    Args:
        targets: name to what may remain.
        estimators: name to a function of a model and its inputs (a tuple of positional or a dict of keyword inputs);
            those of `MILLISECONDS` are known without one.
        model: the full model.
        args: positional example inputs.
        kwargs: keyword example inputs.
        written: what the model writes to itself, see `pruners.untouched`.
    """
    result = []
    for name, value in targets.items():
        if name in estimators:
            compare = _estimated(estimators[name], model, kwargs or args)
        elif name in MILLISECONDS:
            compare = _timed(model, args, kwargs, MILLISECONDS[name])
        else:
            continue
        result.append(Measured(name, *parse_target(name, value), _leaving_alone(compare, model, written)))
    return result


def parse_target(name: str, value: float | str) -> tuple[float, bool]:
    """What may remain, and whether it is a fraction of the full model.

    Numbers up to 1 are fractions, larger ones absolute. Milliseconds, of targets whose names end in "_ms", may also be text with
    their unit, as "0.8ms", which is absolute whatever its size.

    Raises:
        ValueError: if the value is not positive or no number.
    """
    text = isinstance(value, str)
    try:
        number = float(value.removesuffix("ms")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    timed = name.endswith("_ms")
    if text and not (timed and str(value).endswith("ms")):
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        unit = ', or milliseconds such as "0.8ms"' if timed else ""
        raise ValueError(
            f"`targets[{name!r}]` must be positive, got {value!r}; give a fraction up to 1, an absolute number above 1{unit}."
        )
    return number, not text and number <= 1


def search(
    smaller: Callable[[float], nn.Module],
    aims: Sequence[Measured],
    low: float,
    high: float,
    progress: Progress = silent,
) -> tuple[float, dict[str, Reading]]:
    """The largest budget of macs whose model meets every measured target, by bisection.

    Every model is measured once, the noise of a measurement is that of the result: the caller measures again in the end.

    Args:
        smaller: builds the model of a budget.
        aims: measured targets.
        low: smallest budget that can be met.
        high: largest budget to try.
        progress: called as ("measured targets", models measured, all models).

    Returns:
        The budget and what was measured at it.

    Raises:
        ValueError: if even the smallest model misses a target; the message says what range can be reached.
    """

    readings: dict[int, dict[str, Reading]] = {}
    trials = HALVINGS + 2

    def budget(step: int) -> float:
        return (low * (STEPS - step) + high * step) / STEPS

    def misses(step: int) -> bool:
        readings[step] = _read(smaller(budget(step)), aims)
        progress("measured targets", len(readings), trials)
        return not _met(readings[step])

    if not misses(STEPS):
        progress("measured targets", trials, trials)
        return high, readings[STEPS]
    if misses(0):
        raise unreachable(readings[0], readings[STEPS])
    found = bisect_left(range(1, STEPS), True, key=misses)
    return budget(found), readings[found]


def approach(
    smaller: Callable[[float], nn.Module],
    aims: Sequence[Measured],
    low: float,
    high: float,
    progress: Progress = silent,
) -> tuple[float, dict[str, Reading]]:
    """A budget of predicted milliseconds whose model meets every measured target, and is near to missing one.

    Predictions are taken to be right up to a factor and a constant. So each trial interpolates linearly between the
    largest budget that met the targets and the smallest that missed one. Arguments, results and errors are those of
    `search`.
    """
    trials = APPROACHES + 2
    progress("measured targets", 0, trials)
    built = smaller(high)
    found = _read(built, aims)
    if _met(found) and _met(found := _read(built, aims)):  # once may be noise, and nothing would be removed then
        progress("measured targets", trials, trials)
        return high, found
    largest, least, above = found, low, _worst(found)
    best: dict[str, Reading] = {}
    del built
    known = below = 0.0  # as if no budget left nothing, until two misses tell what stays
    for trial in range(APPROACHES):
        progress("measured targets", trial + 1, trials)
        line = known + (AIM - below) * (high - known) / max(above - below, 1e-9)
        budget = min(max(line, least, known), high)
        worst = _worst(found := _read(smaller(budget), aims))
        if _met(found):
            known, below, best = budget, worst, found
        elif budget <= least:
            raise unreachable(found, largest)
        else:
            if not best:
                below = min(max(0.0, (worst * high - above * budget) / (high - budget)), AIM / 2)
            high, above = budget, worst
        if best and (below >= NEAR or high - known <= (1 - NEAR) * known):
            break
    if not best:
        known, best = least, _read(smaller(least), aims)
        if not _met(best):
            raise unreachable(best, largest)
    progress("measured targets", trials, trials)
    return known, best


def _read(model: nn.Module, aims: Sequence[Measured]) -> dict[str, Reading]:
    return {aim.name: aim.read(model) for aim in aims}


def _met(readings: Mapping[str, Reading]) -> bool:
    return all(reading.met for reading in readings.values())


def _worst(readings: Mapping[str, Reading]) -> float:
    """The largest value as a fraction of its limit."""
    return max(reading.value / reading.limit for reading in readings.values())


def unreachable(lowest: Mapping[str, Reading], highest: Mapping[str, Reading]) -> ValueError:
    """The refusal of a measured target."""
    asked = ", ".join(f"{name} {reading.limit:,.4g}" for name, reading in lowest.items())
    reach = ", ".join(f"{n} from {r.value:,.4g} to {highest[n].value:,.4g}" for n, r in lowest.items())
    return ValueError(
        f"`targets` must be reachable, got {asked}; within the limits this model reaches {reach}, measured. Ask for more, raise "
        "`max_ratio`, or protect fewer groups."
    )


def _leaving_alone(compare: Compare, model: nn.Module, written: Collection[str] | None) -> Compare:
    """Compare, and leave both models as they were."""

    def wrapped(smaller: nn.Module) -> tuple[float, float]:
        with untouched(model, written), untouched(smaller, written):
            return compare(smaller)

    return wrapped


def _estimated(estimator: Estimator, model: nn.Module, inputs: Any) -> Compare:
    """Ask a function about both models, about the full one once."""
    full: list[float] = []

    def compare(smaller: nn.Module) -> tuple[float, float]:
        if not full:
            full.append(float(estimator(model, inputs)))
        return full[0], float(estimator(smaller, inputs))

    return compare


def _timed(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], runtime: str) -> Compare:
    """Milliseconds of both models, which take turns on the example inputs: lower quartiles, as other work only adds."""

    def compare(smaller: nn.Module) -> tuple[float, float]:
        found = compare_on_example({"full": model, "smaller": smaller}, args, kwargs, runtime, runs=RUNS)
        return found["full"].p25_ms, found["smaller"].p25_ms

    return compare
