"""Each worked example learns: its first metric beats the baseline that it states, by a trained model and not by an untrained one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

import examples.tasks
from nas.training import measure

NAMES = sorted(path.stem for path in Path(examples.tasks.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_it_beats_its_baseline(name: str) -> None:
    torch.manual_seed(0)
    module = import_module(f"examples.tasks.{name}")
    task = module.make()
    task.check(module.model())
    untrained, found = (measure(model, task, task.test)[task.main.name] for model in (module.model(), module.trained()))
    sign = 1 if task.main.higher_is_better else -1
    assert sign * untrained < sign * found > sign * module.BASELINE, f"{untrained} untrained, {found} trained"
