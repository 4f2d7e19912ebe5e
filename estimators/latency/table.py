"""Latency of a space's networks from a table of its blocks, measured once on a device and saved.

A network's latency is predicted as the sum over its blocks, each measured alone. A line fitted to a few whole networks
corrects the sum: blocks in a row share caches, and pay for the start of the forward pass once.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict
from torch import nn

from estimators.latency.measure import Latency, compare_latency
from search_spaces import Architecture, Block, SearchSpace
from search_spaces.core import Local, Shape, load_json, of_file, parse, seeded

AGAIN = "measure it again"
CONDITIONS = ("batch_size", "threads", "device", "torch_version", "runtime")
FEWEST = 3
MOST_LISTED, SETTLED = 5_000, 1_000  # architectures, see `covering`


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Latencies of blocks on one device.

    Attributes:
        space, fingerprint: the space's name, and digits that change with its choices and options.
        blocks: by block, local choice and input shape, in one text.
        options: what the space was made with, where that is known.
        overhead_ms, scale: a network takes overhead_ms + scale x the sum of its blocks' medians; 0 and 1 until `fitted`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    space: str
    fingerprint: str
    blocks: Mapping[str, Latency]
    overhead_ms: float = 0.0
    scale: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> dict[str, Any]:
        """Batch size, threads, device, torch version and runtime of every measurement."""
        return _conditions(next(iter(self.blocks.values())))

    def predict(self, space: SearchSpace, arch: Architecture) -> float:
        """Milliseconds of one batch.

        Raises:
            ValueError: the table or the architecture is of another space, or a block has not been measured.
        """
        return self.overhead_ms + self.scale * self._sum(space, arch)

    def fitted(self, space: SearchSpace, measured: Mapping[Architecture, Latency]) -> LatencyTable:
        """The same table with overhead and scale fitted to whole networks by least squares of relative errors, neither below 0.

        Raises:
            ValueError: fewer than 3 networks, networks that all have the same sum, or networks measured under other conditions
                than the blocks; and what `predict` raises.
        """
        if len(measured) < FEWEST:
            raise ValueError(f"fitting needs at least {FEWEST} measured networks, got {len(measured)}; measure more")
        for arch, latency in measured.items():
            if _conditions(latency) != self.conditions:
                raise ValueError(
                    f"networks must be measured as the blocks were, with {self.conditions}, got {_conditions(latency)} "
                    f"for {space.label(arch)}"
                )
        sums = np.array([self._sum(space, arch) for arch in measured])
        times = np.array([latency.median_ms for latency in measured.values()])
        if np.ptp(sums) == 0:
            raise ValueError(
                f"the measured networks must differ, got {len(sums)} whose blocks sum to {sums[0]:g} ms; take other ones"
            )
        design = np.column_stack([np.ones(len(sums)), sums]) / times[:, None]
        from scipy.optimize import nnls  # takes a tenth of what torch takes to import

        (overhead, scale), _ = nnls(design, np.ones(len(sums)))
        if scale == 0:
            warnings.warn(
                "measured networks take no longer where their blocks do, so the table predicts one latency for all; measure both again "
                "on a quiet machine, with more runs",
                stacklevel=2,
            )
        return replace(self, overhead_ms=float(overhead), scale=float(scale))

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check(self, space: SearchSpace) -> None:
        """Raise ValueError if the table is of another space than `space`, or of one with other choices or options."""
        if (self.space, self.fingerprint) == (space.name, space.fingerprint):
            return
        ours, theirs = json.loads(json.dumps(dict(space.options), default=str)), dict(self.options)
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)] if theirs else []
        differs = ", ".join(f"{name} {theirs.get(name)} in place of {ours.get(name)}" for name in names)
        raise ValueError(
            f"the latency table must be of space {space.name!r} ({space.fingerprint}), got one of {self.space!r} "
            f"({self.fingerprint}){f' with {differs}' if differs else ''}; measure a table of this space"
        )

    def check_covers(self, space: SearchSpace) -> None:
        """Raise ValueError if the table is of another space, or lacks blocks of it; see `covering`."""
        self.check(space)
        for arch in covering(space):
            self._sum(space, arch)

    def _sum(self, space: SearchSpace, arch: Architecture) -> float:
        self.check(space)
        total = 0.0
        for block, local, shape in _links(space, arch):
            found = self.blocks.get(_key(block, local, shape))
            if found is None:
                raise ValueError(
                    f"block {block.name!r} with {local!r} on inputs of {shape} has not been measured; measure a table that covers "
                    f"{space.label(arch)}"
                )
            total += found.median_ms
        return total


def covering(space: SearchSpace) -> list[Architecture]:
    """Architectures that have every block between them that networks of the space are made of.

    Of a space of more than 5,000 descriptions some are drawn, until 1,000 in a row have no block that is new: one that hardly any
    architecture has may be missing.
    """
    listed = space.raw_size <= MOST_LISTED
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    chosen = []
    since = 0
    for arch in space.enumerate() if listed else iter(lambda: space.sample(rng), None):
        new = {_key(*link) for link in _links(space, arch)} - seen
        since = 0 if new else since + 1
        if new:
            seen |= new
            chosen.append(arch)
        elif not listed and since >= SETTLED:
            break
    return chosen


def measure_table(space: SearchSpace, archs: Iterable[Architecture] | None = None, **settings: Any) -> LatencyTable:
    """Measure every block that some architectures are made of; blocks with the same input take turns.

    Args:
        space: with a network.
        archs: what the table should cover; None for the whole space, see `covering`.
        settings: of `compare_latency`: batch_size, device, threads, warmup_s, runs, max_seconds (of each block) and runtime.

    Raises:
        ValueError: no architectures, and what `compare_latency` raises.
    """
    groups: dict[Shape, dict[str, tuple[Block, Local]]] = {}
    for arch in covering(space) if archs is None else archs:
        for block, local, shape in _links(space, arch):
            groups.setdefault(shape, {})[_key(block, local, shape)] = block, local
    if not groups:
        raise ValueError("`archs` must hold at least one architecture, got none")
    blocks: dict[str, Latency] = {}
    for shape, group in groups.items():
        with seeded(0):
            modules: dict[str, nn.Module] = {key: block.alone(local, shape) for key, (block, local) in group.items()}
        blocks |= compare_latency(modules, shape, **settings)
    return LatencyTable(space.name, space.fingerprint, blocks, options=space.options)


def load_table(path: str | Path, space: SearchSpace) -> LatencyTable:
    """Read a saved table of a space.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no latency table, or one of another space.
    """
    path = Path(path)
    otherwise = f"it must be a latency table that `save` wrote; {AGAIN}"
    try:
        data = load_json(path, otherwise)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no latency table at {path}; `measure_table` makes one, its `save` writes it"
        ) from None
    with of_file(path, otherwise):
        table = parse(LatencyTable, data)
        if not table.blocks:
            raise ValueError("must hold at least one measured block, got none")
        table.check(space)
    return table


def _links(space: SearchSpace, arch: Architecture) -> Iterator[tuple[Block, Local, Shape]]:
    space.check(arch)
    locals = space.locals(arch)
    return ((part.block, *part.seen) for part in space.net.parts(locals))


def _key(block: Block, local: Local, shape: Shape) -> str:
    return f"{block.name} {local!r} {'x'.join(map(str, shape))}"


def _conditions(latency: Latency) -> dict[str, Any]:
    return {name: getattr(latency, name) for name in CONDITIONS}
