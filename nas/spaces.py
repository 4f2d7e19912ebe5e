"""Search spaces by name: built-in, or `module:function`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.data import ImageData
from search_spaces import SPACES, SearchSpace, make_space


def build_space(name: str, options: dict[str, Any]) -> SearchSpace:
    """The search space of that name.

    Args:
        name: a built-in space, or `module:function` of a factory that returns a SearchSpace.
        options: keyword arguments of the factory.

    Raises:
        ValueError: no such space, function or option.
    """
    if ":" not in name:
        return make_space(name, **options)
    space = import_function(name)(**options)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{name!r} must return a SearchSpace, got {type(space).__name__}")
    return space


def options_for(name: str, options: dict[str, Any], data: ImageData) -> dict[str, Any]:
    """`options` with the image shape and classes of `data` added where the space's factory asks for them and none are given."""
    factory = import_function(name) if ":" in name else SPACES.get(name)
    if factory is None:
        return options
    channels, height, width = data.input_shape
    if height != width:
        raise ValueError(f"images must be square for a search space, got {height}x{width}; set `image_size`")
    offered = {"in_channels": channels, "num_classes": data.num_classes, "image_size": height}
    asked = inspect.signature(factory).parameters
    return {**{name: value for name, value in offered.items() if name in asked}, **options}


def import_function(name: str) -> Callable[..., Any]:
    """The function behind `module:function`; modules in the current folder are found too.

    Raises:
        ValueError: the module cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot import {module_name!r} of {name!r}: {error}") from error
    except AttributeError:
        raise ValueError(f"module {module_name!r} has no function {function_name!r}") from None
    if not callable(function):
        raise ValueError(f"{name!r} must be a function, got {type(function).__name__}")
    return function
