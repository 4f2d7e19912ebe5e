"""Figures that need neither data nor training, and the part of a space that they allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from estimators import METRICS
from estimators.latency import load_table
from nas.objectives import PATCHED, element_bytes, estimates
from nas.scoring.bounds import Remembered, check_kept, within
from nas.scoring.contract import contract
from nas.scoring.costs import LatencyScorer, NetworkScorer, PatchScorer, Scorer, TableScorer
from nas.study import Study
from pruners.allocation import MILLISECONDS
from search_spaces import SearchSpace

MEASURED = {"latency_ms": "measured.jsonl", "onnxruntime_ms": "measured_onnxruntime.jsonl"}
"""Latencies that limits were kept by."""


def cost_scorers(study: Study, device: torch.device) -> list[Scorer]:
    """What gives trials the figures that need neither data nor training, the cheapest first; exact costs are the first."""
    config, space = study.config, study.space
    used = (*config.objectives, *config.limits)
    scorers: list[Scorer] = [contract(space).costs]
    if config.latency_table is not None:
        scorers.append(TableScorer(space, load_table(config.latency_table, space)))
    if known := estimates(used, config.hardware):
        scorers.append(Remembered(NetworkScorer(space, known)))
    if set(used) & set(PATCHED):
        limit = config.limits.get("patched_peak_bytes")
        scorers.append(Remembered(PatchScorer(space, limit, element_bytes(config.hardware))))
    for name in config.timed:
        kept = study.folder / MEASURED[name] if name in config.limits else None
        measured = LatencyScorer(contract(space).timed, space.net.inputs, device, MILLISECONDS[name])
        scorers.append(Remembered(measured, kept))
    return scorers


def allowed(study: Study, space: SearchSpace, costs: Sequence[Scorer]) -> SearchSpace:
    """The part of a run's space that keeps its limits; costs are those of `cost_scorers`.

    Raises:
        ValueError: no architecture is found to keep them.
    """
    config, limits = study.config, study.config.limits
    exact = set(limits) <= set(METRICS)
    quick = exact or (set(limits) <= {*METRICS, "latency_ms"} and config.latency_table is not None)
    asked = costs[:1] if exact else costs
    part = within(space, limits, asked, dear=not quick)
    check_kept(part, space, limits, asked)
    return part
