"""Search spaces by name: built-in, `module:function`, or the smaller models inside a trained one, `pruned:module:function`.

The option `paths` makes ensembles of any of the first two, and `splits` says which blocks they may share; see `search_spaces.ensemble`.
"""

from __future__ import annotations

import inspect
from typing import Any

from nas.pruning import PREFIX, pruned_space
from nas.runtime import import_function
from nas.study.config import OBJECT
from nas.tasks import Task
from search_spaces import SPACES, SearchSpace, ensemble, make_space
from search_spaces.core import image_size_of

OF_ENSEMBLES = ("paths", "splits")


def build_space(name: str, options: dict[str, Any], task: Task | None = None) -> SearchSpace:
    """The search space of that name.

    Args:
        name: a built-in space, `module:function` of a factory that returns a SearchSpace, or `pruned:MODEL` of a trained model.
        options: keyword arguments of the factory; of a trained model see `nas.pruning.pruned_space`. Beside them `paths` and
            `splits` of an ensemble.
        task: what a trained model is for; other spaces do without.

    Raises:
        ValueError: no such space, function or option.
    """
    if name.startswith(PREFIX):
        return pruned_space(name, task, **options)
    of_ensemble = {key: value for key, value in options.items() if key in OF_ENSEMBLES}
    if of_ensemble:
        return ensemble(build_space(name, {k: v for k, v in options.items() if k not in of_ensemble}), **of_ensemble)
    if ":" not in name:
        return make_space(name, **options)
    space = import_function(name)(**options)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{name!r} must return a SearchSpace, got {type(space).__name__}")
    return space


def options_for(name: str, options: dict[str, Any], task: Task | None) -> dict[str, Any]:
    """`options` with the shape of an input and the outputs of `task`, if there is one, where the space's factory asks for them."""
    shape = None if task is None else task.input_shape
    if task is None or shape is None:
        return options
    if name.startswith(PREFIX):
        of_floats = task.example.inputs.is_floating_point()
        return {"input": "x".join(map(str, (1, *shape))), **options} if of_floats else options
    if ":" not in name and name not in SPACES:
        return options
    factory = import_function(name) if ":" in name else SPACES[name].make
    asked = inspect.signature(factory).parameters
    offered: dict[str, Any] = {"in_channels": shape[0]}
    if task.outputs is not None:
        offered |= {"num_classes": task.outputs, "outputs": task.outputs}
    if len(shape) == 3:
        offered |= {"image_size": image_size_of(*shape[1:])}
    elif len(shape) == 2:
        offered |= {"length": shape[1]}
    return {**{name: value for name, value in offered.items() if name in asked}, **options}


def make_task(name: str) -> Task:
    """The task that a function, `module:function`, returns.

    Raises:
        ValueError: there is no such function, it returns none, or the task was given as an object.
    """
    if name == OBJECT:
        raise ValueError("the run's task was given as an object, which no file can bring back; give it again as `data`")
    if ":" not in name:
        raise ValueError(f"`task` must be module:function that returns a task, see `nas.tasks`, got {name!r}")
    found = import_function(name)()
    if not isinstance(found, Task):
        raise ValueError(f"`task` must return a task, see `nas.tasks`, got a {type(found).__name__} from {name}")
    return found
