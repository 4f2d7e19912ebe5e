"""The order of operators that needs the least memory at once."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

STATES = 20_000
BEAM = 64


@dataclass(frozen=True)
class Operation:
    """One operator of a graph in which every buffer is written once.

    Attributes:
        name: of the operator.
        reads: buffers that it reads.
        writes: buffers that it makes.
        overwrites: whether it may write its output over an input buffer of at least that size, if it is the last to
            read it.
    """

    name: str
    reads: frozenset[int]
    writes: tuple[int, ...]
    overwrites: bool = False


@dataclass(frozen=True)
class Schedule:
    """An order of operators.

    Attributes:
        order: positions in the list of operations.
        peak: the largest sum of the sizes of all buffers that are alive at once.
        at: position of the operator where that is.
        exact: whether no order has a lower peak.
    """

    order: tuple[int, ...]
    peak: int
    at: int
    exact: bool


class Liveness:
    """Which buffers are alive after a set of operations has run; sets are bits of an integer.

    Args:
        operations: in an order in which they can run.
        sizes: of each buffer; those that no operation writes are there from the start.
        kept: buffers that stay to the end.
    """

    def __init__(self, operations: Sequence[Operation], sizes: Sequence[int], kept: frozenset[int]) -> None:
        self.operations, self.sizes, self.kept = operations, sizes, kept
        writer = {buffer: at for at, operation in enumerate(operations) for buffer in operation.writes}
        self.readers = [0] * len(sizes)
        self.needs = [0] * len(operations)
        for at, operation in enumerate(operations):
            for buffer in operation.reads:
                self.readers[buffer] |= 1 << at
                if buffer in writer:
                    self.needs[at] |= 1 << writer[buffer]
        self.start = sum(size for buffer, size in enumerate(sizes) if buffer not in writer)
        self.everything = (1 << len(operations)) - 1

    def ready(self, done: int) -> list[int]:
        return [at for at, needs in enumerate(self.needs) if not done >> at & 1 and needs & done == needs]

    def run(self, at: int, done: int, alive: int) -> tuple[int, int]:
        """Sizes alive while operation `at` runs after `done`, and after it."""
        operation, after = self.operations[at], done | 1 << at
        made = sum(self.sizes[buffer] for buffer in operation.writes)
        freed = [
            self.sizes[buffer]
            for buffer in operation.reads
            if buffer not in self.kept and self.readers[buffer] & after == self.readers[buffer]
        ]
        unread = sum(
            self.sizes[buffer] for buffer in operation.writes if not self.readers[buffer] and buffer not in self.kept
        )
        reused = made if operation.overwrites and made <= max(freed, default=-1) else 0
        return alive + made - reused, alive + made - sum(freed) - unread


def best_order(operations: Sequence[Operation], sizes: Sequence[int], kept: frozenset[int] = frozenset()) -> Schedule:
    """The order with the lowest peak.

    A search over sets of operations that have run, the lowest peak first, which is exact. An operation that frees at
    least as much as it allocates, without a new peak, runs at once: waiting cannot help. After 20,000 sets a beam
    search takes over (64 sets of each size with the lowest peak, then the least alive), and the better of its order and
    the given one is returned.

    Args:
        operations: in an order in which they can run.
        sizes: of each buffer, which are numbered from 0.
        kept: buffers that stay to the end.
    """
    graph = Liveness(operations, sizes, kept)
    found = _search(graph)
    if found is not None:
        return _played(graph, found, exact=True)
    return min(
        (_played(graph, order, exact=False) for order in (_beam(graph), tuple(range(len(operations))))),
        key=lambda schedule: schedule.peak,
    )


def given_order(operations: Sequence[Operation], sizes: Sequence[int], kept: frozenset[int] = frozenset()) -> Schedule:
    """The peak of the operations in the order in which they are given."""
    return _played(Liveness(operations, sizes, kept), tuple(range(len(operations))), exact=False)


def _played(graph: Liveness, order: tuple[int, ...], exact: bool) -> Schedule:
    done, alive, peak, where = 0, graph.start, graph.start, order[0] if order else 0
    for at in order:
        during, alive = graph.run(at, done, alive)
        done |= 1 << at
        if during > peak:
            peak, where = during, at
    return Schedule(order, peak, where, exact)


def _search(graph: Liveness) -> tuple[int, ...] | None:
    """Best first by peak; None where it takes too many states."""
    queue, ties = [(graph.start, 0, 0, graph.start)], 0
    came: dict[int, tuple[int, int]] = {}
    best, closed = {0: graph.start}, set()
    while queue:
        peak, _, done, alive = heapq.heappop(queue)
        if done in closed:
            continue
        closed.add(done)
        if done == graph.everything:
            return _path(came, done)
        if len(closed) > STATES:
            return None
        steps = [(at, *graph.run(at, done, alive)) for at in graph.ready(done)]
        free = [step for step in steps if step[1] <= peak and step[2] <= alive]
        for at, during, after in free[:1] or steps:
            reached, worst = done | 1 << at, max(peak, during)
            if worst < best.get(reached, worst + 1):
                best[reached], came[reached] = worst, (done, at)
                ties -= 1  # the last that was found first: straight to the end
                heapq.heappush(queue, (worst, ties, reached, after))
    raise AssertionError("a graph without cycles has an order")


def _path(came: dict[int, tuple[int, int]], done: int) -> tuple[int, ...]:
    order = []
    while done:
        done, at = came[done]
        order.append(at)
    return tuple(reversed(order))


def _beam(graph: Liveness) -> tuple[int, ...]:
    front: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (graph.start, graph.start, ())}
    for _ in graph.operations:
        reached: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        for done, (peak, alive, order) in front.items():
            for at in graph.ready(done):
                during, after = graph.run(at, done, alive)
                state = (max(peak, during), after, (*order, at))
                known = reached.get(done | 1 << at)
                if known is None or state < known:
                    reached[done | 1 << at] = state
        front = dict(sorted(reached.items(), key=lambda item: item[1])[:BEAM])
    return next(iter(front.values()))[2]
