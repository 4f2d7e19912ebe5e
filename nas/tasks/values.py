"""Tasks whose outputs are numbers: regression, an image for each image, and what a teacher puts out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.objectives import own_objective
from nas.tasks.goals import Values, distance, scores_of, spread
from nas.tasks.metrics import Mean, Metric, Read, torchmetric
from nas.tasks.splits import divided
from nas.tasks.task import Task
from nas.tasks.taught import Taught

SPREAD = 500
"""Examples by which the spread of a teacher's outputs is known."""
Losses = Literal["mse", "l1", "huber"]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
}


def regression(
    train: Any,
    *,
    validation: Any = None,
    test: Any = None,
    loss: Losses = "mse",
    outputs: int | None = None,
    name: str = "regression",
    **data: Any,
) -> Task:
    """Numbers for each example: outputs and target (batch, values), or (batch, 1) for a target (batch,).

    Metrics: rmse and mae in the unit of the target, r2 (mean over the values).
    """
    parts = divided(train, validation, test, **data)
    target = next(parts[0].head(1).batches(1)).target
    values = outputs or (target[0].numel() if isinstance(target, Tensor) else None)

    def read(outputs: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        return _shaped(outputs, target).reshape(len(target), -1), target.float().reshape(len(target), -1)

    def r2() -> Any:
        from torchmetrics import R2Score

        return R2Score()

    metrics = {**_errors(read), "r2": torchmetric("r2", r2, read, unit="", help="explained share of the variance")}
    return Task(name, *parts, Values(_elementwise(loss)), metrics, outputs=values)


def image_to_image(
    train: Any,
    *,
    validation: Any = None,
    test: Any = None,
    loss: Losses = "l1",
    data_range: float = 1.0,
    name: str = "image-to-image",
    **data: Any,
) -> Task:
    """An image for each image, as in denoising: outputs and target (batch, channels, height, width).

    Metrics: psnr in dB, rmse, mae.

    Args:
        data_range: largest value of the target less the smallest, for psnr.
    """

    def psnr() -> Any:
        from torchmetrics.image import PeakSignalNoiseRatio

        return PeakSignalNoiseRatio(data_range=data_range)

    def read(outputs: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        return scores_of(outputs).float(), target.float()

    found = torchmetric("psnr", psnr, read, unit="dB", help="peak signal-to-noise ratio")
    metrics = {"psnr": found, **_errors(read)}
    return Task(name, *divided(train, validation, test, **data), Values(_elementwise(loss)), metrics)


def matching(
    teacher: nn.Module,
    train: Any,
    *,
    validation: Any = None,
    test: Any = None,
    loss: Literal["mse", "cosine"] = "mse",
    name: str = "matching",
    **data: Any,
) -> Task:
    """What a teacher puts out, without labels: outputs as the teacher's, of one tensor or several.

    Metrics: cosine (of the outputs of each example with the teacher's), relative_error (squared, of their spread).

    Args:
        teacher: is not changed; it runs in evaluation mode where batches are.
        loss: mse, relative to the spread of the teacher's outputs, or one less the cosine.
    """
    taught, held, judged = (Taught(part, teacher) for part in divided(train, validation, test, **data))

    def cosine(outputs: Any, target: Any) -> Tensor:
        ours, theirs = (scores_of(x).float().flatten(1) for x in (outputs, target))
        return F.cosine_similarity(ours, theirs).mean()

    @cache
    def spreads() -> list[float]:
        """Of the teacher's outputs over some training examples."""
        seen = [_floats(batch.target) for batch in taught.head(SPREAD).evenly(SPREAD)]
        return [float(spread(torch.cat(same))) for same in zip(*seen, strict=True)]

    def error(outputs: Any, target: Any) -> Tensor:
        return distance(target, outputs, spreads())

    def apart(outputs: Any, target: Any) -> Tensor:
        return 1 - cosine(outputs, target)

    metrics = {
        "cosine": Metric(own_objective("cosine", True, "of outputs with the teacher's"), lambda: Mean(cosine)),
        "relative_error": Metric(
            own_objective("relative_error", False, "squared, of the spread of the teacher's outputs"),
            lambda: Mean(error),
        ),
    }
    return Task(name, taught, held, judged, Values(error if loss == "mse" else apart), metrics)


def _errors(read: Read) -> dict[str, Metric]:
    def rmse() -> Any:
        from torchmetrics import MeanSquaredError

        return MeanSquaredError(squared=False)

    def mae() -> Any:
        from torchmetrics import MeanAbsoluteError

        return MeanAbsoluteError()

    return {
        "rmse": torchmetric("rmse", rmse, read, rises=False, unit="", help="root of the mean squared error"),
        "mae": torchmetric("mae", mae, read, rises=False, unit="", help="mean absolute error"),
    }


def _elementwise(loss: str) -> Callable[[Any, Any], Tensor]:
    if loss not in LOSSES:
        raise ValueError(f"`loss` must be {', '.join(LOSSES)}, got {loss!r}; or make a task by `nas.tasks.task`")

    def of(outputs: Any, target: Tensor) -> Tensor:
        return LOSSES[loss](_shaped(outputs, target), target.float())

    return of


def _shaped(outputs: Any, target: Tensor) -> Tensor:
    """Outputs (batch, 1) in the shape of a target (batch,), others as they are.

    Raises:
        ValueError: their shapes differ, which would be broadcast.
    """
    found = scores_of(outputs).float()
    if found.shape == (*target.shape, 1):
        found = found.squeeze(-1)
    if found.shape != target.shape:
        raise ValueError(f"outputs must have the shape of the target, {tuple(target.shape)}, got {tuple(found.shape)}")
    return found


def _floats(outputs: Any) -> list[Tensor]:
    return [x.float() for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]
