"""How a convolution is grouped, and which widths its groups divide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grouping:
    """Groups of a constant `size` in input channels, however wide the layer is, or else a constant `number` of them.

    Reference: Jha et al., "E2GC: Energy-efficient Group Convolution in Deep Neural Networks", VLSI Design 2020, arXiv:2006.15100, for
    constant sizes: every output reads `size` inputs, so macs grow linearly with the width.
    """

    number: int = 1
    size: int | None = None

    def groups(self, c_in: int, c_out: int) -> int:
        """The number of groups of a convolution from `c_in` to `c_out` channels.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        if self.size is None:
            for side, width in (("input", c_in), ("output", c_out)):
                if width % self.number:
                    raise ValueError(
                        f"{self.number} groups must divide the {side} width, got {width}; {_working(self.number, width)}"
                    )
            return self.number
        if c_in % self.size:
            raise ValueError(
                f"groups of {self.size} channels must divide the input width, got {c_in}; {_working(self.size, c_in)}"
            )
        groups = c_in // self.size
        if c_out % groups:
            raise ValueError(
                f"groups of {self.size} channels make {groups} groups of {c_in} inputs, which must divide the output width, "
                f"got {c_out}; {_working(groups, c_out)}"
            )
        return groups


DENSE = Grouping()


def check_groupings(
    where: str, widths: Iterable[tuple[int, int]], groupings: Sequence[Grouping], hint: str = ""
) -> None:
    """Raise ValueError unless every grouping divides all `widths` (pairs of input and output), and no two are the same.

    Args:
        where: names the convolution in the message.
        widths: the pairs of input and output widths that the convolution can have.
        groupings: what it can choose from.
        hint: ends the message.
    """
    for c_in, c_out in widths:
        numbers: dict[int, Grouping] = {}
        for grouping in groupings:
            try:
                number = grouping.groups(c_in, c_out)
            except ValueError as error:
                raise ValueError(f"{where}: {error}{hint}") from None
            if number in numbers:
                raise ValueError(
                    f"{where}: no two groupings may mean the same, but {_shown(numbers[number])} and {_shown(grouping)} of "
                    f"{c_in} inputs are both {number} groups; leave one out, or use other widths"
                )
            numbers[number] = grouping


def _shown(grouping: Grouping) -> str:
    return f"{grouping.number} groups" if grouping.size is None else f"groups of {grouping.size} channels"


def _working(step: int, width: int) -> str:
    """The multiples of `step` around `width`."""
    first = max(step, (width // step - 3) * step)
    return f"widths that work: {', '.join(str(first + at * step) for at in range(6))}"
