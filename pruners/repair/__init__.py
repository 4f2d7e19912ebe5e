"""What can be mended without training, and the optimiser's state."""

from pruners.repair.at_once import Shares, repair_at_once_
from pruners.repair.batch_norm import noise, recalibrate_
from pruners.repair.in_order import Repaired
from pruners.repair.least_squares import least_squares_
from pruners.repair.named import NONE, REPAIRS, best_repair
from pruners.repair.optimiser import remap_optimizer
from pruners.repair.synthetic import synthetic

__all__ = [
    "NONE", "REPAIRS", "Repaired", "Shares", "best_repair", "least_squares_", "noise", "recalibrate_", "remap_optimizer",
    "repair_at_once_", "synthetic",
]  # fmt: skip
