"""Neural architecture search and pruning for PyTorch."""

from nas.config import configure
from nas.data import load_data
from nas.export import export, load
from nas.pick import choose
from nas.search import run, search
from nas.study import Study
from nas.train import train

__all__ = ["Study", "choose", "configure", "export", "load", "load_data", "run", "search", "train"]
