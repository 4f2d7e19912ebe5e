"""The kinds of tasks that are built in, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nas.data import ImageData
from nas.tasks.classes import classification, image_task, multi_label, segmentation
from nas.tasks.sequences import ctc, language_modelling
from nas.tasks.task import Task
from nas.tasks.values import image_to_image, matching, regression


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
