"""Neural architecture search and pruning for PyTorch."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.data import load_data
    from nas.export import export
    from nas.loop import Loop
    from nas.prune import prune
    from nas.search import run, search
    from nas.study import Study, choose, configure
    from nas.subnet import load
    from nas.train import train

__all__ = ["Loop", "Study", "choose", "configure", "export", "load", "load_data", "prune", "run", "search", "train"]

_HOMES = {
    "Loop": "loop", "Study": "study", "choose": "study", "configure": "study", "export": "export", "load": "subnet",
    "load_data": "data", "prune": "prune", "run": "search", "search": "search", "train": "train",
}  # fmt: skip


class _Face(ModuleType):
    """Imports a verb when it is first asked for: a command that is stopped at once has imported nothing yet.

    A file that is named as its verb does not take the verb's place.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        verb = getattr(import_module(f"{self.__name__}.{_HOMES[name]}"), name)
        setattr(self, name, verb)
        return verb

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """The verbs, without the rooms that they call."""
        return __all__


sys.modules[__name__].__class__ = _Face
