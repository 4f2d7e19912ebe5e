"""Neural architecture search and pruning for PyTorch."""

from nas.data.dataset import load_data
from nas.export import export
from nas.search import run, search
from nas.study.choose import choose
from nas.study.config import configure
from nas.study.study import Study
from nas.subnet import load
from nas.train import train

__all__ = ["Study", "choose", "configure", "export", "load", "load_data", "run", "search", "train"]
