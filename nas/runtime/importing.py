"""Functions by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def import_function(name: str) -> Callable[..., Any]:
    """The function behind `module:function`. Importing runs the module: a name that a file says goes through `check_trust` first.

    Raises:
        ValueError: the module cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot import {module_name!r} of {name!r}: {error}") from error
    except AttributeError:
        raise ValueError(f"module {module_name!r} has no function {function_name!r}") from None
    if not callable(function):
        raise ValueError(f"{name!r} must be a function, got {type(function).__name__}")
    return function
