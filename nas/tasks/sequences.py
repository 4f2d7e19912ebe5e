"""Tasks of sequences: the next token of a text, and symbols of unknown alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.objectives import own_objective
from nas.tasks.goals import IGNORED, Classes, Values, scores_of
from nas.tasks.metrics import PERCENT, Mean, Metric, Right, torchmetric
from nas.tasks.splits import divided
from nas.tasks.task import Task


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
        "cer": torchmetric("cer", cer, read, rises=False, help="character error rate"),
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
