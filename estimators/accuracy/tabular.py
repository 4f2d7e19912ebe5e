"""A published benchmark table as an estimator: the accuracy of every architecture, and the training time it stands for.

A search over a table is a search whose trainings were done before. `Table.query` gives figures and lets the simulated clock run as if
each new architecture had been trained one after the other; what was asked before is free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces import Architecture, Constraint, SearchSpace
from search_spaces.core import COUNTABLE, unknown_name

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One figure of a table.

    Args:
        column: of the file.
        unit: what it is read in.
        higher_is_better: its direction.
        seconds: that finding it out takes for one architecture: a number, or a column of the file.
        training: what it comes out of; figures of one training take its time once. By default a training of its own.
    """

    column: str
    unit: str
    higher_is_better: bool
    seconds: float | str = 0.0
    training: str | None = None


class Table:
    """Measured figures of the architectures of a space.

    Rows that are the same architecture in canonical form are averaged.

    Args:
        space: what the table is about.
        rows: one per description.
        key: the column that holds what `space.parse` reads.
        metrics: figures by the names that they are asked for.
        allow_missing: take a table that lacks architectures. `missing` then counts them, and `space` proposes only those it has.

    Attributes:
        space: the space, restricted to the architectures of the table where some are missing.
        missing: how many architectures of the space have no row; None where the space is too large to count them.
        seconds: simulated seconds that the queries so far would have taken.

    Raises:
        ValueError: a column that the table lacks, a key that is no architecture, no rows, values that are no numbers, or missing
            architectures without `allow_missing`.
    """

    def __init__(
        self,
        space: SearchSpace,
        rows: pd.DataFrame,
        *,
        key: str,
        metrics: Mapping[str, Metric],
        allow_missing: bool = False,
    ) -> None:
        costs = [metric.seconds for metric in metrics.values() if isinstance(metric.seconds, str)]
        for column in (key, *(metric.column for metric in metrics.values()), *costs):
            if column not in rows.columns:
                raise unknown_name("column of the table", column, rows.columns)
        if rows.empty or not metrics:
            raise ValueError(f"a table needs rows and metrics, got {len(rows)} rows and {len(metrics)} metrics")
        self.metrics = dict(metrics)
        archs = [_parse(space, key, row, str(text)) for row, text in enumerate(rows[key])]
        codes, self._archs = pd.factorize(pd.Series(archs, dtype=object))
        self._row = {arch: row for row, arch in enumerate(self._archs)}
        self._values = {name: self._mean(rows, metric.column, codes) for name, metric in metrics.items()}
        self._seconds = {
            name: self._mean(rows, metric.seconds, codes)
            if isinstance(metric.seconds, str)
            else np.full(len(self._row), float(metric.seconds))
            for name, metric in metrics.items()
        }
        self.missing = space.size - len(self._row) if space.raw_size <= COUNTABLE else None
        if self.missing and not allow_missing:
            first = next(arch for arch in space.enumerate() if arch not in self._row)
            raise ValueError(
                f"a table of {space.name!r} must have a row for each of its {space.size} architectures; {self.missing} are missing, "
                f"the first is {space.label(first)}; complete the table, or pass allow_missing=True to search what it has"
            )
        rule = Constraint("the table has a row for it", lambda values: space.architecture(values) in self._row)
        self.space = space if self.missing == 0 else replace(space, constraints=(*space.constraints, rule))
        self.seconds = 0.0
        self._asked: set[tuple[str, Architecture]] = set()

    def __len__(self) -> int:
        """How many architectures have figures."""
        return len(self._row)

    def __contains__(self, arch: Architecture) -> bool:
        return arch in self._row

    @property
    def archs(self) -> list[Architecture]:
        """The architectures, in the order of the table."""
        return list(self._archs)

    def query(self, archs: Sequence[Architecture], metrics: Sequence[str] | None = None) -> dict[str, Floats]:
        """Figures of some architectures, in their own units and directions; the clock runs for what is new.

        Args:
            archs: n architectures.
            metrics: which figures; all of them by default.

        Returns:
            Arrays of shape (n,) by metric.

        Raises:
            ValueError: an unknown metric, or an architecture that the table lacks; the clock stands still then.
        """
        names = list(self.metrics) if metrics is None else list(metrics)
        for name in names:
            if name not in self.metrics:
                raise unknown_name("metric of the table", name, self.metrics)
        for arch in archs:
            if arch not in self._row:
                raise ValueError(
                    f"the table has no row for {arch}; propose from the table's own `space`, which keeps to what it has"
                )
        where = [self._row[arch] for arch in archs]
        for name in names:
            for arch, row in zip(archs, where, strict=True):
                training = (self.metrics[name].training or name, arch)
                if training not in self._asked:
                    self._asked.add(training)
                    self.seconds += float(self._seconds[name][row])
        return {name: self._values[name][where] for name in names}

    def losses(self, archs: Sequence[Architecture], metrics: Sequence[str] | None = None) -> Floats:
        """`query` as losses of shape (n, k), of which less is better: what a search strategy is told."""
        found = self.query(archs, metrics)
        return np.column_stack([-v if self.metrics[name].higher_is_better else v for name, v in found.items()])

    def best(self, metric: str) -> Architecture:
        """The best architecture by one metric, which the clock does not count."""
        if metric not in self.metrics:
            raise unknown_name("metric of the table", metric, self.metrics)
        values = self._values[metric]
        return self._archs[int(values.argmax() if self.metrics[metric].higher_is_better else values.argmin())]

    @staticmethod
    def _mean(rows: pd.DataFrame, column: str, codes: NDArray[np.intp]) -> Floats:
        """Mean of a column over the rows of each architecture."""
        numbers = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(numbers).all():
            at = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise ValueError(
                f"column {column!r} must hold finite numbers, got {str(rows[column].iloc[at])!r} in row {at}; leave that row out"
            )
        return np.bincount(codes, numbers) / np.bincount(codes)


def _parse(space: SearchSpace, key: str, row: int, text: str) -> Architecture:
    try:
        return space.parse(text)
    except ValueError as error:
        raise ValueError(
            f"column {key!r} must name architectures of {space.name!r}, got {text!r} in row {row}: {error}"
        ) from error


def read_table(
    path: Path | str, space: SearchSpace, *, key: str, metrics: Mapping[str, Metric], allow_missing: bool = False
) -> Table:
    """A table from a CSV file with a header; arguments and errors are those of `Table`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return Table(space, pd.read_csv(path, dtype={key: str}), key=key, metrics=metrics, allow_missing=allow_missing)


@dataclass(frozen=True)
class Published:
    """A published file: its name, the column of architectures, figures, and for how many epochs each was trained."""

    file: str
    key: str
    metrics: Mapping[str, Metric]
    epochs: Mapping[str, int]


def _measured(*devices: str) -> dict[str, Metric]:
    return {f"{device}_ms": Metric(device, "ms", False) for device in devices}


_ALONE = {
    "accuracy": Metric("acc_mean", "%", True),
    "accuracy_std": Metric("acc_std", "%", False, training="accuracy"),
    "params": Metric("params", "", False),
    "macs": Metric("macs", "", False),
}

PUBLISHED: dict[str, Published] = {
    "nas-bench-201": Published(
        "nas_bench_201_cifar10.csv",
        "cellstr",
        {
            "accuracy": Metric("cifar10-val-200", "%", True),
            "accuracy_12": Metric("cifar10-val-12", "%", True),
            "test_accuracy_12": Metric("cifar10-test-12", "%", True, training="accuracy_12"),
        },
        {"accuracy": 200, "accuracy_12": 12, "test_accuracy_12": 12},
    ),
    "nas-bench-201-latency": Published(
        "nas_bench_201_latency_ms.csv",
        "cellstr",
        _measured("1080ti_1", "1080ti_256", "silver_4114", "pixel2", "eyeriss"),
        {},
    ),
    "nas-bench-macro": Published("nas_bench_macro_cifar10.csv", "arch", _ALONE, {"accuracy": 50, "accuracy_std": 50}),
    "channel-bench-macro-resnet": Published(
        "channel_bench_macro_resnet.csv", "arch", _ALONE, {"accuracy": 1, "accuracy_std": 1}
    ),
}
"""The tables that `published_table` knows."""


def published_table(name: str, folder: Path | str, space: SearchSpace, *, epoch_seconds: float = 1.0) -> Table:
    """A published table from its CSV file.

    Args:
        name: one of `PUBLISHED`.
        folder: holds the file.
        space: whose labels the table's architectures are.
        epoch_seconds: simulated seconds of one epoch of training, which the files do not tell; by default the clock counts epochs. A
            training whose epochs are not published counts as one. Latencies and costs take no time.

    Raises:
        ValueError: no such table, a negative time, or a space that does not match the table.
        FileNotFoundError: the file is not in the folder.
    """
    if name not in PUBLISHED:
        raise unknown_name("published table", name, PUBLISHED)
    if epoch_seconds < 0:
        raise ValueError(f"`epoch_seconds` must be 0 or more, got {epoch_seconds}")
    known = PUBLISHED[name]
    metrics = {
        metric: replace(found, seconds=epoch_seconds * known.epochs.get(metric, 0))
        for metric, found in known.metrics.items()
    }
    return read_table(Path(folder) / known.file, space, key=known.key, metrics=metrics)
