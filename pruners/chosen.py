"""What `auto` stands for: how indices are scored and what is spent on them, from the data that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from pruners.config import CutConfig
from pruners.importance import AUTO, criterion_entry
from pruners.progress import Batches, Progress
from pruners.repair import synthetic

SAMPLES = 500  # synthetic inputs that are asked for
FEWEST = 32  # synthetic inputs that are of use
PART = 1 / 3  # of the time for a pass over data that synthetic inputs may take
COST = (
    "no data were given and the model has no batch norms to make inputs from: weights alone say little of what a trained model knows; "
    "a few hundred unlabelled examples as `batches` keep most of it"
)


class Chosen(NamedTuple):
    """Settings without `auto`.

    Attributes:
        config: how indices are scored and allocated, by name.
        batches: given or synthetic examples; None if there are none.
        why: what was chosen, by setting, in words.
    """

    config: CutConfig
    batches: Batches | None
    why: dict[str, str]


def choose(
    config: CutConfig,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    batches: Batches | None,
    progress: Progress,
) -> Chosen:
    """Replace `auto`.

    Args:
        config: as it was given.
        model: the full model.
        args: positional example inputs.
        kwargs: keyword example inputs.
        batches: given examples; None if there are none.
        progress: told how far synthetic inputs are.
    """
    why: dict[str, str] = {}
    importance, allocation = config.importance, config.allocation
    if importance.criterion == AUTO:
        if batches is None:
            batches = _made(config, model, args, kwargs, progress)
            if batches is not None:
                number = sum(map(len, batches))
                why["batches"] = (
                    f"{number} synthetic inputs, made from the statistics of batch norms, as no data were given"
                )
        why["importance"] = f"l2: {COST}" if batches is None else "curvature: from unlabelled examples"
        importance = importance.by_name(batches is not None)
    if allocation == AUTO:
        of_outputs = criterion_entry(importance.criterion).of_outputs
        allocation = "optimal" if of_outputs else "global"
        why["allocation"] = (
            f"{allocation}: {'scores are changes of the outputs' if of_outputs else 'by ranks of scores'}"
        )
    return Chosen(config.model_copy(update={"importance": importance, "allocation": allocation}), batches, why)


def _made(
    config: CutConfig, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], progress: Progress
) -> Batches | None:
    """Synthetic inputs, if the model has batch norms and takes one tensor of real numbers, and there is time for some."""
    if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return None
    try:
        made = synthetic(
            model, args[0], SAMPLES, seed=config.seed, progress=progress, max_seconds=PART * config.bounds.max_seconds
        )
    except ValueError:  # no batch norms with statistics that gradients reach
        return None
    return made if sum(map(len, made)) >= FEWEST else None
