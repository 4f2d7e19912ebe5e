"""Where trials run: this process, processes of this machine, or a cluster, by one contract."""

from nas.engines.config import ENGINES, EngineConfig, open_engine
from nas.engines.contract import Died, Job, Late, Make, Place, Result, Workers, results
from nas.engines.limit import can_limit, limited

__all__ = [
    "ENGINES", "Died", "EngineConfig", "Job", "Late", "Make", "Place", "Result", "Workers", "can_limit", "limited", "open_engine",
    "results",
]  # fmt: skip
