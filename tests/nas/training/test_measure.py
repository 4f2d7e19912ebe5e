"""What a network is worth: right predictions are counted, and one that knows nothing is said to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas.tasks import Task
from nas.training.measure import measure, warn_of_chance


class Always(nn.Module):
    """Names classes that were written down, batch after batch."""

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))
        self.classes, self.at = classes, 0

    def forward(self, x: Tensor) -> Tensor:
        named = self.classes[self.at : self.at + len(x)]
        self.at += len(x)
        return nn.functional.one_hot(named, 10).float()


@pytest.mark.parametrize("batch_size", [7, 250])
@pytest.mark.parametrize("training", [True, False])
def test_accuracy_counts_right_predictions(batch_size: int, training: bool, task: Task) -> None:
    labels = torch.cat([batch.target for batch in task.test.batches(50)])
    half = torch.where(torch.arange(len(labels)) % 2 == 0, labels, (labels + 1) % 10)
    for named, share in ((labels, 1.0), ((labels + 1) % 10, 0.0), (half, 0.5)):
        module = Always(named).train(training)
        assert measure(module, task, task.test, batch_size=batch_size) == {"accuracy": share}
        assert module.training is training


def test_what_is_no_better_than_the_largest_class_is_said_to_be(task: Task, recwarn: pytest.WarningsRecorder) -> None:
    labels = torch.cat([batch.target for batch in task.test.batches(50)])
    largest = labels.bincount().max().item() / len(labels)
    with pytest.warns(UserWarning, match=rf"^a-b has accuracy {largest:.4g} on digits, no better than always naming"):
        warn_of_chance(largest, task, task.test, "a-b")
    warn_of_chance(largest + 0.01, task, task.test, "a-b")
    assert not recwarn.list
