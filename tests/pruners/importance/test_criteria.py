"""What a loss is given: of your own all that the model returns; the default one the first tensor, or words on what it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.pruners.plain import prune


class Detector(nn.Module):
    """Boxes come before classes, in the order of a dict."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.stem, self.inner = nn.Linear(6, 16), nn.Linear(16, 12)
        self.box, self.cls, self.wrap = nn.Linear(12, 4), nn.Linear(12, 7), wrap

    def forward(self, x: Tensor) -> Any:
        x = self.inner(self.stem(x).relu()).relu()
        return self.wrap(self.box(x), self.cls(x))


X, LABELS = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 7
GRADIENTS = ("taylor", "fisher")
SHAPES = {
    "dict": (lambda box, cls: {"box": box, "cls": cls}, lambda out: out["cls"]),
    "nothing first": (lambda box, cls: (None, cls), lambda out: out[1]),
    "nested": (lambda box, cls: {"all": [box, (cls, None)]}, lambda out: out["all"][1][0]),
}


def removed(wrap: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    return prune(Detector(wrap), X[:2], {"params": 0.6}, **settings).plan.removed


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("importance", GRADIENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_loss_is_given_what_the_model_returns(shape: str, importance: str, steps: int) -> None:
    wrap, logits = SHAPES[shape]
    settings = {"importance": importance, "batches": [(X, LABELS)], "steps": steps, "ignore": ["box"]}
    plain = removed(lambda box, cls: (cls, box), **settings)
    assert removed(wrap, loss=lambda out, y: F.cross_entropy(logits(out), y), **settings) == plain


@pytest.mark.parametrize("importance", [*GRADIENTS, "lrp"])
def test_without_a_loss_the_first_tensor_holds_the_logits(importance: str) -> None:
    settings = {"importance": importance, "batches": [(X, LABELS)], "ignore": ["box"]}
    assert removed(lambda box, cls: (None, cls), **settings) == removed(lambda box, cls: cls, **settings)


@pytest.mark.parametrize("importance", GRADIENTS)
def test_outputs_that_need_a_loss_of_their_own_are_named(importance: str) -> None:
    tokens, settings = torch.randint(0, 7, (24, 5)), {"importance": importance}
    message = r"without a `loss`, .* got shape \({}, 5, 7\) and shape \({}, 5\): .*; give `loss`, a function of \(outputs, targets\)"
    message = message.replace("{}", "24" if importance == "taylor" else "1")
    with pytest.raises(ValueError, match=message):
        removed(lambda box, cls: cls[:, None].expand(-1, 5, -1), batches=[(X, tokens)], **settings)
    with pytest.raises(ValueError, match="without a `loss`"):
        removed(lambda box, cls: {"box": box, "cls": cls}, batches=[(X, LABELS)], **settings)


def test_labels_beyond_the_classes_are_refused_by_relevance() -> None:
    with pytest.raises(
        ValueError, match=r"labels \(N,\) of these classes, got \(24, 4\) and \(24,\) .* use 'taylor' with"
    ):
        removed(lambda box, cls: {"box": box, "cls": cls}, batches=[(X, LABELS)], importance="lrp")


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda out, y: F.cross_entropy(out, y, reduction="none"), r"shape \(24,\)"),
        (lambda out, y: F.cross_entropy(out, y).detach(), r"shape \(\) without a gradient"),
        (lambda out, y: 0.5, "a float"),
    ],
)
def test_a_loss_that_is_no_number_is_refused(loss: Any, found: str) -> None:
    with pytest.raises(
        ValueError, match=f"`loss` must return a tensor of one number .* got .*{found}.*; take the mean"
    ):
        removed(lambda box, cls: cls, importance="taylor", batches=[(X, LABELS)], loss=loss)


def test_targets_in_a_dict_are_counted_by_their_rows() -> None:
    targets = {"labels": LABELS, "boxes": torch.zeros(24, 4)}

    def loss(out: Any, y: Any) -> Tensor:
        return F.cross_entropy(out[1], y["labels"]) + 0 * F.mse_loss(out[0], y["boxes"])

    both = removed(lambda box, cls: (box, cls), importance="fisher", batches=[(X, targets)], loss=loss, ignore=["box"])
    plain = {"importance": "fisher", "batches": [(X, LABELS)], "ignore": ["box"]}
    assert both == removed(lambda box, cls: (cls, box), **plain)
    with pytest.raises(ValueError, match="needs targets in tensors"):
        removed(lambda box, cls: cls, importance="fisher", batches=[(X, "labels")])
