"""Exact costs of the architectures of a search space, from blocks that are counted once and remembered.

A block's cost depends on its local choice and on the shape of its input, and on nothing else. So the cost of an architecture is a
walk along the chain of blocks, and the costs of a million encoded architectures are a few gathers and a sum. The conventions are
those of `estimators.counting.count`: macs, params, activations and weight bytes of the stand-alone network, for one sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from torch import nn

from estimators.counting.count import Cost, count
from search_spaces import Architecture, Block, SearchSpace
from search_spaces.core import FlowShape, Local, Shape, Value, blueprint, output_shape, seen

METRICS = ("macs", "params", "activations", "weight_bytes")
CHUNK = 2**13
REMEMBERED = 2**16
LARGEST_TABLE = 2**20
LARGEST_BLOCK = 2**48

Step = tuple[int, int, int, int, int, int]
LocalOf = dict[tuple[Callable[..., Local], tuple[int, ...]], dict[Any, Local]]


class CostModel:
    """Costs of the stand-alone network of each architecture, exact to the last multiply.

    Args:
        space: a search space with a network.

    Raises:
        ValueError: the space has no network.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        runs = [list(run) for _, run in groupby(space.net.blocks, key=lambda block: (block.read, block.columns))]
        shapes: list[list[FlowShape]] = [[space.net.input_shape], *([] for _ in runs)]
        local_of: LocalOf = {}
        self._tables = [
            _Table(space, run, before, after, local_of)
            for run, before, after in zip(runs, shapes, shapes[1:], strict=False)
        ]
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._walk)

    def cost(self, arch: Architecture) -> Cost:
        """Cost of one architecture.

        Raises:
            ValueError: it is of another space.
        """
        return self._remembered(arch)

    def blocks(self, arch: Architecture) -> list[Cost]:
        """Cost of each block of one architecture, in order."""
        costs: list[Cost] = []
        shape: FlowShape = self.space.net.input_shape
        for block, local in zip(self.space.net.blocks, self._locals(arch), strict=True):
            costs.append(block_cost(block, local, shape))
            shape = output_shape(block, local, shape)
        return costs

    def batch(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Costs of many architectures.

        Args:
            codes: integers of shape (n, columns), as `SearchSpace.encode` gives them. Conditions and constraints are not checked.

        Returns:
            int64 arrays of shape (n,) by metric: macs, params, activations and weight_bytes.

        Raises:
            ValueError: another shape or kind of array, or a code that its column does not have.
        """
        codes, columns = np.asarray(codes), self.space.columns
        if codes.ndim != 2 or codes.shape[1] != len(columns) or codes.dtype.kind not in "iu":
            raise ValueError(
                f"`codes` must be integers of shape (n, {len(columns)}), got {codes.dtype} of shape {codes.shape}; "
                f"use `encode` of {self.space.name!r}"
            )
        totals = np.empty((len(METRICS), len(codes)), dtype=np.int64)
        for start in range(0, len(codes), CHUNK):
            chunk = np.ascontiguousarray(codes[start : start + CHUNK].T, dtype=np.int64)
            self._check(chunk)
            totals[:, start : start + CHUNK] = self._sum(chunk).T
        return dict(zip(METRICS, totals, strict=True))

    def _walk(self, arch: Architecture) -> Cost:
        state = macs = params = activations = weight_bytes = 0
        self._check_space(arch)
        codes = self.space.codes(arch)
        for table in self._tables:
            key = state, table.own(codes)
            step = table.known.get(key) or table.learn(key, codes)
            _, state, more_macs, more_params, more_activations, more_bytes = step
            macs += more_macs
            params += more_params
            activations += more_activations
            weight_bytes += more_bytes
        return Cost(macs, params, activations, weight_bytes)

    def _locals(self, arch: Architecture) -> tuple[Local, ...]:
        self._check_space(arch)
        return self.space.locals(arch)

    def _check_space(self, arch: Architecture) -> None:
        if arch.space != self.space.name:
            raise ValueError(
                f"an architecture must be of the cost model's space {self.space.name!r}, got one of {arch.space!r}"
            )

    def _sum(self, columns: np.ndarray) -> np.ndarray:
        """(columns, n) -> (n, metrics)."""
        state = np.zeros(columns.shape[1], dtype=np.int64)
        total = np.zeros((columns.shape[1], len(METRICS)), dtype=np.int64)
        for table in self._tables:
            rows = table.rows(columns, state)
            total += table.costs.take(rows, axis=0)
            state = table.states.take(rows)
        return total

    def _check(self, chunk: np.ndarray) -> None:
        lowest, highest = chunk.min(axis=1), chunk.max(axis=1)
        for column, low, high in zip(self.space.columns, lowest.tolist(), highest.tolist(), strict=True):
            if low < -1 or high >= len(column.values):
                raise ValueError(
                    f"codes of column {column.name!r} must be -1 (absent) to {len(column.values) - 1}, "
                    f"got {low if low < -1 else high}; use `encode` of {self.space.name!r}"
                )


class _Table:
    """The costs and output shapes of a run of blocks by (input shape, local choice), filled in as they are first met.

    A state is a position in `shapes_in`, the input shapes met so far. A step is (row, state that follows, the four costs); row r of
    `states` and `costs` holds the same. A key is a state and the codes of the columns that the blocks read in one number.

    Args:
        space: tells what the columns' codes mean.
        blocks: blocks in a row that read the same columns alike, so they have one local choice.
        shapes_in, shapes_out: shapes that enter the first block and leave the last one; the latter enter the next run.
        local_of: the local choices met so far by their codes, for each way to read columns; runs that read alike share them.
    """

    def __init__(
        self,
        space: SearchSpace,
        blocks: Sequence[Block],
        shapes_in: list[FlowShape],
        shapes_out: list[FlowShape],
        local_of: LocalOf,
    ) -> None:
        names = [column.name for column in space.columns]
        self.blocks, self.shapes_in, self.shapes_out = blocks, shapes_in, shapes_out
        self.read = blocks[0].read
        self.columns = [names.index(name) for name in blocks[0].columns]
        self.values: list[tuple[Value, ...]] = [(None, *space.columns[at].values) for at in self.columns]
        self.width = math.prod(map(len, self.values))
        if self.width > LARGEST_BLOCK:
            raise ValueError(
                f"the columns that a block reads must have at most 2**48 combinations, got {self.width} for block {blocks[0].name!r} "
                f"with {len(self.columns)} columns; split the block"
            )
        self.own: Callable[[Sequence[int]], Any] = itemgetter(*self.columns) if self.columns else _nothing
        self.known: dict[tuple[int, Any], Step] = {}
        self.local_of = local_of.setdefault((self.read, tuple(self.columns)), {})
        self.steps: dict[tuple[int, Local], Step] = {}
        self.row_of = np.empty(0, dtype=np.int64)
        self.states = np.empty(0, dtype=np.int64)
        self.costs = np.empty((0, len(METRICS)), dtype=np.int64)

    def step(self, state: int, local: Local) -> Step:
        """Count the blocks for one (input shape, local choice), unless they have been."""
        if (state, local) not in self.steps:
            shape, costs = self.shapes_in[state], []
            for block in self.blocks:
                costs.append(astuple(block_cost(block, local, shape)))
                shape = output_shape(block, local, shape)
            if shape not in self.shapes_out:
                self.shapes_out.append(shape)
            macs, params, activations, weight_bytes = map(sum, zip(*costs, strict=True))
            self.steps[state, local] = (
                len(self.steps),
                self.shapes_out.index(shape),
                macs,
                params,
                activations,
                weight_bytes,
            )
        return self.steps[state, local]

    def learn(self, key: tuple[int, Any], codes: Sequence[int]) -> Step:
        """The step of an architecture's codes, to be `known` from now on by (input shape, those codes that the blocks read)."""
        state, own = key
        if own not in self.local_of:
            chosen = (values[codes[at] + 1] for at, values in zip(self.columns, self.values, strict=True))
            self.local_of[own] = self.read(*chosen)
        self.known[key] = self.step(state, self.local_of[own])
        return self.known[key]

    def rows(self, columns: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The row of each architecture, (columns, n) and (n,) -> (n,); what is missing is filled in first."""
        keys = state
        for column, values in zip(self.columns, self.values, strict=True):
            keys = keys * len(values) + (columns[column] + 1)
        if self.width > LARGEST_TABLE:
            distinct, where = np.unique(keys, return_inverse=True)
            rows = np.array([self._row(key) for key in distinct.tolist()])[where]
        else:
            self._widen()
            rows = self.row_of.take(keys)
            if rows.min() < 0:
                for key in np.unique(keys[rows < 0]).tolist():
                    self.row_of[key] = self._row(key)
                rows = self.row_of.take(keys)
        if len(self.states) < len(self.steps):
            found = np.array(list(self.steps.values()), dtype=np.int64)
            self.states, self.costs = found[:, 1].copy(), found[:, 2:].copy()
        return rows

    def _row(self, key: int) -> int:
        chosen = []
        for values in reversed(self.values):
            key, code = divmod(key, len(values))
            chosen.append(values[code])
        return self.step(key, self.read(*reversed(chosen)))[0]

    def _widen(self) -> None:
        new = len(self.shapes_in) * self.width - len(self.row_of)
        if new > 0:
            self.row_of = np.concatenate([self.row_of, np.full(new, -1)])


def block_cost(block: Block, local: Local, shape: FlowShape) -> Cost:
    """The cost of a stand-alone block where `shape` (without the batch) comes in, counted on the meta device and remembered.

    Blocks that are made by the same function are counted once, and so are local choices that are alike.
    """
    own = seen(local, shape)
    return Cost() if own is None else _counted(block.alone, block.stand_in(own[0]), own[1])


@lru_cache(maxsize=REMEMBERED)
def _counted(alone: Callable[[Local, Shape], nn.Module], local: Local, shape: Shape) -> Cost:
    return count(blueprint(alone, local, shape), shape).total


def _nothing(codes: Sequence[int]) -> tuple[()]:
    return ()
