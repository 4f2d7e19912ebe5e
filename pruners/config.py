"""The settings of a cut, and of a model as a search space."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator

from pruners.allocation import ALLOCATIONS, SCHEDULES, Limits, multiple
from pruners.errors import whole_number
from pruners.groups import several_names
from pruners.importance import AUTO, Bounds, Importance, Scoring, check_one_of
from search_spaces.core import Part, setting

MOST_STEPS = 35  # of a space: a digit each
MEASURED = "auto:"


def _dtype(given: Any) -> str | None:
    """The name of a floating-point type of torch, given as itself or by name; None stays None."""
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if dtype is not None and isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return str(dtype).removeprefix("torch.")
    if given is None:
        return None
    raise ValueError(f"`check_dtype` must be a floating-point type, got {given!r}; take float64 or float32.")


def _allocation(given: Any) -> Any:
    return check_one_of("allocation", given, (AUTO, *ALLOCATIONS))


def measured_multiple(round_to: Any) -> int | None:
    """The number in `auto:NUMBER`; None for another setting."""
    number = str(round_to).removeprefix(MEASURED)
    return int(number) if str(round_to).startswith(MEASURED) and number.isdecimal() and int(number) else None


def _multiple_of_widths(given: Any) -> Any:
    return given if measured_multiple(given) is not None else multiple(given)


def _few_steps(given: Any) -> Any:
    if whole_number("steps", given) > MOST_STEPS:
        raise ValueError(f"`steps` must be at most {MOST_STEPS}, a digit each, got {given}.")
    return given


class _AnyCut(Part):
    """What every removal is told: what may not go, and how exact the result must be."""

    ignore: Annotated[tuple[str, ...], BeforeValidator(several_names)] = setting(
        (), repeated=True, help="Name of a group, tensor or module that loses nothing. Can be repeated."
    )
    tolerance: float = setting(1e-4, help="Largest relative difference that the check allows.")
    seed: int = setting(0, help="Decides everything random.")


class CutConfig(_AnyCut):
    """How much goes, where, and how the result is checked."""

    importance: Importance = Importance()
    allocation: Annotated[str, BeforeValidator(_allocation)] = setting(
        AUTO,
        help="How many go where: see `nas list allocations`; under latency_ms, optimal and distortion spend the latency that operators "
        "have by themselves, measured at a few widths first.",
        otherwise="auto: optimal where scores are changes of the outputs, as those of curvature are, else global",
    )
    depth: bool | None = setting(
        None,
        help="Whether blocks may be left out, priced by the change of the outputs beside what groups lose; needs curvature.",
        otherwise="if the tightest target leaves less than 0.7",
    )
    steps: Annotated[int, BeforeValidator(lambda value: whole_number("steps", value))] = setting(
        1, help="Times that importance is computed, each time on what is left."
    )
    schedule: Annotated[str, BeforeValidator(lambda value: check_one_of("schedule", value, SCHEDULES))] = setting(
        "geometric", help="How what remains shrinks over the steps: see `nas list schedules`."
    )
    limits: Limits = Limits()
    form: Literal["auto", "module"] = setting(
        "auto",
        help="What the result may be: `auto` is a module where the forward can express the smaller sizes, else a graph; `module` "
        "is always one: what one number of the forward governs loses alike.",
    )
    bounds: Bounds = Bounds()
    check: bool = setting(True, help="Compare the result with the masked model on the example inputs.")
    milliseconds: bool | None = setting(
        None,
        help="Measure the milliseconds of the given and of the smaller model on the example inputs, in PyTorch and with the extra onnx "
        "in ONNX Runtime: some seconds.",
        otherwise="where nas prune is called, unless a device file tells of another machine",
    )
    check_dtype: Annotated[str | None, BeforeValidator(_dtype)] = setting(
        None,
        help="Type that the check computes in, on copies, such as float64.",
        otherwise="the model's own",
    )

    @property
    def checked_in(self) -> torch.dtype | None:
        """The type that the check computes in; the model's own if None."""
        return None if self.check_dtype is None else getattr(torch, self.check_dtype)


class WidthsConfig(_AnyCut):
    """What a model can be searched for: in how many steps its groups shrink, and whether residual blocks may be left out."""

    steps: Annotated[int, BeforeValidator(_few_steps)] = setting(
        8, help="Numbers of indices to choose from per group: all of them in 1 to so many equal steps, at most 35."
    )
    depth: bool = setting(True, help="Whether residual blocks may be left out.")
    repeats: bool = setting(
        False,
        help="Whether residual blocks may run twice, where what they make can enter them again: more depth, the same weights.",
    )
    low_rank: bool = setting(
        False,
        help="Whether linear layers and 1x1 convolutions may become two of low rank, a choice of its rank for each.",
    )
    importance: Scoring = Scoring()
    round_to: Annotated[int | str, BeforeValidator(_multiple_of_widths)] = setting(
        "auto",
        help="Kept indices are a multiple of this, in groups of at least that size. auto: where milliseconds of this machine are an "
        "objective or a limit, the multiple that it computes channels in, as for `nas prune`; else 1. auto:8 is an auto that was "
        "measured to be 8.",
    )
