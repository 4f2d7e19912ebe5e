"""Progressive shrinking: the largest subnet first, then one kind of choice after another opens from its largest value on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nas.samplers.basic import Draw, Sampler, alike, restricted, values_of
from search_spaces import Architecture, Integer, SearchSpace
from search_spaces.core import Choice, Value

PHASES = (("kernel",), ("depth",), ("width", "expansion"))
SUBNETS = (1, 2, 4)
WIDTHS = 2
FULL = 0.25


class Stage(NamedTuple):
    """From epoch `start` on, each step trains `subnets` architectures; of the choices named in `open` so many values are open."""

    start: int
    subnets: int
    open: dict[str, int]
    sorts: bool


class Progressive(Sampler):
    """Once-for-all's order of training: kernels, then depths, then widths.

    The first quarter of the epochs trains the largest subnet. The rest is shared evenly among the stages; each opens one more value of
    the ordered choices of its kind, and trains 1 subnet a step for kernels, 2 for depths and 4 for widths, among them expansions.
    Choices of no or another `kind` are open once the quarter is over. Before widths open, channels are sorted, once.

    Args:
        space: the search space.
        largest: its largest architecture.
        epochs: of the whole training.

    Raises:
        ValueError: no ordered choice is of any of the kinds, or there are fewer epochs than stages.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791.
    Differs: one schedule of the learning rate for all stages, which are equally long; kernels open one by one, and resolutions with
    them, not at once; the mean of a step's gradients in place of their sum; channels are not sorted again, group by group, before the
    widths after the first.
    """

    def __init__(self, space: SearchSpace, largest: Architecture, epochs: int) -> None:
        self.space, self.largest = space, largest
        kinds = [_ordered(space, phase) for phase in PHASES]
        if not any(kinds):
            raise ValueError(
                "sampler progressive needs ordered choices of the kind kernel, depth, width or expansion, but "
                f"{space.name!r} has none among {', '.join(choice.name for choice in space.choices)}; give them their `kind`, or use "
                "sandwich or delayed"
            )
        openings = [max(choice.size for choice in kind) - 1 if kind else 0 for kind in kinds]
        if epochs <= sum(openings):
            raise ValueError(
                f"sampler progressive has {sum(openings) + 1} stages in {space.name!r} and needs an epoch for each, got "
                f"{epochs}; train for longer"
            )
        full = max(1, min(round(FULL * epochs), epochs - sum(openings)))
        starts = iter(np.linspace(full, epochs, sum(openings) + 1)[:-1].astype(int).tolist())
        opened = {choice.name: 1 for kind in kinds for choice in kind}
        self.stages: list[Stage] = []
        for number, (kind, times) in enumerate(zip(kinds, openings, strict=True)):
            for count in range(2, times + 2):
                opened = opened | {choice.name: min(count, choice.size) for choice in kind}
                sorts = number == WIDTHS and count == 2
                self.stages.append(Stage(next(starts), SUBNETS[number], opened, sorts))

    @property
    def first(self) -> int:
        """The epoch in which other subnets than the largest join."""
        return self.stages[0].start

    def stage(self, epoch: int) -> Stage | None:
        """The stage of an epoch; None while only the largest subnet is trained."""
        begun = [stage for stage in self.stages if stage.start <= epoch]
        return begun[-1] if begun else None

    def sorts(self, epoch: int) -> bool:
        return any(stage.sorts and stage.start == epoch for stage in self.stages)

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        stage = self.stage(epoch)
        if stage is None:
            return [Draw(self.largest, "max")]

        def opened(choice: Choice) -> Sequence[Value]:
            return values_of(choice)[-stage.open.get(choice.name, choice.size) :]

        return alike(restricted(self.space, rng, opened) for _ in range(stage.subnets))


def _ordered(space: SearchSpace, kinds: Sequence[str]) -> list[Integer]:
    return [
        choice for choice in space.choices if isinstance(choice, Integer) and choice.size > 1 and choice.kind in kinds
    ]
