"""Path samplers: which architectures one step trains.

A sampler maps the epoch and a random generator to a list of architectures with their roles. What it remembers between steps is in
`tensors`, so that training goes on after a stop as if there had been none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from search_spaces import Architecture, Integer, SearchSpace, Subset, Supernet
from search_spaces.core import Choice, Value, composed

Role = Literal["max", "min", "random"]
Open = Callable[[Choice], Sequence[Value]]
LONGEST_ROUND = 64
TRIES = 1_000


class Draw(NamedTuple):
    """One architecture of a step: its part in the step, and the factor of its loss."""

    arch: Architecture
    role: Role = "random"
    weight: float = 1.0


class Sampler(ABC):
    """Proposes the architectures of each step; those without memory implement `draw` alone.

    Attributes:
        averages: the losses of a step are averaged, also of the part that one of several supernets has; else they are added.
    """

    averages = True

    @abstractmethod
    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        """The architectures of the next step, in the order in which they are trained."""

    def begin(self, epoch: int, supernets: Sequence[Supernet], images: Tensor | None) -> None:  # noqa: B027
        """Called before the first step of an epoch, with images [B, C, H, W] to look at, if there are any."""

    def sorts(self, epoch: int) -> bool:
        """Whether channels are sorted before an epoch."""
        return False

    def narrowed(self, space: SearchSpace) -> SearchSpace:
        """The part of the space that is left, for strategies to propose from."""
        return space

    def tell(self, draws: Sequence[Draw], losses: Sequence[float]) -> None:  # noqa: B027
        """The training losses of a step, told after the draw of the step that follows it and before the end of the epoch."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Go back to a checkpoint."""


class Uniform(Sampler):
    """`subnets` architectures, each drawn uniformly.

    Reference: for one subnet, Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020,
    arXiv:1904.00420.
    """

    def __init__(self, space: SearchSpace, subnets: int = 1) -> None:
        self.space, self.subnets = space, subnets

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        return alike(self.space.sample(rng) for _ in range(self.subnets))


def nested(space: SearchSpace, subnets: int = 4) -> Uniform:
    """SortedNet: several nested subnets of random sizes, whose mean gradient makes one update.

    Reference: Valipour et al., "SortedNet: A Scalable and Generalized Framework for Training Modular Deep Neural Networks", 2023,
    arXiv:2309.00255.
    Differs: the number of subnets per update is ours.

    Raises:
        ValueError: a choice of the space is not an ordered list of sizes.
    """
    for choice in space.choices:
        if choice.size > 1 and not isinstance(choice, Integer):
            raise ValueError(
                f"sampler sorted needs choices of ordered sizes, so that smaller subnets lie within larger ones; choice "
                f"{choice.name!r} of {space.name!r} is {choice.allowed}; use uniform or fair"
            )
    return Uniform(space, subnets)


class Fair(Sampler):
    """Strict fairness: the subnets of a step train every value of every choice once, and their mean gradient makes one update.

    A `Subset` choice takes every item once, that is, `taken` of them in each subnet.

    Reference: Chu et al., "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search", ICCV 2021,
    arXiv:1907.01845.
    Differs: the mean of the gradients in place of their sum, so that the learning rate means the same for all samplers. Where choices
    have different numbers of values, a step has as many subnets as the longest choice needs, and within it the values of the
    other choices are trained equally often up to one. A choice that exists under some values of others only is trained only there.

    Raises:
        ValueError: constraints or a canonical form tie choices together, or a choice has more than 64 values.
    """

    def __init__(self, space: SearchSpace) -> None:
        if space.canonical is not None:
            raise ValueError(
                f"sampler fair gives every choice its values regardless of the others, but {space.name!r} has a canonical form, "
                "which gives some architectures other values than were drawn; use uniform"
            )
        if space.constraints:
            raise ValueError(
                f"sampler fair gives every choice its values regardless of the others, but {space.name!r} has the constraint: "
                f"{space.constraints[0].rule}; use uniform"
            )
        self.space = space
        self.length = max(map(_round, space.choices))
        if self.length > LONGEST_ROUND:
            longest = max(space.choices, key=_round)
            raise ValueError(
                f"sampler fair trains every value of a choice in each step, at most {LONGEST_ROUND}, but choice {longest.name!r} of "
                f"{space.name!r} needs {self.length}; use uniform"
            )

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        return alike(balanced(self.space, self.length, rng))


class Sandwich(Sampler):
    """The largest subnet, the smallest, and some random ones between.

    Args:
        space: the search space.
        smallest, largest: its ends.
        subnets: random ones per step.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142.
    """

    averages = False

    def __init__(self, space: SearchSpace, smallest: Architecture, largest: Architecture, subnets: int = 2) -> None:
        self.space, self.smallest, self.largest, self.subnets = space, smallest, largest, subnets

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        between = [Draw(self.space.sample(rng)) for _ in range(self.subnets)]
        return [Draw(self.largest, "max"), Draw(self.smallest, "min"), *between]


class Delayed(Sampler):
    """Delayed epsilon-shrinking: the largest subnet alone at first, then a sandwich whose smaller subnets' losses fade in.

    Args:
        sandwich: what is drawn after the delay.
        start: the epoch at which the smaller subnets join.
        epsilon: the factor of their losses then.
        over: epochs until the factor is 1.

    Reference: Annavajjala et al., "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training", ECCV 2024, arXiv:2407.06167.
    Differs: the factor rises by the epoch; `start`, `epsilon` and `over` are ours.
    """

    averages = False

    def __init__(self, sandwich: Sandwich, start: int, epsilon: float = 1e-4, over: int = 10) -> None:
        self.sandwich, self.start, self.epsilon, self.over = sandwich, start, epsilon, over

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        if epoch < self.start:
            return [Draw(self.sandwich.largest, "max")]
        risen = (epoch - self.start) / self.over
        factor = min(1.0, self.epsilon + (1 - self.epsilon) * risen)
        drawn = self.sandwich.draw(epoch, rng)
        return [d if d.role == "max" else d._replace(weight=factor) for d in drawn if d.role == "max" or factor > 0]


class Groups(Sampler):
    """Several architectures whose values are balanced: within a step, those of each choice differ in number by at most 1.

    A conditional choice is balanced over all architectures. Among those that have the choice, the numbers can differ by
    more.

    Meant for a batch that is split among them, see `nas.supernets.Team`. Ordered choices open from their largest value
    on, one by one over the first `opening` epochs.

    Reference: Liao, Karaman, Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv:2109.00642.
    """

    def __init__(self, space: SearchSpace, subnets: int = 4, opening: int = 15) -> None:
        self.space, self.subnets, self.opening = space, subnets, opening

    def open(self, choice: Choice, epoch: int) -> list[Value]:
        """The values of a choice that an epoch trains."""
        if not isinstance(choice, Integer):
            return values_of(choice)
        count = choice.size if not self.opening else 1 + epoch * (choice.size - 1) // self.opening
        return values_of(choice)[-min(count, choice.size) :]

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        archs = balanced(self.space, self.subnets, rng, lambda choice: self.open(choice, epoch))
        return [Draw(arch) for arch in archs]


def alike(archs: Iterable[Architecture]) -> list[Draw]:
    """Draws of random role whose losses are averaged."""
    drawn = list(archs)
    return [Draw(arch, weight=1 / len(drawn)) for arch in drawn]


def values_of(choice: Choice) -> list[Value]:
    """Every value of a choice, in order."""
    return [choice.value(index) for index in range(choice.size)]


def balanced(
    space: SearchSpace, count: int, rng: np.random.Generator, opened: Open | None = None
) -> list[Architecture]:
    """`count` architectures in which the values of each choice (or the items of a subset) are spread evenly, at random.

    In a space with a canonical form the values are even before the architectures are brought to it.

    Raises:
        ValueError: 1,000 attempts broke a constraint.
    """
    for _ in range(TRIES):
        spread = {choice.name: _spread(choice, count, rng, opened) for choice in space.choices}
        try:
            return [_taking(space, {name: values[at] for name, values in spread.items()}) for at in range(count)]
        except ValueError as error:
            reason = error
    raise ValueError(f"no balanced draw of {space.name!r} kept its constraints ({reason}); use sampler uniform")


def restricted(space: SearchSpace, rng: np.random.Generator, opened: Open) -> Architecture:
    """One architecture, each choice uniform among its open values.

    Raises:
        ValueError: 1,000 attempts broke a constraint.
    """
    return balanced(space, 1, rng, opened)[0]


def _taking(space: SearchSpace, wanted: Mapping[str, Value]) -> Architecture:
    return composed(space, lambda choice: wanted[choice.name])


def _round(choice: Choice) -> int:
    """Subnets until every value, or item, had its turn."""
    return -(-len(choice.items) // max(choice.taken, 1)) if isinstance(choice, Subset) else choice.size


def _spread(choice: Choice, count: int, rng: np.random.Generator, opened: Open | None) -> list[Value]:
    if isinstance(choice, Subset):
        order = rng.permutation(len(choice.items))
        cut = [order.take(range(at * choice.taken, (at + 1) * choice.taken), mode="wrap") for at in range(count)]
        return [choice.normal([choice.items[item] for item in part]) for part in cut]
    values = values_of(choice) if opened is None else opened(choice)
    order = np.concatenate([rng.permutation(len(values)) for _ in range(-(-count // len(values)))])[:count]
    return [values[index] for index in order]
