"""Tasks whose outputs are scores of classes or labels: classification, of images too, segmentation, and several labels at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data import DataConfig, ImageData, load_configured, with_classes, with_normalisation
from nas.objectives import OBJECTIVES, own_objective
from nas.tasks.examples import Examples
from nas.tasks.goals import IGNORED, Classes, Values, scores_of
from nas.tasks.images import Images
from nas.tasks.metrics import PERCENT, Metric, Right, torchmetric
from nas.tasks.splits import divided
from nas.tasks.streamed import StreamedImages, stream_images
from nas.tasks.task import Task

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def image_task(data: ImageData, class_weights: Sequence[float] | None = None) -> Task:
    """The classification of images in memory.

    Args:
        data: the images.
        class_weights: of each class in the loss; None for equal ones.
    """
    parts = [Images(data, split) for split in (data.train, data.validation, data.test)]
    found = _classes_task(data.name, parts, data.num_classes, class_weights)
    described = _of_images(data.input_shape, data.mean, data.std, data.class_names)
    return replace(found, described=described, digest=data.fingerprint)


def streamed_task(config: DataConfig, seed: int) -> Task:
    """The classification of images that are read from disk when they are needed."""
    found = stream_images(config, seed)
    task = _classes_task(found.name, found.parts, len(found.class_names), None)
    how = found.parts[0].how
    return replace(task, described=_of_images(found.shape, how.mean, how.std, found.class_names))


def configured_task(
    config: DataConfig, seed: int, own: Normalisation | None = None, classes: Sequence[str] | None = None
) -> Task:
    """The classification of a configuration's images, in memory or streamed.

    Args:
        config: which images.
        seed: decides the parts.
        own: what a pretrained model's images are normalised by, mean and deviation of each channel; it holds where the configuration
            says nothing else and the images have as many channels.
        classes: names of its classes in the order of its outputs, see `nas.data.with_classes`; not for streamed images.
    """
    normalised = config if own is None else config.model_copy(update=dict(zip(("mean", "std"), own, strict=True)))
    if config.stream:
        task = streamed_task(config, seed)
        fits = own is not None and config.mean is None and len(own[0]) == task.described["input"]["shape"][0]
        return streamed_task(normalised, seed) if fits else task
    data = load_configured(config, seed)
    if own is not None and config.mean is None and len(own[0]) == data.input_shape[0]:
        data = with_normalisation(data, *own)
    return image_task(data if classes is None else with_classes(data, classes))


def classification(
    train: Any,
    *,
    validation: Any = None,
    test: Any = None,
    classes: int | None = None,
    class_weights: Sequence[float] | None = None,
    name: str = "classification",
    **data: Any,
) -> Task:
    """One class of several for each example: outputs (batch, classes), target (batch,) of whole numbers from 0.

    Metrics: accuracy, top5, balanced_accuracy (mean recall), macro_f1.

    Args:
        train, validation, test, data: see `nas.tasks.task`.
        classes: how many; None to look through the training targets.
        class_weights: of each class in the loss; None for equal ones.

    Raises:
        ValueError: labels out of range, or another number of weights than classes.
    """
    parts = divided(train, validation, test, **data)
    return _classes_task(name, parts, classes or _count_classes(parts[0]), class_weights)


def segmentation(
    train: Any,
    *,
    classes: int,
    validation: Any = None,
    test: Any = None,
    class_weights: Sequence[float] | None = None,
    name: str = "segmentation",
    **data: Any,
) -> Task:
    """A class for each pixel: outputs (batch, classes, height, width), target (batch, height, width), -100 where there is none.

    Metrics: miou (mean intersection over union of the classes), pixel_accuracy.
    """

    def jaccard() -> Any:
        from torchmetrics.classification import MulticlassJaccardIndex

        return MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORED)

    metrics = {
        "miou": torchmetric("miou", jaccard, _scores, help="mean intersection over union of the classes"),
        "pixel_accuracy": Metric(own_objective("pixel_accuracy", True, "right pixels", PERCENT), Right),
    }

    def chance(examples: Examples) -> tuple[str, float]:
        how, share = _largest(examples)
        return how, share / classes  # the other classes have no pixel right

    goal = Classes(weight=_weights(class_weights, classes))
    return Task(name, *divided(train, validation, test, **data), goal, metrics, outputs=classes, chance=chance)


def multi_label(
    train: Any,
    *,
    labels: int,
    validation: Any = None,
    test: Any = None,
    name: str = "multi-label",
    **data: Any,
) -> Task:
    """Any number of labels for each example: outputs (batch, labels) of logits, target the same shape of 0 and 1.

    Metrics: average_precision (mean over the labels), macro_f1 at a probability of one half.
    """

    def precision() -> Any:
        from torchmetrics.classification import MultilabelAveragePrecision

        return MultilabelAveragePrecision(labels, average="macro")

    def f1() -> Any:
        from torchmetrics.classification import MultilabelF1Score

        return MultilabelF1Score(labels, average="macro")

    def read(outputs: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        return scores_of(outputs).float().sigmoid(), target.long()

    def loss(outputs: Any, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores_of(outputs).float(), target.float())

    metrics = {
        "average_precision": torchmetric("average_precision", precision, read, help="mean over the labels"),
        "macro_f1": torchmetric("macro_f1", f1, read, help="mean F1 of the labels"),
    }
    return Task(name, *divided(train, validation, test, **data), Values(loss), metrics, outputs=labels)


def class_metrics(classes: int) -> dict[str, Metric]:
    """The metrics of a classification; those of torchmetrics are made when they are asked for."""

    def top5() -> Any:
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")

    def balanced() -> Any:
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(classes, average="macro")

    def f1() -> Any:
        from torchmetrics.classification import MulticlassF1Score

        return MulticlassF1Score(classes, average="macro")

    return {
        "accuracy": Metric(OBJECTIVES["accuracy"], Right),
        "top5": torchmetric("top5", top5, _scores, help="the right class is among the five of the highest scores"),
        "balanced_accuracy": torchmetric("balanced_accuracy", balanced, _scores, help="mean recall of the classes"),
        "macro_f1": torchmetric("macro_f1", f1, _scores, help="mean F1 of the classes"),
    }


def _classes_task(name: str, parts: Sequence[Examples], classes: int, class_weights: Sequence[float] | None) -> Task:
    goal = Classes(weight=_weights(class_weights, classes))
    train, validation, test = parts
    return Task(name, train, validation, test, goal, class_metrics(classes), outputs=classes, chance=_largest)


def _of_images(
    shape: Sequence[int], mean: Sequence[float], std: Sequence[float], classes: Sequence[str]
) -> dict[str, Any]:
    """What an exported network's users need to know of images."""
    return {"input": {"shape": list(shape), "mean": list(mean), "std": list(std)}, "classes": list(classes)}


def _scores(outputs: Any, target: Tensor) -> tuple[Tensor, Tensor]:
    return scores_of(outputs), target


def _weights(given: Sequence[float] | None, classes: int) -> Tensor | None:
    if given is None:
        return None
    weights = torch.as_tensor(given, dtype=torch.float32)
    if weights.shape != (classes,) or not bool((weights >= 0).all()):
        raise ValueError(f"`class_weights` must be {classes} numbers of 0 or more, got {list(given)}")
    return weights


def _targets(examples: Examples) -> Tensor:
    """All targets of classes in one row, those of positions without a class left out."""
    if isinstance(examples, Images):
        return examples.split.labels
    if isinstance(examples, StreamedImages):
        return examples.labels
    found = torch.cat([batch.target.flatten().cpu() for batch in examples.evenly(256)])
    return found[found != IGNORED]


def _count_classes(train: Examples) -> int:
    first = next(train.head(1).batches(1)).target
    if not isinstance(first, Tensor) or first.is_floating_point() or first.ndim != 1:
        kind = (
            "none"
            if first is None
            else f"{tuple(first.shape)} {first.dtype}"
            if isinstance(first, Tensor)
            else type(first).__name__
        )
        raise ValueError(f"a classification needs one whole number as the target of each example, got {kind}")
    labels = _targets(train)
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be whole numbers from 0, got {int(labels.min())}; number the classes from 0")
    return int(labels.max()) + 1


def _largest(examples: Examples) -> tuple[str, float]:
    counts = torch.bincount(_targets(examples))
    return "always naming the largest class", float(counts.max() / counts.sum())
