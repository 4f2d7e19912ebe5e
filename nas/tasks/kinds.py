"""The kinds of tasks that are built in: each a loss with its usual metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.data import DataConfig, ImageData
from nas.objectives import OBJECTIVES, own_objective
from nas.tasks.examples import Examples
from nas.tasks.goals import IGNORED, Classes, Values, distance, scores_of, spread
from nas.tasks.images import Images
from nas.tasks.metrics import Mean, Metric, Read, Reading, Right
from nas.tasks.splits import divided
from nas.tasks.streamed import StreamedImages, stream_images
from nas.tasks.task import Task
from nas.tasks.taught import Taught

PERCENT = "%"
Losses = Literal["mse", "l1", "huber"]
SPREAD = 500
"""Examples by which the spread of a teacher's outputs is known."""
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
}


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


def _of_images(
    shape: Sequence[int], mean: Sequence[float], std: Sequence[float], classes: Sequence[str]
) -> dict[str, Any]:
    """What an exported network's users need to know of images."""
    return {"input": {"shape": list(shape), "mean": list(mean), "std": list(std)}, "classes": list(classes)}


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
        "miou": _torchmetric("miou", jaccard, _scores, help="mean intersection over union of the classes"),
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
        "average_precision": _torchmetric("average_precision", precision, read, help="mean over the labels"),
        "macro_f1": _torchmetric("macro_f1", f1, read, help="mean F1 of the labels"),
    }
    return Task(name, *divided(train, validation, test, **data), Values(loss), metrics, outputs=labels)


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

    metrics = {**_errors(read), "r2": _torchmetric("r2", r2, read, unit="", help="explained share of the variance")}
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

    found = _torchmetric("psnr", psnr, read, unit="dB", help="peak signal-to-noise ratio")
    metrics = {"psnr": found, **_errors(read)}
    return Task(name, *divided(train, validation, test, **data), Values(_elementwise(loss)), metrics)


def language_modelling(
    train: Any, *, validation: Any = None, test: Any = None, name: str = "language-modelling", **data: Any
) -> Task:
    """The next token: outputs (batch, tokens, vocabulary), or with such `logits`.

    A batch is tokens (batch, tokens), or a dict with `input_ids` and, say, `attention_mask`. The target is the tokens themselves, but
    for those under a mask of 0; or `labels`, -100 where there is none.

    Metrics: perplexity (e to the mean loss of a token), next_token (right ones).
    """

    def unpack(raw: Any) -> tuple[Any, Any]:
        inputs = raw[0] if isinstance(raw, (tuple, list)) and len(raw) == 1 else raw
        if isinstance(inputs, Tensor):
            return inputs, inputs
        if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
            raise ValueError(
                f"a batch of texts must be tokens (batch, tokens) or a dict with `input_ids`, got {type(inputs).__name__}; say by "
                "`unpack` what it is"
            )
        given = {key: value for key, value in inputs.items() if key != "labels"}
        labels = inputs.get("labels", given["input_ids"])
        mask = given.get("attention_mask")
        return given, labels if mask is None else labels.masked_fill(mask == 0, IGNORED)

    goal = Classes(axis=-1, shift=True)
    metrics = {
        "perplexity": Metric(
            own_objective("perplexity", False, "e to the mean loss of a token"), lambda: Perplexity(goal)
        ),
        "next_token": Metric(own_objective("next_token", True, "right tokens", PERCENT), lambda: Right(-1, True)),
    }
    return Task(name, *divided(train, validation, test, **{"unpack": unpack, **data}), goal, metrics)


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


def ctc(
    train: Any,
    *,
    alphabet: Sequence[str],
    validation: Any = None,
    test: Any = None,
    blank: int = 0,
    layout: Literal["NTC", "TNC"] = "NTC",
    name: str = "ctc",
    **data: Any,
) -> Task:
    """Sequences of unknown alignment, such as a line of text: outputs are scores of (batch, time, classes), or time first.

    The target is (symbols, lengths): whole numbers (batch, longest) and (batch,). Decoding is greedy.

    Metrics: cer (character error rate), exact (sequences without an error).

    Args:
        alphabet: what each class stands for, the blank among them.
        blank: the class of no symbol.
        layout: of the outputs: N batch, T time, C classes.
    """

    def log_chances(outputs: Any) -> Tensor:
        scores = scores_of(outputs).float()
        return (scores.transpose(0, 1) if layout == "NTC" else scores).log_softmax(2)

    def loss(outputs: Any, target: tuple[Tensor, Tensor]) -> Tensor:
        chances = log_chances(outputs)
        times = torch.full((chances.shape[1],), chances.shape[0], dtype=torch.long)
        symbols, lengths = target
        return F.ctc_loss(chances, symbols, times, lengths, blank=blank, zero_infinity=True)

    def read(outputs: Any, target: tuple[Tensor, Tensor]) -> tuple[list[str], list[str]]:
        best = log_chances(outputs).argmax(2).T.cpu()
        found = ["".join(alphabet[c] for c in row.unique_consecutive().tolist() if c != blank) for row in best]
        symbols, lengths = (x.cpu().tolist() for x in target)
        right = ["".join(alphabet[c] for c in row[:n]) for row, n in zip(symbols, lengths, strict=True)]
        return found, right

    def cer() -> Any:
        from torchmetrics.text import CharErrorRate

        return CharErrorRate()

    def exact(outputs: Any, target: tuple[Tensor, Tensor]) -> float:
        found, right = read(outputs, target)
        return sum(a == b for a, b in zip(found, right, strict=True)) / len(right)

    metrics = {
        "cer": _torchmetric("cer", cer, read, rises=False, help="character error rate"),
        "exact": Metric(own_objective("exact", True, "sequences without an error", PERCENT), lambda: Mean(exact)),
    }
    parts = divided(train, validation, test, **data)
    return Task(name, *parts, Values(loss), metrics, outputs=len(alphabet))


class Perplexity:
    """e to the mean loss of all tokens."""

    def __init__(self, goal: Classes) -> None:
        self.goal = goal
        self.total: Any = 0.0
        self.count: Any = 0

    def update(self, outputs: Any, target: Tensor) -> None:
        counted = (target[:, 1:] != IGNORED).sum()
        self.total = self.total + self.goal.loss(outputs, target).double() * counted
        self.count = self.count + counted

    def compute(self) -> float:
        if not int(self.count):
            return math.nan
        mean = float(self.total) / int(self.count)
        return math.exp(mean) if mean < 700 else math.inf


class KindEntry(NamedTuple):
    """One kind of task: its function, what it is, and its metrics."""

    make: Callable[..., Task]
    help: str
    metrics: str


KINDS: dict[str, KindEntry] = {
    "classification": KindEntry(classification, "one class of several", "accuracy, top5, balanced_accuracy, macro_f1"),
    "multi_label": KindEntry(multi_label, "any number of labels", "average_precision, macro_f1"),
    "regression": KindEntry(regression, "numbers", "rmse, mae, r2"),
    "segmentation": KindEntry(segmentation, "a class for each pixel", "miou, pixel_accuracy"),
    "image_to_image": KindEntry(image_to_image, "an image for each image", "psnr, rmse, mae"),
    "language_modelling": KindEntry(language_modelling, "the next token", "perplexity, next_token"),
    "matching": KindEntry(matching, "a teacher's outputs, without labels", "cosine, relative_error"),
    "ctc": KindEntry(ctc, "sequences of unknown alignment", "cer, exact"),
}


def as_task(given: Task | ImageData) -> Task:
    """A task, or the classification of images."""
    return image_task(given) if isinstance(given, ImageData) else given


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
        "top5": _torchmetric("top5", top5, _scores, help="the right class is among the five of the highest scores"),
        "balanced_accuracy": _torchmetric("balanced_accuracy", balanced, _scores, help="mean recall of the classes"),
        "macro_f1": _torchmetric("macro_f1", f1, _scores, help="mean F1 of the classes"),
    }


def _classes_task(name: str, parts: Sequence[Examples], classes: int, class_weights: Sequence[float] | None) -> Task:
    goal = Classes(weight=_weights(class_weights, classes))
    train, validation, test = parts
    return Task(name, train, validation, test, goal, class_metrics(classes), outputs=classes, chance=_largest)


def _torchmetric(
    name: str, make: Callable[[], Any], read: Read, *, rises: bool = True, unit: str = PERCENT, help: str = ""
) -> Metric:
    return Metric(own_objective(name, rises, help, unit), lambda: Reading(make(), name, read))


def _errors(read: Read) -> dict[str, Metric]:
    def rmse() -> Any:
        from torchmetrics import MeanSquaredError

        return MeanSquaredError(squared=False)

    def mae() -> Any:
        from torchmetrics import MeanAbsoluteError

        return MeanAbsoluteError()

    return {
        "rmse": _torchmetric("rmse", rmse, read, rises=False, unit="", help="root of the mean squared error"),
        "mae": _torchmetric("mae", mae, read, rises=False, unit="", help="mean absolute error"),
    }


def _scores(outputs: Any, target: Tensor) -> tuple[Tensor, Tensor]:
    return scores_of(outputs), target


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
