"""The three parts of a task: as they are given, or divided from the training examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.runtime import stream
from nas.tasks.batches import Unpack, unpacked
from nas.tasks.examples import Examples
from nas.tasks.samples import Samples, as_examples

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2
READ = 256


def divided(
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    seed: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    test_fraction: float = TEST_FRACTION,
    groups: Sequence[Any] | None = None,
    stratify: Sequence[Any] | bool = False,
    workers: int = 0,
    steps: int | None = None,
    unpack: Unpack | None = None,
) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test examples.

    Args:
        train, validation, test: see `nas.tasks.task`. A part that is left out is drawn from the training examples, the test part first.
        seed: decides which example goes where.
        validation_fraction: of what is left for training and validation.
        test_fraction: of all examples.
        groups: one per training example, such as the patient that it comes from: no group is in two parts.
        stratify: keep the proportions of these, one per training example; True for those of the target, which is read once.
        workers: processes that read a `Dataset`; a `DataLoader` has its own.
        steps: batches of one pass over a training loader without a length.
        unpack: what one batch of one's data is as (inputs, target), where the usual rule does not fit.

    Raises:
        ValueError: a fraction is out of range, groups or strata do not fit, or parts are to be drawn from what only can be iterated.
    """
    for name, value in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}` must be between 0 and 1, both excluded, got {value}")
    every = as_examples(train, workers=workers, steps=steps, unpack=unpack)
    given = [None if part is None else as_examples(part, workers=workers, unpack=unpack) for part in (validation, test)]
    if given[0] is not None and given[1] is not None:
        return every, given[0], given[1]
    if not isinstance(every, Samples):
        missing = " and ".join(name for name, part in zip(("validation", "test"), given, strict=True) if part is None)
        raise ValueError(
            f"parts can be drawn from arrays, a Dataset or a DataLoader over one, got an iterable without positions; give {missing}"
        )
    of = _checked(groups, len(every), "groups")
    strata = _strata(every, stratify)
    kept = np.arange(len(every))
    parts: list[Examples] = []
    for number, (part, fraction) in enumerate(((given[1], test_fraction), (given[0], validation_fraction))):
        if part is None:
            kept, out = _drawn(kept, fraction, of, strata, seed, number)
            part = every.take(torch.from_numpy(out))
        parts.append(part)
    test_part, validation_part = parts
    return every.take(torch.from_numpy(kept)), validation_part, test_part


def _drawn(
    among: np.ndarray, fraction: float, groups: np.ndarray | None, strata: np.ndarray | None, seed: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions that stay, and those that are drawn, each rising."""
    from sklearn.model_selection import GroupShuffleSplit, train_test_split  # half a second to import

    chosen = int(stream(seed, "parts", number).integers(2**31))
    if groups is not None:
        splitter = GroupShuffleSplit(1, test_size=fraction, random_state=chosen)
        stay, out = next(splitter.split(among, groups=groups[among]))
    else:
        try:
            stay, out = train_test_split(
                np.arange(len(among)),
                test_size=fraction,
                random_state=chosen,
                stratify=None if strata is None else strata[among],
            )
        except ValueError as error:
            raise ValueError(
                f"{len(among)} examples cannot be divided by a fraction of {fraction:g}: {error}"
            ) from None
    return np.sort(among[stay]), np.sort(among[out])


def _checked(values: Sequence[Any] | None, count: int, name: str) -> np.ndarray | None:
    if values is None:
        return None
    found = np.asarray(values)
    if found.shape != (count,):
        raise ValueError(f"`{name}` must hold one entry for each of {count} training examples, got shape {found.shape}")
    return found


def _strata(examples: Samples, asked: Sequence[Any] | bool) -> np.ndarray | None:
    if asked is False:
        return None
    if asked is not True:
        return _checked(asked, len(examples), "stratify")
    found = []
    for raw in examples.source.read(list(examples.indices.split(READ)), 0):
        target = unpacked(raw, examples.unpack).target
        if not isinstance(target, Tensor) or target.ndim != 1:
            raise ValueError(
                "`stratify` needs a target of one class for each example; give the strata, one per example"
            )
        found.append(target)
    return torch.cat(found).numpy()
