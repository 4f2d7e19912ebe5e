"""How much of each group goes, under budgets."""

from pruners.allocation.alignment import Aligned, AlignedLimits, aligned
from pruners.allocation.alike import Alike, ModuleForm
from pruners.allocation.allocate import (
    ALLOCATIONS,
    Limits,
    check_data,
    check_reachable,
    fewest_kept,
    importance_lost,
    multiple,
    predicts_latency,
)
from pruners.allocation.costs import CostModel
from pruners.allocation.latency import OperatorLatency
from pruners.allocation.ranks import RankedLayer, ranked_layer
from pruners.allocation.selection import SCHEDULES, Evidence, Ranking, Rankings, Selection
from pruners.allocation.targets import (
    ATTEMPTS,
    COUNTED,
    LATENCY,
    MILLISECONDS,
    ONNX_RUNTIME,
    TIGHTER,
    Estimator,
    Measured,
    Reading,
    approach,
    check_targets,
    counted_budgets,
    measured_targets,
    search,
)
from pruners.allocation.timing import measured_ms

__all__ = [
    "ALLOCATIONS", "ATTEMPTS", "COUNTED", "LATENCY", "MILLISECONDS", "ONNX_RUNTIME", "SCHEDULES", "TIGHTER", "Aligned",
    "AlignedLimits", "Alike", "CostModel", "Estimator", "Evidence", "Limits", "Measured", "ModuleForm", "OperatorLatency",
    "RankedLayer", "Ranking", "Rankings", "Reading", "Selection", "aligned", "approach", "check_data", "check_reachable",
    "check_targets", "counted_budgets", "fewest_kept", "importance_lost", "measured_ms", "measured_targets", "multiple",
    "predicts_latency", "ranked_layer", "search",
]  # fmt: skip
