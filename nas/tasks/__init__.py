"""What a model is for: its examples, the loss that it is trained on, and the metrics that it is judged by."""

from nas.tasks.classes import (
    class_metrics,
    classification,
    configured_task,
    image_task,
    multi_label,
    segmentation,
    streamed_task,
)
from nas.tasks.examples import Batch, Examples
from nas.tasks.goals import Classes, Goal, Values, distance, scores_of
from nas.tasks.images import Images
from nas.tasks.kinds import KINDS, as_task
from nas.tasks.metrics import Metric, Numbers, Tally, figures, tallied
from nas.tasks.sequences import ctc, language_modelling
from nas.tasks.sources import digest
from nas.tasks.task import Step, Task, described, task
from nas.tasks.values import image_to_image, matching, regression

__all__ = [
    "KINDS", "Batch", "Classes", "Examples", "Goal", "Images", "Metric", "Numbers", "Step", "Tally", "Task", "Values", "as_task",
    "class_metrics", "classification", "configured_task", "ctc", "described", "digest", "distance", "figures", "image_task",
    "image_to_image", "language_modelling", "matching", "multi_label", "regression", "scores_of", "segmentation", "streamed_task",
    "tallied", "task",
]  # fmt: skip
