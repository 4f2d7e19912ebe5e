"""Trials on their way: costs are known here, the rest comes from workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from nas.engines import Died, Job, Late, Workers, can_limit, limited
from nas.scoring.accuracy import Terms
from nas.scoring.costs import Figures, Scorer
from nas.scoring.halving import Halving
from nas.scoring.outcome import reason, score
from nas.scoring.race import Race
from pruners.progress import silent
from search_spaces import Architecture

Scored = list[tuple[Architecture, Figures]]
"""Architectures, each with its outcome: figures, or the reason why it has none; see `score`."""


class Trials:
    """Scores architectures by costs in this process, and by `score` of the workers' state.

    Args:
        costs: scorers of this process.
        workers: give the rest; None where costs are all.
        seconds: that a trial may take; None for any number.
        halving: says how far trials have to come to go on; None where all do.

    Attributes:
        running: architectures with their costs, by the number of the job that they are in.
    """

    def __init__(
        self,
        costs: Sequence[Scorer],
        workers: Workers | None,
        seconds: float | None = None,
        halving: Halving | None = None,
    ) -> None:
        self.costs, self.workers, self.seconds, self.halving = costs, workers, seconds, halving
        self.running: dict[int, Scored] = {}
        self._parts: dict[int, float] = {}
        self._races: dict[int, Race | None] = {}

    def start(self, archs: Sequence[Architecture], size: int = 1, race: Race | None = None) -> Scored:
        """Begin with architectures, `size` to a job: gives those that are over at once, as they fail by their costs or have no more.

        Args:
            archs: the architectures.
            size: of a job.
            race: what they must come near to be judged on all examples.
        """
        priced = self._priced(archs)
        if self.workers is None:
            return priced
        whole = [(arch, figures) for arch, figures in priced if "reason" not in figures]
        for at in range(0, len(whole), size):
            self._hand_in(whole[at : at + size], race)
        return [(arch, figures) for arch, figures in priced if "reason" in figures]

    def next(self, told: Callable[[float], None]) -> Scored:
        """Wait for a job; gives its architectures, but none where its end was sudden and they are tried again one by one.

        Args:
            told: how many trials the running ones come to, in parts.
        """
        assert self.workers is not None

        def inside(job: int, done: float) -> None:
            self._parts[job] = done * len(self.running[job])
            told(sum(self._parts.values()))

        result = self.workers.next(inside)
        priced, race = self.running.pop(result.job), self._races.pop(result.job)
        self._parts.pop(result.job, None)
        if isinstance(result.error, (Late, Died)) and len(priced) > 1:
            for each in priced:
                self._hand_in([each], race)
            return []
        if result.error is not None:
            found: Sequence[Figures] = [{"reason": reason(result.error), "seconds": result.seconds}] * len(priced)
        else:
            found = result.value
        origin = {} if self.workers.count == 1 else result.origin
        return [
            (arch, {**figures, **more, "seconds": round(figures["seconds"] + more["seconds"], 4), **origin})
            for (arch, figures), more in zip(priced, found, strict=True)
        ]

    def _hand_in(self, priced: Scored, race: Race | None) -> None:
        assert self.workers is not None
        seconds = None if self.seconds is None else self.seconds * len(priced)
        job = self.workers.submit(Job("score", ([arch for arch, _ in priced], self._terms(priced, race)), seconds))
        self.running[job], self._races[job] = priced, race

    def _terms(self, priced: Scored, race: Race | None) -> Terms | None:
        """What the architectures of a job have to come up to."""
        if race is not None:
            return race.of(priced)
        return None if self.halving is None else {arch.key: self.halving.bars(arch, found) for arch, found in priced}

    def _priced(self, archs: Sequence[Architecture]) -> Scored:
        """Costs, bounded in time where this process can."""
        seconds = self.seconds if can_limit() else None
        try:
            with nullcontext() if seconds is None else limited(seconds * len(archs)):
                return list(zip(archs, score(archs, self.costs, silent), strict=True))
        except Late as error:
            if len(archs) > 1:
                return [pair for arch in archs for pair in self._priced([arch])]
            return [(archs[0], {"reason": reason(error), "seconds": seconds})]
