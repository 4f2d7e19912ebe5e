"""Repair of a pruned model on data: statistics, least squares, and training on labels or towards the unpruned model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, field_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.pruning.matching import match_
from nas.pruning.unfinished import NOTHING, Kept
from nas.runtime import precision, stream
from nas.tasks import Batch, Examples, Task
from nas.training import (
    Alone,
    Distillation,
    Distilled,
    RangeTest,
    TrainingConfig,
    check_weights,
    fit,
    safe_rate,
    trial_rate,
)
from pruners import PruneResult, least_squares_, recalibrate_
from pruners.importance import AUTO
from pruners.progress import Progress, silent
from pruners.repair import NONE, REPAIRS, best_repair
from search_spaces.core import Part, setting

CALIBRATION_EXAMPLES = 1000
BATCH = 100
MATCHED_BYTES = 2**30
"""Of inputs that a training towards the unpruned model takes, at most."""
RATES = (1e-3, 3e-3, 1e-2, 2e-2, 5e-2)
"""Learning rates of SGD that `auto` tries."""
TRIALS = 0.1
"""Share of a training on labels that its range test takes, at most, but for the fewest steps."""
TRIAL_STEPS = (8, 20)
"""Fewest and most steps at a rate in the range test."""
HELD_OUT = 500
"""Examples that judge the rates at most; a tenth of all at most."""
Note = dict[str, Any]


@dataclass(frozen=True)
class Recovery:
    """One step of repair: one of `RECOVERIES`, for some epochs or seconds where it trains."""

    kind: str
    epochs: int = 0
    seconds: int = 0

    def __str__(self) -> str:
        lasts = f"{self.epochs}" if self.epochs else f"{self.seconds}s" if self.seconds else ""
        return f"{self.kind}:{lasts}" if lasts else self.kind


@dataclass(frozen=True)
class Given:
    """What a repair over inputs goes by.

    Attributes:
        step: what was asked for.
        seed: decides everything random.
        device: where training runs; the CPU if None.
        progress: told how far it is.
        kept: what the step keeps while it is under way.
    """

    step: Recovery
    seed: int = 0
    device: torch.device | None = None
    progress: Progress = silent
    kept: Kept = NOTHING


@dataclass(frozen=True)
class RecoveryEntry:
    """One way of repair.

    Attributes:
        help: what it does.
        repair: over inputs without labels: changes the model of a result, from the unpruned model and batches of inputs; tells what
            people should know of it, by name, or nothing.
        learner: what trains on labels: of the pruned model, the unpruned one, the task, settings, distillation and a device.
        title: what the training is called.
        trains: whether it is named with how long it takes.
        needs: the data that it passes over: "inputs", "labels" as well, or none where it does without if it must.
    """

    help: str
    repair: Callable[[PruneResult, nn.Module, Iterable[Any], Given], Note | None] | None = None
    learner: Callable[[nn.Module, nn.Module, Task, TrainingConfig, Distillation, torch.device], Alone] | None = None
    title: str = ""
    trains: bool = False
    needs: str = "inputs"

    def as_step(self, name: str) -> str:
        """How it is named."""
        if not self.trains:
            return name
        return f"{name}:EPOCHS" if self.learner else f"{name}:EPOCHS or {name}:SECONDSs"


def _recalibrated(result: PruneResult, model: nn.Module, sample: Iterable[Any], given: Given) -> None:
    recalibrate_(result.model, sample, given.progress)


def _solved(result: PruneResult, model: nn.Module, sample: Iterable[Any], given: Given) -> Note:
    done = least_squares_(result.model, model, result.plan, sample, progress=given.progress)
    return asdict(done)


def _matched(result: PruneResult, model: nn.Module, sample: Iterable[Any], given: Given) -> Note:
    step = given.step
    lasts: dict[str, Any] = {"epochs": step.epochs} if step.epochs else {"seconds": step.seconds}
    lasts |= {"device": given.device, "seed": given.seed, "path": given.kept.training, "progress": given.progress}
    done = match_(result, model, sample, **lasts)
    return {"learning_rate": done.rate, **done.to_dict()}


def _best(result: PruneResult, model: nn.Module, sample: Iterable[Any], given: Given) -> Note:
    return {"did": best_repair(result.model, model, result.plan, sample, given.progress)}


RECOVERIES: dict[str, RecoveryEntry] = {
    AUTO: RecoveryEntry(
        "least-squares where there are examples that it can solve on, else calibrate or nothing", _best, needs=""
    ),
    "calibrate": RecoveryEntry(REPAIRS["calibrate"].help, _recalibrated),
    "least-squares": RecoveryEntry(REPAIRS["least-squares"].help, _solved),
    "match": RecoveryEntry(
        "trains towards outputs and inner states of the unpruned model, without labels", _matched, trains=True
    ),
    "finetune": RecoveryEntry(
        "trains on the labels",
        learner=lambda pruned, model, task, config, distillation, device: Alone(pruned, task, config, device),
        title="fine-tuning",
        trains=True,
        needs="labels",
    ),
    "distill": RecoveryEntry(
        "trains on the labels and towards the unpruned model",
        learner=lambda pruned, model, task, *given: Distilled(pruned, task, model, *given),
        title="distilling",
        trains=True,
        needs="labels",
    ),
}
STEPS = [entry.as_step(name) for name, entry in RECOVERIES.items()]
LASTS = re.compile(r"([1-9][0-9]*)(s?)")


def parse_recovery(steps: Sequence[str]) -> list[Recovery]:
    """Recovery steps as a user names them, such as `calibrate`, `finetune:1` and `match:480s`.

    Raises:
        ValueError: an unknown step, or epochs or seconds that are not a positive number.
    """
    parsed = []
    for step in steps:
        kind, colon, lasts = step.partition(":")
        entry = RECOVERIES.get(kind)
        found = LASTS.fullmatch(lasts)
        fits = entry is not None and (entry.trains and found is not None if colon else not entry.trains)
        if not fits or (found and found[2] and entry is not None and entry.learner):
            raise ValueError(
                f"`recover` must be {NONE} alone or among {', '.join(STEPS)}, with a whole number of epochs or seconds above 0; "
                f"got {step!r}"
            )
        number = int(found[1]) if found else 0
        parsed.append(Recovery(kind, seconds=number) if found and found[2] else Recovery(kind, number))
    return parsed


def _rate(given: Any) -> Any:
    """A learning rate, or `auto`."""
    if given == "auto":
        return given
    try:
        rate = float(given)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"`learning_rate` must be a number above 0, or auto, got {given!r}")
    return rate


class RecoveryConfig(Part):
    """How a pruned model is repaired."""

    steps: tuple[str, ...] = setting(
        (AUTO,),
        name="recover",
        help="Repair, in order, joined by commas: see `nas list recoveries`; training ones with epochs, such as finetune:1, or "
        "seconds, such as match:480s; none for no repair.",
    )
    learning_rate: Annotated[float | Literal["auto"], BeforeValidator(_rate)] = setting(
        "auto",
        help="Learning rate of finetune and distill at the start, which falls to a hundredth along half a cosine; auto tries a few, "
        "each for a few steps. match finds its own.",
    )
    batch_size: int = setting(128, gt=1, help="Examples per step of finetune and distill.")
    distillation: Distillation = Distillation()

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        if steps == (NONE,):
            return ()
        parse_recovery(steps)
        return steps

    def training(self, epochs: int, rate: float) -> TrainingConfig:
        """Of one step of repair."""
        return TrainingConfig(
            epochs=epochs, batch_size=self.batch_size, learning_rate=rate, final_learning_rate=rate / 100
        )


class Repair:
    """Repairs pruned copies of one model, in place.

    Args:
        model: the unpruned model, on the CPU; it is left untouched.
        task: what the model is for.
        examples: to repair on.
        config: how training goes.
        seed: decides everything random.
        device: where training runs.
        progress: told about every step.

    Attributes:
        sample: some of the examples in batches, without augmentation.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        examples: Examples,
        config: RecoveryConfig,
        *,
        seed: int,
        device: torch.device,
        progress: Progress = silent,
    ) -> None:
        self.model, self.task, self.examples, self.config = model, task, examples, config
        self.seed, self.device, self.progress = seed, device, progress
        self.sample = list(sample_of(examples, seed))

    def __call__(self, step: Recovery, result: PruneResult, kept: Kept = NOTHING) -> Note:
        """Repair the model of a result; it is left on the CPU in eval mode.

        Args:
            step: of repair.
            result: whose model is repaired in place.
            kept: what the step keeps while it is under way.

        Returns:
            What people should know of it, by name: of a training its learning rate, and what a range test found.
        """
        entry = RECOVERIES[step.kind]
        if entry.learner is not None:
            return self._train(step, entry, result.model, kept)
        sample = inputs_of(self.examples, self.seed) if entry.trains else self.sample
        return repair_unlabelled(step, result, self.model, sample, self.seed, self.device, self.progress, kept)

    def _train(self, step: Recovery, entry: RecoveryEntry, model: nn.Module, kept: Kept) -> Note:
        assert entry.learner is not None
        given = self.config.learning_rate
        rate = min(RATES) if given == "auto" else given
        training = self.config.training(step.epochs, rate)
        learner = entry.learner(model, self.model, self.task, training, self.config.distillation, self.device)
        note: Note = {}
        if given == "auto":
            test = kept.once("range test", lambda: _plain(self._range_test(learner, step.epochs)))
            rate = test["rate"]
            note = {"before": test["before"], "tried": dict(test["tried"])}
        config = self.config.training(step.epochs, rate)
        fit(
            learner,
            self.examples,
            config,
            seed=self.seed,
            device=self.device,
            path=kept.training,
            name=entry.title,
            progress=self.progress,
        )
        model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return {"learning_rate": rate, **note}

    def _range_test(self, learner: Alone, epochs: int) -> RangeTest:
        """A range test on some examples, judged by the learner's own loss on others."""
        order = torch.from_numpy(stream(self.seed, "range test").permutation(len(self.examples)))
        held = min(HELD_OUT, max(1, len(order) // 10))
        rest = order[held:] if held < len(order) else order
        judged, seen = self.examples.take(order[:held]), self.examples.take(rest)
        size = min(self.config.batch_size, len(seen))
        least, most = TRIAL_STEPS
        wanted = int(TRIALS * epochs * self.examples.steps(size) / len(RATES))
        count = max(1, min(seen.steps(size), max(least, min(most, wanted))))

        def trial(rate: float) -> None:
            learner.begin(0)
            rng = stream(self.seed, "range test", "batches")
            drawn = seen.batches(size, rng=rng, augment=True, drop_last=True, device=self.device)
            for at, batch in enumerate(islice(drawn, count)):
                learner.step(batch, trial_rate(rate, at, count))
            check_weights(learner.optimizer)

        def loss() -> float:
            learner.module.eval()
            total, examples = 0.0, 0
            with torch.no_grad(), precision(self.device):
                for batch in judged.batches(BATCH, device=self.device):
                    total += float(learner.loss(batch)) * batch.size
                    examples += batch.size
            return total / examples

        return safe_rate(learner.module, learner.optimizer, trial, loss, RATES, progress=self.progress)


def repair_unlabelled(
    step: Recovery,
    result: PruneResult,
    model: nn.Module,
    sample: Iterable[Any],
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress = silent,
    kept: Kept = NOTHING,
) -> Note:
    """Repair the model of a result by a step that needs no labels.

    Args:
        step: one that does not train on labels.
        result: of pruning `model`.
        model: the unpruned model.
        sample: batches of inputs, with labels or without.
        seed: decides everything random.
        device: where training runs; the CPU if None.
        progress: told how far it is.
        kept: what the step keeps while it is under way.

    Returns:
        What people should know of it, by name.
    """
    repair = RECOVERIES[step.kind].repair
    assert repair is not None
    return repair(result, model, sample, Given(step, seed, device, progress, kept)) or {}


def _plain(test: RangeTest) -> dict[str, Any]:
    """What a range test found, as plain data."""
    return {"rate": test.rate, "before": test.start, "tried": list(test.losses.items())}


def sample_of(examples: Examples, seed: int) -> Iterator[Batch]:
    """About `CALIBRATION_EXAMPLES` examples, drawn by `seed`, in batches, without augmentation: what criteria and repairs pass over."""
    seen = 0
    for batch in examples.batches(min(BATCH, len(examples)), rng=stream(seed, "calibration")):
        yield batch
        seen += batch.size
        if seen >= CALIBRATION_EXAMPLES:
            return


def inputs_of(examples: Examples, seed: int) -> Iterator[Batch]:
    """As many examples as a training without labels takes, at random, without augmentation."""
    left = MATCHED_BYTES
    for batch in examples.batches(min(BATCH, len(examples)), rng=stream(seed, "images")):
        left -= sum(x.numel() * x.element_size() for x in tree_leaves(batch.inputs) if isinstance(x, Tensor))
        if left < 0:
            return
        yield Batch(batch.inputs)
