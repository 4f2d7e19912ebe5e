"""The choices of a trained model's space: a level for each group, and whether a block stays, or runs twice."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from pruners.groups import Group
from pruners.space.levels import Levels
from pruners.surgery import Block, around, inside
from search_spaces import Categorical, Integer
from search_spaces.core import Choice, Labels, Value

KEEP, LEAVE_OUT, REPEAT = "keep", "leave out", "repeat"
DIGITS = "123456789abcdefghijklmnopqrstuvwxyz"
ABSENT = "-"


def choices_of(
    groups: Sequence[Group],
    blocks: Sequence[Block],
    levels: Levels,
    twice: Collection[str] = (),
    part_of: Block | None = None,
) -> Iterator[Choice]:
    """Choices right behind the block that they depend on, so that few conditions are open at once.

    Args:
        groups: how many of their indices stay.
        blocks: which stay.
        levels: of the groups.
        twice: names of blocks that may run twice.
        part_of: the block of which they are a part.
    """
    when: dict[str, tuple[Value, ...]] = {} if part_of is None else {part_of.name: _there(part_of, twice)}
    for group in groups:
        if inside(group, blocks) is part_of:
            yield Integer(group.name, tuple(levels.kept(group)), when)
    for block in blocks:
        if around(block, blocks) is part_of:
            yield Categorical(block.name, (LEAVE_OUT, *_there(block, twice)), when, "depth")
            yield from choices_of(groups, blocks, levels, twice, block)


def _there(block: Block, twice: Collection[str]) -> tuple[Value, ...]:
    """The values of a block's choice with which it is there."""
    return (KEEP, REPEAT) if block.name in twice else (KEEP,)


def labels_of(choices: Sequence[Choice]) -> Labels:
    def write(values: Mapping[str, Value]) -> str:
        return "".join(DIGITS[c.codes(values[c.name])[0]] if c.name in values else ABSENT for c in choices)

    def read(label: str) -> Mapping[str, Value]:
        fits = len(label) == len(choices) and all(
            digit == ABSENT or digit in DIGITS[: choice.size] for digit, choice in zip(label, choices, strict=True)
        )
        if not fits:
            raise ValueError(
                f"a label must have {len(choices)} digits, one for each choice and within it, got {label!r}"
            )
        pairs = zip(label, choices, strict=True)
        return {choice.name: choice.value(DIGITS.index(digit)) for digit, choice in pairs if digit != ABSENT}

    return Labels(write, read)
