"""Which positions of a layer are solved on and judged by, some lanes at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.operators import tensors_in
from pruners.repair.lanes import APART, LEAST, Lane
from pruners.repair.readers import Reader
from pruners.repair.systems import WIDEST
from pruners.repair.task import Part, Parts
from pruners.tracing import Batch

FEWEST, MOST = 40_000, 100_000  # positions per layer that a solution is based on
PER_COLUMN = 30
JUDGED = 8_000  # positions per layer that it is judged by
THIN = 4  # where so many positions for one that is used, whole samples are left out first: unfolding takes long
UNFOLDED = 2**28  # values of columns that do not take long
KEPT = 2**28  # bytes of columns that are kept for several passes; more are computed in each


@dataclass(frozen=True)
class Layer:
    """A layer with what it reads and what it aims at, lane by lane.

    Attributes:
        reader: the layer.
        weight: its weights.
        inputs: what it reads.
        aims: what its outputs should be, each of the outputs' shape.
        others: what is added to the outputs before, or None.
        lanes: which lanes are held out.
        dtype: what is computed in.
        by_size: whether a position counts relative to the size of its aim.
    """

    reader: Reader
    weight: Tensor
    inputs: Sequence[Tensor]
    aims: Sequence[Tensor]
    others: Sequence[Tensor] | None
    lanes: Sequence[Lane]
    dtype: torch.dtype
    by_size: bool

    @property
    def fit_positions(self) -> int:
        """How many positions there are to solve on."""
        return sum(
            int(self._positions(aim) * _share(lane, False)) for lane, aim in zip(self.lanes, self.aims, strict=True)
        )

    def _positions(self, aim: Tensor) -> int:
        return aim.numel() // max(aim.shape[self.reader.form.channel(aim.shape)], 1)

    def parts(self, held: bool, enough: int) -> Iterator[Part]:
        """Columns and rows of about `enough` positions in all: always the same ones."""
        shares = [_share(lane, held) for lane in self.lanes]
        total = sum(self._positions(aim) * share for aim, share in zip(self.aims, shares, strict=True))
        columns = self.reader.matrix(self.weight).shape[-1]
        thin = max(1, int(total) // max(THIN * enough, UNFOLDED // columns))
        for place, (lane, share) in enumerate(zip(self.lanes, shares, strict=True)):
            if not share or not self.aims[place].numel():
                continue
            others = [] if self.others is None else [self.others[place]]
            values = [lane.once(value) for value in (self.inputs[place], self.aims[place], *others)]
            real = None if lane.real is None else lane.once(lane.real)
            if len({len(value) for value in values}) == 1 and len(values[0]) >= thin:
                values = [value[::thin] for value in values]
                real = None if real is None else real[::thin]
            x, *rows = (value.to(self.dtype) for value in values)
            matrices = [self.reader.columns(x, self.weight), *(self.reader.rows(row, self.weight) for row in rows)]
            if real is not None and real.numel() != matrices[0].shape[-1]:
                real = None  # these are other positions than those of texts
            x, aim, *other = _some(matrices, lane, held, min(1.0, enough * thin / max(total, 1)), place, real)
            yield Part(x, aim, other[0] if other else None, self._counts(aim))

    def _counts(self, aim: Tensor) -> Tensor | None:
        """How much each position counts: one over its mean square, as a norm divides by that."""
        if not self.by_size:
            return None
        squares = aim.square().mean((0, 1))
        return 1 / (squares + 1e-6 * squares.mean()).clamp(min=1e-30)


def parts_of(layer: Layer, max_bytes: int | None) -> tuple[Parts, Parts, bool]:
    """The positions to solve on and to judge by, and whether the solution is over positions, not columns."""
    groups, outputs, columns = layer.reader.matrix(layer.weight).shape
    enough = min(max(PER_COLUMN * columns, FEWEST), MOST)
    dual = groups == 1 and (layer.fit_positions < columns or columns > WIDEST)
    if dual:
        room = WIDEST if max_bytes is None else max_bytes // (16 * columns)
        enough = max(1, min(enough, WIDEST, room))
    if max_bytes is not None:
        enough = max(1, min(enough, max_bytes // (8 * groups * (columns + 2 * outputs))))
    every = groups * (columns + 2 * outputs) * 4
    return (
        _passes(layer, False, enough, every * min(enough, layer.fit_positions) <= KEPT),
        _passes(layer, True, min(enough, JUDGED), every * min(enough, JUDGED) <= KEPT),
        dual,
    )


def _passes(layer: Layer, held: bool, enough: int, kept: bool) -> Parts:
    found: list[Part] = []

    def parts() -> Iterable[Part]:
        if not kept:
            return layer.parts(held, enough)
        if not found:
            found.extend(layer.parts(held, enough))
        return found

    return parts


def _share(lane: Lane, held: bool) -> float:
    """Which part of the positions of a lane is held out, or is not."""
    whole = 1 / LEAST if lane.twice else 1.0
    if lane.held is None:
        return whole / APART if held else whole * (1 - 1 / APART)
    return whole * (lane.held == held)


def _some(
    matrices: Sequence[Tensor], lane: Lane, held: bool, ratio: float, seed: int, real: Tensor | None
) -> list[Tensor]:
    """The same positions of all matrices (G, ?, P): those held out or not where lanes are not, and a ratio of these; real ones."""
    count = matrices[0].shape[-1]
    places = torch.arange(count)
    if lane.held is None:
        cut = count - count // APART  # the last ones, as neighbours are alike
        places = places[cut:] if held else places[:cut]
    if real is not None:
        kept = real.flatten().cpu()[places]
        places, ratio = places[kept], min(1.0, ratio / max(float(kept.float().mean()), 1e-9))
    if ratio < 1 and len(places):
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        places = places[order[: max(1, round(ratio * len(places)))].sort().values]
    if len(places) == count:
        return list(matrices)
    places = places.to(matrices[0].device)
    return [matrix.index_select(-1, places) for matrix in matrices]


def few(batch: Batch) -> int:
    """Some samples of a batch to measure memory on."""
    return min(4, min((len(x) for x in tensors_in(batch.inputs) if x.dim()), default=1))
