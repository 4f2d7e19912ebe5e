"""What a trial costs: exact counts, latency, estimates and scores of untrained networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from estimators import METRICS, PatchModel
from estimators.counting import CostModel
from estimators.latency import Latency, LatencyTable, check_onnx, compare_latency
from estimators.zero_cost import ZERO_COST, score
from nas.objectives import Estimate
from nas.runtime import stream, torch_seed
from nas.tasks import Task
from pruners.progress import Progress
from search_spaces import Architecture, SearchSpace

TAKE_TURNS = 8
SCORED_IMAGES = 32
Figures = dict[str, Any]


class Scorer(Protocol):
    """Gives each architecture of a batch some figures by name."""

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]: ...


class CostScorer:
    """Exact costs of the network that an architecture describes."""

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.model = space, CostModel(space)

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        if len(archs) == 1:  # as limits ask, many times
            cost = self.model.cost(archs[0])
            return [{name: getattr(cost, name) for name in METRICS}]
        costs = self.model.batch(self.space.encode(archs))
        return [{name: int(values[row]) for name, values in costs.items()} for row in range(len(archs))]


class LatencyScorer:
    """Latency of one image, measured with any weights, in float32 on a CPU; a few networks take turns.

    Args:
        build: the network of an architecture.
        inputs: what it is measured on, see `compare_latency`.
        device: where it runs; ONNX Runtime runs on the CPU.
        runtime: one of `MILLISECONDS`' values.
    """

    def __init__(
        self, build: Callable[[Architecture], nn.Module], inputs: Any, device: torch.device, runtime: str = "eager"
    ) -> None:
        self.build, self.inputs, self.runtime = build, inputs, runtime
        self.device = torch.device("cpu") if runtime == "onnxruntime" else device
        if runtime == "onnxruntime":
            check_onnx()

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures: list[Figures] = []
        for start in range(0, len(archs), TAKE_TURNS):
            progress("ranking", start, len(archs))
            some = archs[start : start + TAKE_TURNS]
            modules = {arch: self.build(arch) for arch in some}
            with torch.autocast("cpu", enabled=False):
                measured = compare_latency(modules, self.inputs, device=self.device, runtime=self.runtime)
            if self.runtime == "eager":
                figures += [latency_figures(measured[arch]) for arch in some]
            else:
                figures += [{"onnxruntime_ms": measured[arch].median_ms} for arch in some]
        return figures


def latency_figures(latency: Latency) -> dict[str, float]:
    """The median in milliseconds, and the quartiles without which it is not given."""
    return {"latency_ms": latency.median_ms, "latency_p25_ms": latency.p25_ms, "latency_p75_ms": latency.p75_ms}


class TableScorer:
    """Latency of one batch as a table of measured blocks predicts it."""

    def __init__(self, space: SearchSpace, table: LatencyTable) -> None:
        self.space, self.table = space, table

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        return [{"latency_ms": self.table.predict(self.space, arch)} for arch in archs]


class UntrainedScorer:
    """Zero-cost scores of the untrained network that an architecture describes, all on the same few training examples.

    A network without a score, say because its gradients vanish, gets the worst one: minus infinity where higher is
    better.
    """

    def __init__(self, space: SearchSpace, names: Sequence[str], task: Task, device: torch.device, seed: int) -> None:
        self.space, self.names, self.device, self.seed = space, names, device, seed
        examples = min(SCORED_IMAGES, len(task.train))
        self.batch = next(task.train.batches(examples, rng=stream(seed, "scored"), device=device))
        self.loss = task.goal.loss

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            seed = torch_seed(self.seed, "scored", arch.key)
            module = self.space.build(arch, seed).to(self.device)
            figures.append({name: self._score(name, module, seed) for name in self.names})
        return figures

    def _score(self, name: str, module: nn.Module, seed: int) -> float:
        value = score(name, module, self.batch, self.loss, seed=seed)
        if math.isfinite(value):
            return value
        return -math.inf if ZERO_COST[name].higher_is_better else math.inf


class PatchScorer:
    """Peak memory and macs of networks whose first blocks may run patch by patch, and how they do.

    Args:
        space: whose networks are chains of blocks.
        limit_bytes: the plan with the fewest macs that keeps it counts; where none does or there is none, that of the lowest peak.
        element_bytes: of an activation; by default that of the dtype.
    """

    def __init__(self, space: SearchSpace, limit_bytes: float | None, element_bytes: int | None) -> None:
        self.model, self.limit_bytes = PatchModel(space, element_bytes=element_bytes), limit_bytes

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            plan = self.model.choose(arch, self.limit_bytes)
            figures.append(
                {
                    "patched_peak_bytes": plan.peak_bytes,
                    "patched_macs": plan.macs,
                    "patches": plan.patches,
                    "patched_blocks": plan.blocks if plan.patches > 1 else 0,
                }
            )
        return figures


class NetworkScorer:
    """Estimates of the network that an architecture describes, for one image."""

    def __init__(self, space: SearchSpace, known: Mapping[str, Estimate]) -> None:
        self.space, self.known = space, known

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        figures = []
        for done, arch in enumerate(archs):
            progress("ranking", done, len(archs))
            module = self.space.build(arch)
            with torch.autocast("cpu", enabled=False):  # the network's own dtypes, whatever the run computes in
                figures.append({name: of(module, self.space.net.inputs) for name, of in self.known.items()})
        return figures
