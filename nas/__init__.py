"""Neural architecture search and pruning for PyTorch."""

from nas.data import load_data
from nas.export import export
from nas.loop import Loop
from nas.prune import prune
from nas.search import run, search
from nas.study import Study, choose, configure
from nas.subnet import load
from nas.train import train

__all__ = ["Loop", "Study", "choose", "configure", "export", "load", "load_data", "prune", "run", "search", "train"]


def __dir__() -> list[str]:
    """The verbs, without the rooms that they call."""
    return __all__
