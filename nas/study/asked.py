"""What a search or a training is asked for, as its configuration says it: data or a task by name, and objectives with directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nas.data import named_data
from nas.objectives import DIRECTIONS, OBJECTIVES, parse_objectives
from nas.study.config import OBJECT
from nas.study.spaces import make_task
from nas.tasks import Task, as_task
from search_spaces.core import unknown_name


class Named(NamedTuple):
    """What networks are for, as a configuration names it, and the task itself where it is given or was made."""

    data: str | None
    task: str | None
    made: Task | None


def named(data: object, task: str | None = None) -> Named:
    """What `data` and `task` of a search or a training are called in its configuration; a function of `task` is called.

    Raises:
        ValueError: both are given, `data` is nothing that is known, or the function gives no task.
    """
    if isinstance(data, Task):
        if task is not None:
            raise ValueError(f"`data` is a task already, got `task` {task} as well; leave out one")
        return Named(None, OBJECT, data)
    if task is not None:
        if data is not None:
            raise ValueError(f"`task` brings its own data, got `data` {data} as well; leave out one or the other")
        return Named(None, task, make_task(task))
    source, images = (None, None) if data is None else named_data(data)
    return Named(source, None, None if images is None else as_task(images))


def directed(settings: Mapping[str, Any], task: Task | None) -> dict[str, Any]:
    """Settings with the direction of each objective that is a metric of the task; without objectives, its first metric and macs.

    Raises:
        ValueError: an objective that neither the task nor anyone else has; the nearest are offered.
    """
    if task is None:
        return dict(settings)
    asked = settings.get("objectives") or (task.main.name, "macs")
    if isinstance(asked, Mapping):
        asked = tuple(f"{name}:{way}" for name, way in asked.items())
    metrics = {name: metric.objective for name, metric in task.metrics.items()}
    ways = {known: way for way, known in DIRECTIONS.items()}
    found = []
    for known in parse_objectives(tuple(asked), metrics):
        if known.name not in (*metrics, *OBJECTIVES):
            raise unknown_name("objective", known.name, {**metrics, **OBJECTIVES})
        of_task = known.name in metrics and known.name not in OBJECTIVES
        found.append(f"{known.name}:{ways[known.higher_is_better]}" if of_task else known.name)
    return {**settings, "objectives": tuple(found)}
