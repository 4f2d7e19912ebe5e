"""What an architecture may be worth before it is trained: scores of a network with random weights on one batch.

None of them is an accuracy, and each is right on some spaces and wrong on others: compare with macs and params on yours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

import torch
from torch import nn

from estimators.zero_cost.as_vit import as_vit
from estimators.zero_cost.entropy import deepmad, max_entropy
from estimators.zero_cost.gradients import fisher, fisher_fan_in, grad_norm, grasp, l2_norm, snip
from estimators.zero_cost.gradsign import gradsign, ntk_condition
from estimators.zero_cost.separation import jacob_cov, naswot
from estimators.zero_cost.synflow import synflow
from estimators.zero_cost.working import Batch, Loss, check_batch, single, working_copy
from estimators.zero_cost.zen import zen
from search_spaces.core import first_line, unknown_name

__all__ = ["ZERO_COST", "Batch", "Loss", "Score", "score"]


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: what tables call it.
        unit: what it counts in.
        higher_is_better: its direction.
        function: gives the score of a working copy, which it may change, on a batch.
        help: what it is.
    """

    name: str
    unit: str
    higher_is_better: bool
    function: Callable[..., float]
    help: str


ZERO_COST: dict[str, Score] = {
    known.name: known
    for known in (
        Score("grad_norm", "loss per unit of weight", True, grad_norm,
              "norms of gradients, summed over layers"),
        Score("snip", "loss", True, snip,
              "what removing each weight would change in the loss"),
        Score("grasp", "squared loss per squared unit of weight", True, grasp,
              "what removing each weight would change in the flow of gradients"),
        Score("fisher", "squared loss", True, fisher,
              "what removing each channel would change in the loss"),
        Score("fisher_fan_in", "squared loss", True, fisher_fan_in,
              "as fisher, counted once for each incoming weight"),
        Score("synflow", "units of the outputs", True, synflow,
              "the absolute weights along every path, multiplied, and all paths added up; the data and the loss do not matter"),
        Score("jacob_cov", "nats", True, jacob_cov,
              "how differently samples are seen, by their input gradients"),
        Score("naswot", "nats", True, naswot,
              "how differently samples are seen, by which activations are on"),
        Score("zen", "nats", True, zen,
              "how much the output can express, measured with noise"),
        Score("gradsign", "signs", True, gradsign,
              "weights that all samples pull the same way"),
        Score("ntk_condition", "ratio", False, ntk_condition,
              "largest over smallest eigenvalue of the tangent kernel of up to 16 samples"),
        Score("max_entropy", "nats", True, max_entropy,
              "how much the output can express, from widths and depths of the convolutions"),
        Score("deepmad", "nats", True, deepmad,
              "as max_entropy, less where the depths of stages differ"),
        Score("as_vit", "units of the outputs per radian", True, as_vit,
              "how much a circle of inputs is stretched"),
        Score("l2_norm", "units of weight", True, l2_norm,
              "norms of weights, summed over layers"),
    )
}  # fmt: skip


def score(name: str, model: nn.Module, batch: Batch, loss: Loss, *, seed: int = 0, **options: float) -> float:
    """One score of a model on one batch, in float32 on the model's device (synflow in float64), under autocast and inference mode too.

    The model runs in evaluation mode, without dropout; its batch and instance norms take the statistics of the batch.

    Args:
        name: one of `ZERO_COST`.
        model: left as it was: weights, gradients, buffers, modes and random generators.
        batch: (inputs, targets), at least one sample, along the first dimension of every tensor; inputs may be a tensor, a tuple of
            positional arguments or a dictionary of keyword arguments.
        loss: (outputs, targets) -> scalar, also for a batch of one sample.
        seed: of the scores that draw weights or inputs, and of models that draw numbers in evaluation mode.
        options: settings of the score's function, such as `repeats` of zen.

    Returns:
        The score in its own direction. NaN or infinite where the network is degenerate: leave NaN out of rankings.

    Raises:
        ValueError: no score or option of that name, a batch that is empty or whose tensors differ in length, a model that does not run
            on the batch or the loss, or one that lacks what the score looks at.
    """
    if name not in ZERO_COST:
        raise unknown_name("zero-cost score", name, ZERO_COST)
    function = ZERO_COST[name].function
    settings = list(signature(function).parameters)[3:]
    for option in options:
        if option not in settings:
            raise unknown_name(f"option of {name}", option, settings)
    check_batch(batch)
    with working_copy(model, seed) as own:
        try:
            return float(function(own, single(batch), loss, **options))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                f"`batch` and `loss` must suit the model: {name} of {type(model).__name__} cannot be computed: {first_line(error)}; "
                "give (inputs, targets), inputs of several arguments as a tuple or a dictionary, and a loss of (outputs, targets)"
            ) from error
