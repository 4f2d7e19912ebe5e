"""What the studies of fronts share: rows that are added one by one, a search as a user makes it, and what leaves it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import nas
from benchmarks.resumable import note
from nas.pruning import nest
from nas.study import Study
from pruners import PrunableSpace, recalibrate_
from search_spaces import Architecture
from search_spaces.core import save_tensors

Figures = dict[str, Any]
FIRST = 10
"""Batches that scores and statistics of batch norms see of those that a nested training does."""


class Step(NamedTuple):
    """One row to come: the figures that say which it is, and what makes its model, with more figures."""

    key: Figures
    make: Callable[[], tuple[nn.Module, Figures]]


Method = Callable[[int, argparse.Namespace], Iterable[Step]]


class Table:
    """Rows of a JSON-lines file, which is added to row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Figures] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether a row has these figures."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, row: Figures) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


# --- a study ---


def study_options(
    description: str | None, methods: Iterable[str], trials: int, left: tuple[float, float]
) -> argparse.ArgumentParser:
    """The options that every study of a front has, with the usual trials and shares of the macs of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders of searches stay")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the examples and of the search")
    parser.add_argument("--methods", nargs="+", choices=list(methods), default=list(methods))
    parser.add_argument("--trials", type=int, default=trials, help="of each search")
    parser.add_argument("--members", type=int, default=6, help="of each front that are repaired and measured, at most")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--left", type=float, nargs=2, default=left, help="shares of the macs between which they are")
    return parser


def carry_out(
    name: str,
    options: argparse.Namespace,
    methods: Mapping[str, Method],
    measure: Callable[[nn.Module], Figures],
    packages: Sequence[str] = (),
) -> None:
    """Add the rows that are missing to `OUT/NAME.jsonl`, with the command in `OUT/NAME.json`.

    Args:
        name: of the study and of its script.
        options: of `study_options`.
        methods: by name, (seed, options) -> rows to come.
        measure: model -> figures of a row.
        packages: further ones whose version is written down.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / f"{name}.json", f"benchmarks.{name}", options, packages)
    table = Table(options.out / f"{name}.jsonl")
    for seed in options.seeds:
        for method in options.methods:
            for step in methods[method](seed, options):
                key = {"seed": seed, "method": method, **step.key}
                if table.has(key):
                    continue
                begun = time.monotonic()
                model, found = step.make()
                own = {"seconds": round(time.monotonic() - begun, 1), **found, **measure(model)}
                table.add({**key, **own})
                print(table.rows[-1], flush=True)


# --- a search ---


class Running:
    """While it is entered: seconds that models run, those inside others counted once, and not while they are traced."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def __enter__(self) -> Running:
        self.before = before = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self.depth or torch.compiler.is_compiling():
                return before(module, *args, **kwargs)
            self.depth, begun = 1, time.perf_counter()
            try:
                return before(module, *args, **kwargs)
            finally:
                self.depth = 0
                self.seconds += time.perf_counter() - begun

        nn.Module.__call__ = call  # type: ignore[method-assign]
        return self

    def __exit__(self, *raised: object) -> None:
        nn.Module.__call__ = self.before  # type: ignore[method-assign]


class Clock:
    """Told of a search's progress: when its trials begin and end, and how long models run between."""

    def __init__(self) -> None:
        self.running = Running()
        self.begun: float | None = None
        self.seconds = 0.0

    def __call__(self, step: str, done: float, total: float) -> None:
        if step != "ranking":
            return
        if self.begun is None:
            self.begun = time.perf_counter()
            self.running.__enter__()
        elif done == total:
            self.seconds = time.perf_counter() - self.begun
            self.running.__exit__()


def searched(
    space: str, task: Any, seed: int, options: argparse.Namespace, objectives: Sequence[str], **settings: Any
) -> Study:
    """A search of a trained model by NSGA-II, nothing trained, or what it has found where it is finished.

    A line of `OUT/searches.jsonl` says how many trials ran in a minute, and the share of their time outside running models.

    Args:
        space: `pruned:module:function`.
        task: what the model is for.
        seed: of the search, and of the draw of examples that scores pass over.
        options: of `study_options`.
        objectives: by name.
        settings: options of the space.
    """
    folder = options.runs / f"{options.out.name}-{options.trials}-seed{seed}"
    fresh, clock, begun = not folder.exists(), Clock(), time.monotonic()
    study = nas.search(
        space, task, out=folder, strategy="nsga2", trials=options.trials, seed=seed, objectives=tuple(objectives),
        space_options={"seed": seed, **settings}, retrain="none", progress=clock,
    )  # fmt: skip
    if fresh:  # else some trials ran at another time
        log = Table(options.out / "searches.jsonl")
        log.add(
            {
                "seed": seed,
                "trials": len(study.trials),
                "seconds": round(time.monotonic() - begun, 1),
                "seconds_of_trials": round(clock.seconds, 1),
                "trials_a_minute": round(60 * len(study.trials) / clock.seconds, 2),
                "outside_models": round(1 - clock.running.seconds / clock.seconds, 4),
            }
        )
        print(log.rows[-1], flush=True)
    return study


def found_members(study: Study, batches: list[Any], metric: str, options: argparse.Namespace) -> Iterator[Step]:
    """Rows of a front: its members, repaired as they leave a search.

    Args:
        study: a finished search.
        batches: examples of the repair.
        metric: what the search went by; stands in the rows as `validation`.
        options: of `study_options`; they say which members.
    """
    network: Any = study.space.network
    worth = {study.find(row["architecture"]): float(row[metric]) for row in study.front.to_dict("records")}
    for arch in thinned(network.source, list(worth), options):
        yield member(network.source, arch, batches, network.every_size, {"validation": worth[arch]})


def first_members(
    model: nn.Module, example: Any, batches: list[Any], seed: int, options: argparse.Namespace
) -> Iterator[Step]:
    """Rows of the front that a search of a trained model starts from, see `found_members`."""
    space = PrunableSpace(model, example, batches=batches, seed=seed)
    for arch in thinned(space, space.front(), options):
        yield member(space, arch, batches)


def nested_members(
    model: nn.Module, example: Any, batches: list[Any], seed: int, options: argparse.Namespace, every_size: bool = False
) -> Iterator[Step]:
    """Rows of the first front with the weights of one nested training of `options.steps` steps, which all share.

    The weights stand in `options.runs`, so that the training is not made again.
    """
    space = PrunableSpace(model, example, batches=batches[:FIRST], seed=seed)
    path = options.runs / f"{options.out.name}-nested-{options.steps}-seed{seed}.safetensors"
    found: Figures = {"steps": options.steps}
    if not path.exists():
        begun = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        nested = nest(
            space, batches, steps=options.steps, every_size=every_size, seed=seed, path=path.with_suffix(".checkpoint")
        )
        found["training_seconds"] = round(time.monotonic() - begun, 1)
        save_tensors(path, nested.space.model.state_dict())
    shared = space.with_weights(load_file(path))
    norms = any(isinstance(part, _BatchNorm) for part in model.modules())

    def step(arch: Architecture) -> Step:
        def make() -> tuple[nn.Module, Figures]:
            result = shared.finished(arch, every_size)
            if norms:
                recalibrate_(result.model, batches[:FIRST])
            return result.model, {"damage": space.damage(arch), "form": result.summary.form, **found}

        return Step({"label": space.space.label(arch), "steps": options.steps}, make)

    yield from map(step, thinned(space, space.front(), options))


def member(
    space: PrunableSpace, arch: Architecture, batches: list[Any], every_size: bool = False, found: Figures | None = None
) -> Step:
    """The row of a smaller model, repaired as `prune` does by default."""

    def make() -> tuple[nn.Module, Figures]:
        result = space.repaired(arch, batches, every_size)
        return result.model, {"damage": space.damage(arch), "form": result.summary.form, **(found or {})}

    return Step({"label": space.space.label(arch)}, make)


def thinned(space: PrunableSpace, archs: Sequence[Architecture], options: argparse.Namespace) -> list[Architecture]:
    """Those smaller than the model, nearest to equal steps in the logarithm of macs, the largest first.

    There are at most `options.members`, and between `options.left` of the macs.
    """
    whole, (low, high) = space.costs(space.whole)["macs"], options.left
    left = {arch: space.costs(arch)["macs"] / whole for arch in archs if arch != space.whole}
    kept = sorted((arch for arch in left if low <= left[arch] <= high), key=lambda arch: -left[arch])
    if len(kept) <= options.members:
        return kept
    logs = np.log([left[arch] for arch in kept])
    steps = np.linspace(logs[0], logs[-1], options.members)
    return [kept[at] for at in dict.fromkeys(int(np.abs(logs - step).argmin()) for step in steps)]
