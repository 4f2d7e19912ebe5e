"""Boxes around digits, by a loss of one's own and mean average precision; targets are dicts, which batches hold in a list."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.tasks import learn, placed
from nas import tasks

BASELINE = 0.05
"""Mean average precision of boxes at random, and some room."""
SIZE, CELL = 24, 4
GRID = SIZE // CELL


class Boxes(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images of two digits, each with the boxes (two, four) of left, top, right, bottom in pixels."""

    def __init__(self, count: int) -> None:
        images, _, corners = placed(count, SIZE, 2)
        self.images = images.unsqueeze(1)
        left_top = corners.flip(-1).float()
        self.boxes = torch.cat([left_top, left_top + 8], dim=-1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.images[index], {"boxes": self.boxes[index], "labels": torch.zeros(2, dtype=torch.long)}


def collate(rows: list[Any]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images together, targets in a list: their numbers of boxes may differ."""
    images, targets = zip(*rows, strict=True)
    return torch.stack(images), list(targets)


def loss(outputs: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Whether the centre of a box is in a cell, and where around the cell's corner the box stands."""
    wanted = torch.zeros_like(outputs)
    for row, target in enumerate(targets):
        for box in target["boxes"]:
            centre = (box[:2] + box[2:]) / 2
            x, y = (centre / CELL).long().clamp(max=GRID - 1).tolist()
            wanted[row, 0, y, x] = 1
            wanted[row, 1:, y, x] = centre / CELL - torch.tensor([x, y])
    there = wanted[:, :1]
    found = F.binary_cross_entropy_with_logits(outputs[:, :1], there)
    place = ((outputs[:, 1:] - wanted[:, 1:]).square() * there).sum() / there.sum().clamp(min=1)
    return 5 * found + place


def read(outputs: Tensor, targets: list[dict[str, Tensor]]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Boxes of the cells with the highest scores, as the metric takes them."""
    scores = outputs[:, 0].sigmoid().flatten(1)
    best, cells = scores.topk(4)
    found = []
    for row, (values, places) in enumerate(zip(best, cells, strict=True)):
        y, x = places // GRID, places % GRID
        shift = outputs[row, 1:, y, x]
        centre = (torch.stack([x, y]) + shift).T * CELL
        found.append({"boxes": torch.cat([centre - 4, centre + 4], 1), "scores": values, "labels": torch.zeros_like(y)})
    return found, targets


def average_precision() -> Any:
    """torchmetrics' mean average precision where what it needs is installed (torchvision and pycocotools), else one of our own.

    Of the figures that it computes, `map_50` is the one that is named as the metric is.
    """
    try:
        from torchmetrics.detection import MeanAveragePrecision

        return MeanAveragePrecision()
    except ImportError:
        return AveragePrecision()


class AveragePrecision:
    """Average precision of the boxes of one class at an overlap of one half."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.found: list[tuple[float, bool]] = []
        self.count = 0

    def update(self, found: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        """Match each image's boxes, the surest first, to boxes that no other has."""
        for boxes, target in zip(found, targets, strict=True):
            overlaps = overlap(boxes["boxes"], target["boxes"])
            free = torch.ones(len(target["boxes"]), dtype=torch.bool)
            self.count += len(free)
            for score, row in zip(boxes["scores"].tolist(), overlaps, strict=True):
                at = int((row * free).argmax())
                hit = bool(free[at]) and float(row[at]) > 0.5
                free[at] &= not hit
                self.found.append((score, hit))

    def compute(self) -> float:
        """Mean over the boxes to find of the precision at which each is found."""
        right, total = 0, 0.0
        for place, (_, hit) in enumerate(sorted(self.found, reverse=True), 1):
            right += hit
            total += hit * right / place
        return total / max(self.count, 1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4): (n, m)."""
    corner = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    inside = (corner[1] - corner[0]).clamp(min=0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return inside / (areas[0][:, None] + areas[1] - inside)


def make() -> tasks.Task:
    """1,000 images, of which a fifth are for testing."""
    loader = torch.utils.data.DataLoader(Boxes(1000), batch_size=50, collate_fn=collate)
    return tasks.task(loader, loss=loss, metrics={"map_50": average_precision()}, read=read, name="boxes of digits")


def model() -> nn.Module:
    """Three convolutions; for each cell of a grid a score and where around it a box stands."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 3, 3, padding=1),
    )  # fmt: skip


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=8, learning_rate=0.01, batch_size=20)
